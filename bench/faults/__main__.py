"""Does anything get past the pipeline that it should have read, refused or resumed?

    images    mutated files of every format that Pillow writes, decoded as by preprocess, and
              some (images_staged) through the real download and preprocess
    archives  hostile and damaged zips and tars through the real download and preprocess
    params    malformed params.yaml, and some (params_staged) read by a real stage
    kills     stages killed while they change files, run again, and compared byte for byte
    models    foreign and damaged model files for stages.predict
    photos    photo sets as people have them, each file accounted for

Every case ends as accepted, as rejected with a reason on one line, or as a fault: a traceback, a
crash, a hang of 10 s, more than 1 GiB, a file written outside the project, an image lost without
a word, a byte that differs. Goal: no fault. Cases depend on the seed and their number alone;
`--only images:1234` runs one, shows what came of it, and leaves its files.

    python -m bench.faults      (some seven minutes on two cores)
    python -m bench.faults --images 10000 --archives 200 --params 1000 --kills 100
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from bench.faults import archives, images, kills, models, params, photos
from bench.faults.cases import Outcome, Tally
from bench.faults.watched import SECONDS, Done, in_threads, run_functions
from bench.measure import report

# Cases of a run without options: as many as end within ten minutes.
DEFAULTS = {
    "images": 6000,
    "archives": 184,
    "params": 400,
    "photos": 3,
    "kills": 30,
    "models": 60,
}
# What is made of others of the same number: some of them through the real stages.
STAGED = {"images": "images_staged", "params": "params_staged"}
BATCH = 60  # mutated images in a project of images_staged
IMAGES_A_BATCH = 2000  # of them so many are decoded alone for each batch

Cases = Iterator[tuple[int, Outcome]]
CORES = os.cpu_count() or 1


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for kind, count in DEFAULTS.items():
        text = f"cases of this kind; 0 leaves it out (default: {count})"
        parser.add_argument(f"--{kind}", type=int, default=count, metavar="N", help=text)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="KIND:NUMBER", help="run one case and keep its files")
    options = parser.parse_args()
    if options.only:
        kind, _, number = options.only.partition(":")
        if kind not in KINDS or not number.isdecimal():
            parser.error(f"--only {options.only}: should be a kind and a number, as images:1234")
        run_one(kind, int(number), options.seed)
    else:
        report("faults", **run({kind: getattr(options, kind) for kind in DEFAULTS}, options.seed))


def run(counts: dict[str, int], seed: int, options: dict[str, dict] | None = None) -> dict:
    """Run so many cases of each kind and return the figures of the last line.

    `options` are further arguments, by kind, of the functions in `KINDS`.
    """
    results: dict = {}
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        for kind, numbers in plan(counts, seed):
            started, tally = time.monotonic(), Tally(kind, len(numbers))
            more = (options or {}).get(kind, {})
            for number, outcome in KINDS[kind](numbers, seed, Path(folder, kind), **more):
                tally.add(number, outcome)
            results[kind] = tally.figures() | {"seconds": round(time.monotonic() - started)}
            shutil.rmtree(Path(folder, kind), ignore_errors=True)
    met = all(result["other"] == 0 for result in results.values())
    return {"seed": seed, **results, "goal": "other: 0", "met": met}


def run_one(kind: str, number: int, seed: int) -> None:
    """Run one case, print all that came of it, and leave its files."""
    folder = Path(tempfile.mkdtemp(prefix=f"faults-{kind}-{number}-"))
    if kind == "images":
        what, data, _ = images.case(seed, number)
        (folder / "image").write_bytes(data)
        print(what)
    for _, outcome in KINDS[kind]([number], seed, folder / "case"):
        print(f"{outcome.verdict}: {outcome.detail}\n{outcome.log}".rstrip())
    print(f"its files are in {folder}")


def plan(counts: dict[str, int], seed: int) -> Iterator[tuple[str, Sequence[int]]]:
    """The kinds to run and the numbers of their cases."""
    for kind, count in counts.items():
        if count:
            yield kind, range(count)
            if kind == "images":
                yield STAGED[kind], range(-(-count // IMAGES_A_BATCH))
            elif kind == "params":
                yield STAGED[kind], params.sample(seed, count)


def run_images(
    numbers: Sequence[int],
    seed: int,
    folder: Path,
    decode: Callable | None = None,
    seconds: float = SECONDS,
) -> Cases:
    """`decode` is that of the stages (None), or one whose faults this harness has to find."""
    function = partial(images.run_case, decode=decode)
    return run_functions(function, (seed,), numbers, CORES, seconds)


def run_images_staged(numbers: Sequence[int], seed: int, folder: Path) -> Cases:
    def run_case(number: int) -> Outcome:
        return images.run_stages(seed, number, BATCH, folder / str(number))

    return in_threads(run_case, numbers, CORES)


def run_archives(numbers: Sequence[int], seed: int, folder: Path) -> Cases:
    return in_threads(partial(archives.run_case, seed, folder), numbers, CORES)


def run_params(numbers: Sequence[int], seed: int, folder: Path) -> Cases:
    return run_functions(params.run_case, (seed, folder), numbers, CORES)


def run_params_staged(numbers: Sequence[int], seed: int, folder: Path) -> Cases:
    return in_threads(partial(params.run_command, seed, folder), numbers, CORES)


def run_photos(numbers: Sequence[int], seed: int, folder: Path) -> Cases:
    return in_threads(partial(photos.run_case, seed, folder), numbers, CORES)


def run_kills(
    numbers: Sequence[int], seed: int, folder: Path, stages: Sequence[str] = kills.STAGES
) -> Cases:
    subject = kills.Subject(folder, stages)
    return in_threads(partial(subject.run_case, seed), numbers, CORES)


def run_models(
    numbers: Sequence[int],
    seed: int,
    folder: Path,
    sound: bytes | None = None,
    basis: Done | None = None,
) -> Cases:
    """`sound` is a model of this pipeline (None: train one), `basis` as `models.baseline` gives."""
    folder.mkdir(parents=True)
    sound = sound or kills.trained_model(folder / "trained")
    basis = basis or models.baseline(folder)
    return in_threads(partial(models.run_case, seed, folder, sound, basis), numbers, CORES)


KINDS: dict[str, Callable[..., Cases]] = {
    "images": run_images,
    "images_staged": run_images_staged,
    "archives": run_archives,
    "params": run_params,
    "params_staged": run_params_staged,
    "photos": run_photos,
    "kills": run_kills,
    "models": run_models,
}


if __name__ == "__main__":
    main()
