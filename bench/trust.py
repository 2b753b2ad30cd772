"""Can the model's doubts be believed?

Trains a recipe without two of its classes and with validation images, and measures: calibration
error before and after the temperature (goal: half, or 0.02); how often prediction sets hold the
right class (goal: as often as asked, within what the numbers of images allow, or the accuracy
where that is more); ROC-AUC of telling images of the two classes from test images, by distance and
by the highest probability (goal: 0.05 more); and how often the drift test alarms on 200 splits of
the test images (goal: 5 %) and on test images made brighter or blurred.

    python -m bench.trust --data cifar10-jpeg.zip --recipe cifar10-fast --unseen automobile cat
"""

import argparse
import json
import os
import tempfile
import zipfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from bench.measure import report
from bench.project import run_recipe

SPLITS, SPLIT_IMAGES, SHIFTED_IMAGES = 200, 500, 100
CALIBRATION_GOAL, AUC_GOAL, ALARMS_GOAL = 0.02, 0.05, 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a zip of train/ and test/")
    parser.add_argument("--recipe", required=True, help="of recipes/, to train by")
    parser.add_argument("--unseen", nargs="+", required=True, help="classes left out of training")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        unseen = leave_out(options.data, folder / "seen.zip", options.unseen)
        run_recipe(options.recipe, folder / "seen.zip", folder, split__val=0.1)
        scores = json.loads((folder / "reports/scores.json").read_text(encoding="utf-8"))
        figures = measure(folder, unseen)
    test, trust = scores["test"], scores["trust"]
    ece = {"before": trust["ece_before"], "after": test["ece"]}
    covered = trust["coverage_high"] >= trust["coverage_asked"]
    exact = trust["coverage_low"] <= max(trust["coverage_asked"], test["accuracy"])
    gain = round(figures["auc"]["distance"] - figures["auc"]["probability"], 3)
    goals = {
        "calibration": ece["after"] <= max(CALIBRATION_GOAL, ece["before"] / 2),
        "sets": covered and exact,
        "unseen": gain >= AUC_GOAL,
        "drift": figures["false_alarms"] <= ALARMS_GOAL,
    }
    report(
        "trust",
        accuracy=test["accuracy"],
        ece=ece,
        coverage={key: trust[key] for key in ("coverage_asked", "coverage", "set_size")},
        **figures,
        ratio=gain,
        goals=goals,
        met=all(goals.values()),
    )


def leave_out(data: Path, seen: Path, classes: list[str]) -> list[bytes]:
    """Write to `seen` what `data` has of other classes; the test images of these `classes`."""
    unseen = []
    with zipfile.ZipFile(data) as source, zipfile.ZipFile(seen, "w") as target:
        for name in source.namelist():
            side, label, *_ = [*name.split("/"), "", ""]
            if name.endswith("/"):
                continue
            if label not in classes:
                target.writestr(name, source.read(name))
            elif side == "test":
                unseen.append(source.read(name))
    if not unseen:
        raise SystemExit(f"error: {data} has no test images of {', '.join(classes)}")
    return unseen


def measure(folder: Path, unseen: list[bytes]) -> dict:
    """How well distance tells `unseen` images, and how often the drift test alarms."""
    from scipy.ndimage import gaussian_filter
    from sklearn.metrics import roc_auc_score

    import stages.quiet  # noqa: F401
    from stages.images.decode import decode
    from stages.inference import trust
    from stages.inference.probabilities import observer
    from stages.inference.seen import Seen
    from stages.store.image_set import load_image_set
    from stages.store.model import load_model, load_reference

    path = folder / "models/model.keras"
    model, info = load_model(path)
    reference = load_reference(path)
    observe = observer(model, "none", reference.trained)
    test = load_image_set(folder / "data/processed", folder / "data/splits/test.csv")

    def look(images: np.ndarray) -> Seen:
        parts = [observe(images[at : at + 200]) for at in range(0, len(images), 200)]
        return Seen.together(parts)

    known = Seen.together([observe(images) for images in test.batches(200)])
    strange = look(np.stack([decode(content, info.preprocess) for content in unseen]))
    sides = np.repeat([0, 1], [len(known.distance), len(strange.distance)])
    ranked = {
        "distance": np.concatenate([known.distance, strange.distance]),
        "probability": -np.concatenate([s.probabilities.max(axis=1) for s in (known, strange)]),
    }
    auc = {name: round(float(roc_auc_score(sides, by)), 3) for name, by in ranked.items()}
    print(f"  {len(unseen):,} images of other classes: {auc}", flush=True)

    random = np.random.default_rng(0)
    half = min(len(test) // 2, SPLIT_IMAGES)
    alarms = 0
    for _ in range(SPLITS):
        order = random.permutation(len(test))[: 2 * half]
        features = known.features[order]
        alarms += trust.two_sample_test(features[:half], features[half:])[1] < trust.ALARM
    print(f"  drift: {alarms} alarms on {SPLITS} splits of the test images", flush=True)

    at = np.sort(random.permutation(len(test))[:SHIFTED_IMAGES])
    images, labels = test.pixels.take(test.rows[at]).astype(float), test.labels[at]
    shifted = {}
    for name, changed in {
        "same": images,
        "brighter": images * 1.4 + 20,
        "darker": images / 2,
        "blurred": gaussian_filter(images, (0, 1, 1, 0)),
    }.items():
        seen = look(changed.clip(0, 255).astype(np.uint8))
        auc_drift, p = trust.two_sample_test(reference.held_out, seen.features)
        right = float((seen.probabilities.argmax(axis=1) == labels).mean())
        shifted[name] = {"accuracy": round(right, 3), "auc": round(auc_drift, 3), "p": p}
        print(f"  drift, {SHIFTED_IMAGES} images {name}: {shifted[name]}", flush=True)
    return {"auc": auc, "false_alarms": alarms / SPLITS, "shifted": shifted}


if __name__ == "__main__":
    main()
