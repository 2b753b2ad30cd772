"""All that is known about a trained model, read from the files the earlier stages wrote."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.store.image_set import ImageSet, load_image_set
from stages.store.tables import read_table

SIDES = ("train", "val", "test", "extra")


@dataclass(frozen=True)
class Results:
    """`labels` and `predicted` int (n,), `probabilities` float32 (n, classes) of `test`.

    `counts` int (classes,) is the number of images by side; `confusion` int (classes,
    classes), rows are actual. `curves` holds reports/curves by name, each a dict of columns.
    `history` holds (epochs, values) by metric, e.g. "val/loss". `maps` uint8
    (k, 2, rows, columns) explains the images `explained`, positions in `test`.
    """

    classes: list[str]
    train: ImageSet
    test: ImageSet
    counts: dict[str, np.ndarray]
    labels: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray
    confusion: np.ndarray
    metrics: dict
    curves: dict[str, dict[str, np.ndarray]]
    history: dict[str, tuple[np.ndarray, np.ndarray]]
    chosen_epoch: int | None
    explained: np.ndarray
    maps: np.ndarray
    model: dict
    data: dict
    rejects: list[tuple[str, str]]

    @property
    def confidence(self) -> np.ndarray:
        """Probability of the predicted class, float32 (n,)."""
        return self.probabilities[np.arange(len(self.predicted)), self.predicted]


def read_results(
    processed: Path,
    splits: Path,
    train: Path,
    metrics: Path,
    data: Path,
    curves: Path,
    evaluation: Path,
) -> Results:
    """Read the folders `processed`, `splits`, `train` (DVCLive's), `curves`, `evaluation` and
    the JSON files `metrics` and `data`."""
    sets = {side: load_image_set(processed, splits / f"{side}.csv") for side in SIDES}
    test = sets["test"]
    classes = test.dataset.classes
    probabilities = np.load(evaluation / "probabilities.npy")
    predicted = probabilities.argmax(axis=1)
    confusion = np.zeros((len(classes), len(classes)), int)
    np.add.at(confusion, (test.labels, predicted), 1)
    position = {id: at for at, id in enumerate(test.ids)}
    explained = read_table(evaluation / "grad_cam.csv")["id"].to_pylist()
    rejects = read_table(processed / "rejects.csv", ["file", "reason"]).to_pydict()
    return Results(
        classes=classes,
        train=sets["train"],
        test=test,
        counts={
            side: np.bincount(images.labels, minlength=len(classes))
            for side, images in sets.items()
            if len(images)
        },
        labels=test.labels,
        predicted=predicted,
        probabilities=probabilities,
        confusion=confusion,
        metrics=_read_json(metrics),
        curves={path.stem: _read_columns(path) for path in sorted(curves.glob("*.csv"))},
        history=_read_history(train / "plots" / "metrics"),
        chosen_epoch=_read_json(train / "metrics.json").get("best_epoch"),
        explained=np.array([position[id] for id in explained], int),
        maps=np.load(evaluation / "grad_cam.npy"),
        model=_read_json(evaluation / "model.json"),
        data=_read_json(data),
        rejects=list(zip(*rejects.values(), strict=True)),
    )


def _read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _read_columns(path: Path) -> dict[str, np.ndarray]:
    """Columns of a CSV file: `class`, `actual`, `predicted` are text, the others numbers."""
    columns = {}
    for name, column in read_table(path).to_pydict().items():
        text = name in ("class", "actual", "predicted")
        columns[name] = np.array(column if text else [float(v) if v else np.nan for v in column])
    return columns


def _read_history(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    history = {}
    for path in sorted(folder.rglob("*.tsv")):
        rows = np.loadtxt(path, delimiter="\t", skiprows=1, ndmin=2)
        if len(rows):
            history[path.relative_to(folder).with_suffix("").as_posix()] = tuple(rows.T[-2:])
    return history
