"""What DVC costs for 60,000 small images: this pipeline's archives beside a plain folder.

Times of DVC's everyday commands on the pipeline's raw data and on the same images tracked with
`dvc add` as one file each, interleaved; of the one zip with all of them in a repository that
holds nothing else, the least that DVC takes; and of a `dvc repro` with nothing to do, beside that
of the digits job, and of a pipeline of one small stage, the least that DVC takes. Goals: push 20
times as fast, `dvc repro` at most 1.3 times the digits job's, and that at most a second.

    python -m bench.dvc_overhead [--data ZIP]      (about 8 minutes on two cores)
"""

import argparse
import io
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml

from bench.measure import ROOT, report

IMAGES = 60_000
PUSH_GOAL = 20
NOOP_GOAL = 1.3
SECONDS_GOAL = 1.0  # with nothing to do


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="zip of class folders; else noise is made")
    parser.add_argument("--rounds", type=int, default=3, help="times that all is measured")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        data = arguments.data or make_images(folder / "noise.zip")
        digits = make_project(folder / "digits", source="digits")
        ours = make_project(folder / "ours", source="archive", path=str(data.resolve()))
        small = make_small(folder / "small")
        plain, single = folder / "plain", folder / "single"
        add(plain, "images", lambda images: extract(data, images))
        add(single, "images.zip", lambda images: shutil.copyfile(data, images))
        times = measure(digits, small, ours, plain, single, arguments.rounds)
    median = {
        side: {name: round(statistics.median(values), 2) for name, values in commands.items()}
        for side, commands in times.items()
    }
    push = median["plain"]["push"] / median["ours"]["push"]
    seconds = median["digits"]["repro"]
    noop = median["ours"]["repro"] / seconds
    report(
        "dvc_overhead",
        **median,
        ratio={
            "push": round(push, 1),
            "repro": round(noop, 2),
            "repro to the least": round(seconds / median["small"]["repro"], 2),
        },
        goal={"push": PUSH_GOAL, "repro": NOOP_GOAL, "seconds of repro": SECONDS_GOAL},
        met=push >= PUSH_GOAL and noop <= NOOP_GOAL and seconds <= SECONDS_GOAL,
    )


def measure(
    digits: Path, small: Path, ours: Path, plain: Path, single: Path, rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Seconds of each command, `rounds` times each, the sides taking turns."""
    times: dict = {"digits": {}, "small": {}, "ours": {}, "plain": {}, "single": {}}

    def clock(side: Path, name: str, *command: str) -> None:
        start = time.perf_counter()
        dvc(side, *command)
        seconds = time.perf_counter() - start
        times[side.name].setdefault(name, []).append(seconds)
        print(f"  {side.name}: dvc {' '.join(command)}: {seconds:.1f} s", flush=True)

    for side in (digits, small, ours):
        dvc(side, "repro", "--quiet")  # build the indexes of the first run after a change
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", flush=True)
        for side in (digits, small, ours):
            clock(side, "repro", "repro")
        for side, target in ((ours, "data/raw"), (plain, "images"), (single, "images.zip")):
            clock(side, "status", "status")
            remote = side.parent / f"remote-{side.name}-{number}"
            dvc(side, "remote", "add", "--force", "--default", "local", str(remote))
            clock(side, "push", "push", target)
            shutil.rmtree(remote)
            if (side / target).is_dir():
                shutil.rmtree(side / target)
            else:
                (side / target).unlink()
            clock(side, "checkout", "checkout", target)
    return times


def make_project(folder: Path, **download: str) -> Path:
    """A copy of this project in `folder`, built once with the given download settings."""
    print(f"{folder.name}: dvc repro", flush=True)
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    parameters = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    parameters["download"] |= download
    parameters["train"]["epochs"] = 1
    (folder / "params.yaml").write_text(yaml.safe_dump(parameters), encoding="utf-8")
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=start")
    dvc(folder, "repro")
    return folder


def make_small(folder: Path) -> Path:
    """A repository with a pipeline of one stage, which has run."""
    print(f"{folder.name}: dvc repro", flush=True)
    start(folder)
    dvc(folder, "stage", "add", "--run", "--name", "one", "--outs", "one", "echo 1 > one")
    return folder


def add(folder: Path, name: str, make: Callable[[Path], object]) -> None:
    """A repository that tracks the file or directory `name`, which `make` makes, and no more."""
    print(f"{folder.name}: dvc add", flush=True)
    start(folder)
    make(folder / name)
    dvc(folder, "add", name)


def start(folder: Path) -> None:
    """A repository that holds nothing."""
    folder.mkdir()
    git(folder, "init", "--quiet")
    dvc(folder, "init")


def extract(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as content:
        content.extractall(folder)


def make_images(path: Path) -> Path:
    """A zip of `IMAGES` 32x32 JPEGs of smooth noise in ten classes, about 900 bytes each."""
    from PIL import Image

    print(f"making {IMAGES:,} images", flush=True)
    random = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(IMAGES):
            rough = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8))
            file = io.BytesIO()
            rough.resize((32, 32), Image.Resampling.BICUBIC).save(file, "jpeg", quality=85)
            archive.writestr(f"class {number % 10}/{number:05}.jpg", file.getvalue())
    return path


def git(folder: Path, *command: str) -> None:
    identity = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    subprocess.run(["git", *identity, *command], cwd=folder, check=True)


def dvc(folder: Path, *command: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *command],
        cwd=folder,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(folder), "DVC_NO_ANALYTICS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"dvc {' '.join(command)} failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    main()
