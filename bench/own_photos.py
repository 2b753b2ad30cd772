"""How good and how fast is a classifier of a few hundred photos, beside the usual ways to one?

The same photos with the same split, from the archive to the page by `dvc repro` in a copy of this
project: by recipes/own-photos.yaml (the last layer on features computed once); by frozen epochs of
the same network, as in most tutorials; by the nets of two tutorials from scratch, as the recipes
have them; and by scikit-learn on HOG features. Then by 5, 20, 50 and 100 photos of a class. At
last 1,400 photos of 500x375: from the folder to the page, with another last layer, with 14 photos
more, and by frozen epochs, of which two are run: the others take as long as the second.

Goals: 95 % in under 60 s; 10 times as fast as frozen epochs and no worse by McNemar's test; 1,400
photos in under 120 s, features in under 60 s, another last layer in under 15 s; 14 photos more cost
14, with the same bytes as from scratch.

    python -m bench.own_photos --data ZIP      (ten minutes; train/ and test/ folders)
"""

import argparse
import csv
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from bench.dvc_overhead import git
from bench.measure import ROOT, report
from bench.photos import write_photos
from bench.project import recipe_settings
from stages.metrics.paired import mcnemar

ACCURACY_GOAL, SECONDS_GOAL, SPEED_GOAL = 0.95, 60, 10
MANY, MANY_GOAL, FEATURES_GOAL, AGAIN_GOAL, ADDED = 1400, 120, 60, 15, 14
PHOTOS = (5, 20, 50, 100)
EPOCHS = 25  # of the tutorial's
FROM_SCRATCH = ("elephants-vs-cars", "blood-cells")


class Outcome(NamedTuple):
    """Seconds of a `dvc repro` and of each stage in it, and what came out."""

    seconds: float
    stages: dict[str, float]
    said: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="zip of train/ and test/ folders")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the peers")
    arguments = parser.parse_args()
    archive = {"source": "archive", "path": str(arguments.data.resolve()), "url": None}
    with tempfile.TemporaryDirectory() as folder:
        project = copy_of_this_project(Path(folder, "project"))
        settings = recipe_settings("own-photos")
        settings["download"] |= archive
        ours = build(project, settings, "recipes/own-photos.yaml")
        accuracy, right = judged(project)
        curve = list(csv.DictReader((project / "reports/train/learning_curve.csv").open()))
        sets = read_pixels(project)
        peers = {}
        scratch = {
            f"recipes/{name}.yaml": from_scratch(name, settings, arguments.epochs)
            for name in FROM_SCRATCH
        }
        frozen = {"frozen epochs": frozen_epochs(settings, arguments.epochs)}
        for name, changed in (frozen | scratch).items():
            outcome = build(project, changed, name)
            found, others = judged(project)
            seconds = outcome.stages["train"]
            if name in frozen:
                seconds = frozen_seconds(project, outcome, arguments.epochs)
            peers[name] = {
                "accuracy": found,
                "train_seconds": seconds,
                "mcnemar_p": round(
                    mcnemar(int((right & ~others).sum()), int((others & ~right).sum())), 3
                ),
            }
            print(f"  {found:.1%}, train {seconds:.0f} s", flush=True)
        peers["HOG features"] = hog(sets)
        many = fourteen_hundred(Path(folder), arguments.epochs)
    learned = ours.stages["features"] + ours.stages["train"]
    ratio = peers["frozen epochs"]["train_seconds"] / learned
    by_photos = {row["photos"]: float(row["accuracy"]) for row in curve}
    no_worse = accuracy >= peers["frozen epochs"]["accuracy"] or (
        peers["frozen epochs"]["mcnemar_p"] > 0.05
    )
    report(
        "own_photos",
        ours={"accuracy": accuracy, "seconds": ours.seconds, "stages": ours.stages},
        peers=peers,
        by_photos_of_a_class={n: by_photos.get(str(n)) for n in PHOTOS},
        many=many,
        ratio=round(ratio, 1),
        goal={
            "accuracy": ACCURACY_GOAL,
            "seconds": SECONDS_GOAL,
            "ratio": SPEED_GOAL,
            "many": [MANY_GOAL, FEATURES_GOAL, AGAIN_GOAL],
        },
        met={
            "accuracy": accuracy >= ACCURACY_GOAL,
            "seconds": ours.seconds < SECONDS_GOAL,
            "ratio": ratio >= SPEED_GOAL and no_worse,
            "many": many["seconds"] < MANY_GOAL and many["stages"]["features"] < FEATURES_GOAL,
            "again": many["another_last_layer"] < AGAIN_GOAL,
            "added": many["added"] == [ADDED, ADDED] and many["same_bytes"],
        },
    )


def frozen_epochs(settings: dict, epochs: int) -> dict:
    """The tutorials' way: the backbone runs over varied photos in every epoch."""
    return settings | {
        "model": settings["model"] | {"backbone": "trained"},
        "augment": settings["augment"] | {"rotation": 15.0, "zoom": 0.2},
        "train": settings["train"]
        | {"epochs": epochs + 1, "fine_tune": {"frozen_epochs": epochs}, "monitor": "val/loss"},
    }


def from_scratch(recipe: str, settings: dict, epochs: int) -> dict:
    """The settings of `recipe`, whose net has seen nothing before, on the same sides."""
    own = recipe_settings(recipe)
    own["train"]["epochs"] = min(own["train"]["epochs"], epochs)
    own["train"]["save_epochs"] = False
    return own | {"download": settings["download"], "split": settings["split"]}


def copy_of_this_project(folder: Path) -> Path:
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    for name in filter(None, files):
        if (ROOT / name).is_file() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=start")
    return folder


def build(project: Path, settings: dict, what: str) -> Outcome:
    """`dvc repro` with `settings`."""
    print(what, flush=True)
    (project / "params.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    started = at = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    stages: dict[str, float] = {}
    running, lines = None, []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if found := re.match(r"Running stage '(\w+)'", line):
            at, running = time.perf_counter(), found[1]
        if running and line.startswith("Updating lock file"):
            stages[running] = round(time.perf_counter() - at, 1)
            running = None
    if process.wait():
        raise SystemExit("".join(lines[-20:]) + f"error: dvc repro failed in {project}")
    outcome = Outcome(round(time.perf_counter() - started, 1), stages, "".join(lines))
    print(f"  {outcome.seconds:.1f} s: {stages}", flush=True)
    return outcome


def judged(project: Path) -> tuple[float, np.ndarray]:
    """Accuracy on the test images, and which of them are right, in the order of their ids."""
    rows = list(csv.DictReader((project / "reports/predictions.csv").open(encoding="utf-8")))
    right = np.array(
        [row["actual"] == row["predicted"] for row in sorted(rows, key=lambda r: r["id"])]
    )
    return round(float(right.mean()), 4), right


def read_pixels(project: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pixels and labels by side."""
    from stages.store.image_set import load_image_set

    sets = {}
    for side in ("train", "test"):
        images = load_image_set(project / "data/processed", project / f"data/splits/{side}.csv")
        sets[side] = images.images(), images.labels
    return sets


def hog(sets: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict:
    """A linear support vector machine on histograms of gradients."""
    from skimage.feature import hog as histogram
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    print("HOG features", flush=True)
    started = time.perf_counter()
    seen = {
        side: (
            np.array([histogram(one, pixels_per_cell=(16, 16), channel_axis=-1) for one in images]),
            labels,
        )
        for side, (images, labels) in sets.items()
    }
    model = make_pipeline(StandardScaler(), LinearSVC(C=0.01, random_state=0)).fit(*seen["train"])
    accuracy = round(float(model.score(*seen["test"])), 4)
    seconds = round(time.perf_counter() - started, 1)
    print(f"  {accuracy:.1%} in {seconds} s", flush=True)
    return {"accuracy": accuracy, "seconds": seconds}


def frozen_seconds(project: Path, outcome: Outcome, epochs: int) -> float:
    """What train takes for so many frozen epochs: those that were not run take as long as the last
    of those that were, and the epoch after them, which trains the whole net, does not count."""
    times = json.loads((project / "reports/timing.json").read_text(encoding="utf-8"))
    *frozen, whole = (epoch["seconds"] for epoch in times["train"]["epochs"])
    return round(outcome.stages["train"] - whole + (epochs - len(frozen)) * frozen[-1], 1)


def fourteen_hundred(folder: Path, epochs: int) -> dict:
    """A larger folder: from scratch, with another last layer, with a few photos more."""
    inbox = folder / "inbox"
    paths = write_photos(inbox, MANY, classes=2, size=(500, 375))
    late, paths = paths[-ADDED:], paths[:-ADDED]
    aside = folder / "aside"
    aside.mkdir()
    for path in late:
        path.rename(aside / path.name)
    settings = recipe_settings("own-photos")
    settings["download"] |= {"source": "folder", "path": str(inbox)}
    # An image's side depends on itself alone, so a few more move no others.
    settings["split"]["method"] = "hash"
    project = copy_of_this_project(folder / "many")
    first = build(project, settings, f"{len(paths):,} photos of 500x375")
    another = settings | {"train": settings["train"] | {"class_weights": "none"}}
    again = build(project, another, "another last layer")
    learned = first.stages["features"] + first.stages["train"]
    two = build(project, frozen_epochs(settings, 2), "two frozen epochs")
    frozen = frozen_seconds(project, two, epochs)
    build(project, settings, "the first again")
    for path in late:
        (aside / path.name).rename(path)
    more = build(project, settings, f"{ADDED} photos more")
    decoded = re.search(r"([\d,]+) decoded", more.said)
    embedded = re.search(r"([\d,]+) computed", more.said)
    grown = digests(project)
    scratch = copy_of_this_project(folder / "scratch")
    build(scratch, settings, "all of them from scratch")
    return {
        "photos": len(paths),
        "seconds": first.seconds,
        "stages": first.stages,
        "another_last_layer": again.seconds,
        "another_stages": again.stages,
        "frozen_epochs": frozen,
        "ratio": round(frozen / learned, 1),
        "added": [
            int(found[1].replace(",", "")) if found else None for found in (decoded, embedded)
        ],
        "same_bytes": grown == digests(scratch),
    }


def digests(project: Path) -> dict[str, str]:
    """SHA-256 of what the stages keep of the images, and of the model."""
    paths = [*sorted((project / "data").glob("[!.]*/*")), project / "models/model.keras"]
    return {
        str(path.relative_to(project)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
        if path.is_file() and path.parent.name != "inbox"
    }


if __name__ == "__main__":
    main()
