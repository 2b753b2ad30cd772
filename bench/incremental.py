"""What does a change to 1 % of 50,000 photos cost, beside a run from scratch?

Photos of 320 x 240 (about 25 kB) in one folder a class, processed to 64 x 64. After a run from
scratch 1 % of them are relabelled (moved to another folder), then 1 % added, then 1 % removed;
each time the stages run again. At the end a second project runs from scratch and has to hold the
same bytes.
Goal: 10 times faster than from scratch, for preprocess and for download and preprocess together.
`met` is judged by the clock, so on a machine that does nothing else; `work`, seconds of a core,
says more where other things run.

    python -m bench.incremental [--images 50000]      (some five minutes, 5 GB of disk)
"""

import argparse
import hashlib
import tempfile
from pathlib import Path

from bench.measure import report, run_stage, write_parameters
from bench.photos import numbered, write_photos

GOAL = 10
STAGES = ("download", "preprocess")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--size", type=int, default=64, help="side of the processed images")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        project, scratch = Path(folder, "project"), Path(folder, "scratch")
        paths = write_photos(project / "data/inbox", options.images, size=(320, 240))
        for one in (project, scratch):
            one.mkdir(exist_ok=True)
            # Both read the same folder, by the same path.
            inbox = {"source": "folder", "path": str(project / "data/inbox")}
            size = {"size": [options.size, options.size], "color": "rgb"}
            write_parameters(one, download=inbox, preprocess=size)
        run(project, "from scratch")
        changes = {}
        for change in (relabel, add, remove):
            change(paths)
            changes[change.__name__] = run(project, change.__name__)
        # One comparison for the three of them: what came out of reusing, reusing, reusing.
        scratch_run = run(scratch, "from scratch, after the changes")
        same = digest(project / "data") == digest(scratch / "data")
    ratio = {
        what: {key: round(scratch_run[key] / run[key], 1) for key in scratch_run}
        for what, run in changes.items()
    }
    asked = [one[key] for one in ratio.values() for key in ("preprocess", "both")]
    report(
        "incremental",
        images=options.images,
        seconds={"scratch": scratch_run, **changes},
        ratio=ratio,
        goal=GOAL,
        byte_identical=same,
        met=same and min(asked) >= GOAL,
    )


def run(project: Path, what: str) -> dict[str, float]:
    """Seconds of download, of preprocess, of both; and the work of both, in seconds of a core."""
    runs = {stage: run_stage(stage, project) for stage in STAGES}
    seconds = {stage: round(one.seconds, 2) for stage, one in runs.items()}
    seconds["both"] = round(sum(seconds.values()), 2)
    for stage, one in runs.items():
        seconds[f"{stage} work"] = round(one.work, 2)
    print(f"{what}: {seconds}", flush=True)
    return seconds


def relabel(paths: list[Path]) -> None:
    """Move each hundredth photo to the next class."""
    for number in range(0, len(paths), 100):
        path = paths[number]
        paths[number] = path.parent.with_name(f"class{(number + 1) % 10}") / path.name
        path.rename(paths[number])


def add(paths: list[Path]) -> None:
    """Add a photo to each hundred."""
    for number in range(50, len(paths), 100):
        path = paths[number]
        path.with_stem(path.stem + "-new").write_bytes(numbered(path.read_bytes(), 10**9 + number))


def remove(paths: list[Path]) -> None:
    """Remove each hundredth photo, others than were relabelled."""
    for number in range(75, len(paths), 100):
        paths[number].unlink()


def digest(data: Path) -> dict[str, str]:
    """SHA-256 of every file of raw/ and processed/."""
    return {
        str(path.relative_to(data)): hashlib.sha256(path.read_bytes()).hexdigest()
        for part in ("raw", "processed")
        for path in sorted((data / part).iterdir())
    }


if __name__ == "__main__":
    main()
