"""Does memory stay flat as the images grow tenfold? Peak of each stage, its workers included.

A folder of photos (200 x 150, processed to 64 x 64), then one of ten times as many, through
download, preprocess, split and, on a model trained for a few steps, evaluate. Both folders are
large enough for preprocess to start a process for every core. Goals: no stage needs more than
1.25 times the memory (or 64 MiB more) for ten times the images, and those without TensorFlow
stay under 1 GiB.

    python -m bench.memory [--images 12000] [--stages download,preprocess,split]
"""

import argparse
import tempfile
from pathlib import Path

from bench.measure import report, run_stage, write_parameters
from bench.photos import write_photos
from stages.store.raw import read_manifest

STAGES = ("download", "preprocess", "split", "train", "evaluate")
WITH_TENSORFLOW = ("train", "evaluate")
GROWTH, SLACK_MIB, LIMIT_MIB = 1.25, 64, 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=12_000, help="in the smaller folder")
    parser.add_argument("--stages", default=",".join(STAGES))
    options = parser.parse_args()
    stages = options.stages.split(",")
    peaks = {}
    for count in (options.images, 10 * options.images):
        with tempfile.TemporaryDirectory() as folder:
            peaks[count] = measure(Path(folder), count, stages)
    few, many = peaks.values()
    ratio = {stage: round(many[stage] / few[stage], 2) for stage in stages}
    met = all(
        many[stage] <= max(GROWTH * few[stage], few[stage] + SLACK_MIB)
        and (stage in WITH_TENSORFLOW or many[stage] < LIMIT_MIB)
        for stage in stages
        if stage != "train"  # holds images up to train.memory_limit: see bench.streaming
    )
    goal = f"{GROWTH} x or {SLACK_MIB} MiB more; {LIMIT_MIB} MiB without TensorFlow"
    report("memory", peak_mib=peaks, ratio=ratio, goal=goal, met=met)


def measure(folder: Path, count: int, stages: list[str]) -> dict[str, int]:
    """Peak MiB of each stage on `count` photos."""
    write_photos(folder / "data/inbox", count, size=(200, 150))
    write_parameters(
        folder,
        download={"source": "folder"},
        preprocess={"size": [64, 64], "color": "rgb"},
        model={"name": "gap"},
        train={"epochs": 1, "debug": {"max_steps": 20}},
    )
    peaks = {}
    for stage in stages:
        run = run_stage(stage, folder, watch_memory=True)
        if stage == "download":
            found = len(read_manifest(folder / "data/raw"))
            assert found == count, f"{found:,} images were read, not {count:,}"
        peaks[stage] = round(run.peak)
        print(f"{count:,} images, {stage}: {run.seconds:.1f} s, {run.peak:.0f} MiB", flush=True)
    return peaks


if __name__ == "__main__":
    main()
