"""All that is known about a trained model, read from the files the earlier stages wrote."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.errors import UserError
from stages.files import (
    CURVES,
    DATA_ISSUES,
    DATA_SUMMARY,
    EVALUATION,
    LEARNING_CURVE,
    LEARNING_CURVE_COLUMNS,
    LOG,
    NEAR,
    PROCESSED,
    REJECTS,
    REJECTS_COLUMNS,
    SCORES,
    SIDES,
    SPLITS,
)
from stages.metrics.curves import EXTRA, TABLES
from stages.metrics.scores import ClassScore, Scores
from stages.store.image_set import ImageSet, load_image_set
from stages.store.outputs import made_by
from stages.store.tables import read_table

SHOWN_NEAR = 24  # pairs of near-duplicates on the page
PER_CLASS = "per_class.csv"


@dataclass(frozen=True)
class Results:
    """`labels` and `predicted` int (n,), `probabilities` float32 (n, classes) of `test`.

    `scores` are those of reports/scores.json; `class_scores` is in the order of `classes`.
    `counts` int (classes,) is the number of images by side; `confusion` int (classes,
    classes), rows are actual. `curves` holds the tables of reports/curves by name, each a dict
    of columns. `sha256`, `shape` and `layers` are the model's.
    `history` holds (epochs, values) by metric, e.g. "val/loss"; `learning_curve` the columns of
    reports/train/learning_curve.csv, perhaps empty. `maps` uint8
    (k, 2, rows, columns) explains the images `explained`, positions in `test`. `near` are the
    lines of data_issues.csv on near-duplicates, the nearest first.
    """

    classes: list[str]
    sets: dict[str, ImageSet]
    counts: dict[str, np.ndarray]
    labels: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray
    confusion: np.ndarray
    scores: dict[str, Scores]
    class_scores: list[ClassScore]
    curves: dict[str, dict[str, np.ndarray]]
    history: dict[str, tuple[np.ndarray, np.ndarray]]
    chosen_epoch: int | None
    learning_curve: dict[str, np.ndarray]
    explained: np.ndarray
    maps: np.ndarray
    sha256: str
    shape: list[int]
    layers: list[dict[str, Any]]
    data: dict[str, Any]
    rejects: list[tuple[str, str]]
    near: list[dict[str, str]]

    @property
    def train(self) -> ImageSet:
        return self.sets["train"]

    @property
    def test(self) -> ImageSet:
        return self.sets["test"]

    @property
    def confidence(self) -> np.ndarray:
        """Probability of the predicted class, float32 (n,)."""
        return self.probabilities[np.arange(len(self.predicted)), self.predicted]


def read_results(folder: Path = Path()) -> Results:
    """What the stages have left in `folder`, the project's. Raises `UserError` for what is missing
    or damaged."""
    processed, splits, evaluation = folder / PROCESSED, folder / SPLITS, folder / EVALUATION
    sets = {side: load_image_set(processed, splits / f"{side}.csv") for side in SIDES}
    test = sets["test"]
    classes = test.dataset.classes
    with made_by("evaluate", evaluation):
        probabilities = np.load(evaluation / "probabilities.npy")
        maps = np.load(evaluation / "grad_cam.npy")
        explained = read_table(evaluation / "grad_cam.csv", ["id"])["id"].to_pylist()
        model = _read_json(evaluation / "model.json")
        sha256, shape, layers = (model[name] for name in ("sha256", "shape", "layers"))
    position = {id: at for at, id in enumerate(test.ids)}
    if probabilities.shape != (len(test), len(classes)) or not position.keys() >= set(explained):
        raise UserError(f"{evaluation} is about other images than {splits}; dvc repro evaluate")
    predicted = probabilities.argmax(axis=1)
    with made_by("preprocess", processed / REJECTS):
        rejects = read_table(processed / REJECTS, REJECTS_COLUMNS[:2]).to_pydict()
    with made_by("evaluate", folder / SCORES):
        scores = _read_json(folder / SCORES)
        scores["test"]["accuracy"]  # or it is no file of scores
    with made_by("evaluate", folder / CURVES):
        class_scores = read_class_scores(folder / CURVES / PER_CLASS)
        tables = {name: _read_columns(folder / CURVES / f"{name}.csv") for name in (*TABLES, EXTRA)}
        confusion = _read_confusion(tables["confusion"], classes)
    if [score.name for score in class_scores] != classes:
        raise UserError(f"{CURVES / PER_CLASS} is about other classes; dvc repro evaluate")
    with made_by("train", folder / LOG):
        history = _read_history(folder / LOG / "plots" / "metrics")
        chosen_epoch = _read_json(folder / LOG / "metrics.json").get("best_epoch")
    with made_by("train", folder / LEARNING_CURVE):
        learning_curve = _read_columns(folder / LEARNING_CURVE)
        if set(learning_curve) != set(LEARNING_CURVE_COLUMNS):
            raise ValueError("its columns are others")
    with made_by("split", folder / DATA_SUMMARY):
        facts = _read_json(folder / DATA_SUMMARY)
    with made_by("split", folder / DATA_ISSUES):
        lines = read_table(folder / DATA_ISSUES).to_pylist()
        near = [line for line in lines if line["issue"] == NEAR][:SHOWN_NEAR]
        for line in near:
            for side, id in ((line["side"], line["id"]), (line["other_side"], line["other_id"])):
                if id not in sets[side].ids:
                    raise ValueError(f"{id} is not in {side}.csv")
    return Results(
        classes=classes,
        sets=sets,
        counts={
            side: np.bincount(images.labels, minlength=len(classes))
            for side, images in sets.items()
            if len(images)
        },
        labels=test.labels,
        predicted=predicted,
        probabilities=probabilities,
        confusion=confusion,
        scores=scores,
        class_scores=class_scores,
        curves=tables,
        history=history,
        chosen_epoch=chosen_epoch,
        learning_curve=learning_curve,
        explained=np.array([position[id] for id in explained], int),
        maps=maps,
        sha256=sha256,
        shape=shape,
        layers=layers,
        data=facts,
        rejects=list(zip(*rejects.values(), strict=True)),
        near=near,
    )


def read_class_scores(path: Path) -> list[ClassScore]:
    """The rows of reports/curves/per_class.csv."""
    rows = read_table(path, ["class", *ClassScore._fields[1:]]).to_pylist()
    return [
        ClassScore(
            name=row["class"],
            precision=float(row["precision"]),
            recall=float(row["recall"]),
            f1=float(row["f1"]),
            support=int(row["support"]),
            roc_auc=float(row["roc_auc"]) if row["roc_auc"] else None,
            average_precision=float(row["average_precision"]) if row["average_precision"] else None,
        )
        for row in rows
    ]


def _read_confusion(table: dict[str, np.ndarray], classes: list[str]) -> np.ndarray:
    """int (classes, classes) from the table of the pairs that occur."""
    number = {name: k for k, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), int)
    for actual, predicted, count in zip(
        table["actual"], table["predicted"], table["count"], strict=True
    ):
        counts[number[actual], number[predicted]] = count
    return counts


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _read_columns(path: Path) -> dict[str, np.ndarray]:
    """Columns of a CSV file: `class`, `actual`, `predicted` are names, the others numbers."""
    names = ("class", "actual", "predicted")
    return {
        name: np.array(column if name in names else [float(value) for value in column])
        for name, column in read_table(path).to_pydict().items()
    }


def _read_history(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    history = {}
    for path in sorted(folder.rglob("*.tsv")):
        rows = np.loadtxt(path, delimiter="\t", skiprows=1, ndmin=2)
        if len(rows):
            epochs, values = rows.T[-2:]
            history[path.relative_to(folder).with_suffix("").as_posix()] = epochs, values
    return history
