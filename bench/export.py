"""Does an exported model give the same answers? On every test image, read from its file.

The digits, and with --data archives of train/ and test/ folders: MNIST and CIFAR-10, known by their
names, others are photos (recipes as in bench.label_errors). Each is trained for a few epochs, and
the real stages judge it and export it, twice: to ONNX, and to LiteRT in float32, float16 and int8.

Goals: of the formats in float32 no probability differs by more than 1e-5 and the class is the same
for every test image; int8 loses at most 0.5 points of accuracy; both runs write the same bytes.

    python -m bench.export [--data ZIP ...]      (two minutes; with MNIST and CIFAR-10, ten)
"""

import argparse
import hashlib
import json
import tempfile
from pathlib import Path

from bench.label_errors import recipe_of
from bench.measure import report, run_stage
from bench.project import recipe_settings, run_recipe
from stages.files import EXPORT, PARITY, TIMES

FLOAT32, OTHERS = ("onnx", "litert"), ("litert_float16", "litert_int8")
DIFFERENCE_GOAL, LOSS_GOAL = 1e-5, 0.005
# Nothing fails here: what is past a goal shall be seen.
NO_LIMITS = {"float_difference": 1.0, "agreement": 0.0, "int8_loss": 1.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="zips of train/ and test/")
    parser.add_argument("--epochs", type=int, default=2, help="of archives, at most (2)")
    options = parser.parse_args()
    found = {"digits": exported("digits", None, None)}
    for archive in options.data:
        found[archive.stem] = exported(recipe_of(archive), archive, options.epochs)
    float32 = [of["formats"][name] for of in found.values() for name in FLOAT32]
    int8 = [of["formats"]["litert_int8"] for of in found.values()]
    report(
        "export",
        sets=found,
        ratio=max(of["largest_difference"] for of in float32) / DIFFERENCE_GOAL,
        goal={"largest_difference": DIFFERENCE_GOAL, "agreement": 1, "int8_loss": LOSS_GOAL},
        met={
            "largest_difference": all(
                of["largest_difference"] <= DIFFERENCE_GOAL for of in float32
            ),
            "agreement": all(of["agreement"] == 1 for of in float32),
            "int8_loss": all(of["broken"] - of["fixed"] <= LOSS_GOAL * of["count"] for of in int8),
            "same_bytes": all(of["same_bytes"] for of in found.values()),
        },
    )


def exported(recipe: str, archive: Path | None, epochs: int | None) -> dict:
    """Train by `recipe`, for at most so many `epochs`, and export; figures of each format."""
    print(archive.stem if archive else recipe, flush=True)
    longest = recipe_settings(recipe)["train"]["epochs"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run_recipe(
            recipe,
            archive,
            folder,
            train__epochs=min(longest, epochs or longest),
            export__formats=[*FLOAT32, *OTHERS],
            export__limits=NO_LIMITS,
        )
        runs = []
        for _ in range(2):
            seconds = run_stage("export", folder).seconds
            runs.append(hashes(folder))
            print(f"  export, {seconds:.0f} s", flush=True)
        summary = json.loads((folder / PARITY).read_text(encoding="utf-8"))
        parity = {name: of["figures"][0] for name, of in summary.items()}
        times = json.loads((folder / TIMES).read_text(encoding="utf-8"))["export"]
    differ = sorted(name for name in runs[0] | runs[1] if runs[0].get(name) != runs[1].get(name))
    speeds = {name: times[name] for name in ("keras", *parity)}
    for name, of in parity.items():
        print(f"  {name}: {of} {speeds[name]}", flush=True)
    print(f"  keras: {speeds['keras']}", flush=True)
    print(f"  both runs write the same bytes{f', but for {differ}' if differ else ''}", flush=True)
    return {"recipe": recipe, "formats": parity, "speeds": speeds, "same_bytes": not differ}


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file that the stage wrote, by path; the table of times is none of them."""
    files = [folder / PARITY, *(folder / EXPORT).rglob("*")]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files)
        if path.is_file()
    }


if __name__ == "__main__":
    main()
