"""All that is known about a trained model, read from the files the earlier stages wrote."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.errors import UserError
from stages.files import (
    CORRECTIONS,
    CURVES,
    DATA_ISSUES,
    DATA_SUMMARY,
    EVALUATION,
    INDEX,
    LEARNING_CURVE,
    LEARNING_CURVE_COLUMNS,
    LOG,
    PARITY,
    PREDICTIONS,
    PROCESSED,
    REJECTS,
    REJECTS_COLUMNS,
    SCORES,
    SIDES,
    SPLITS,
    SUSPECTS,
    SUSPECTS_COLUMNS,
    TRUST_COLUMNS,
)
from stages.metrics.curves import EXTRA, TABLES
from stages.metrics.scores import ClassScore, Scores
from stages.store.corrections import correction_lines
from stages.store.image_set import ImageSet, load_image_set
from stages.store.outputs import made_by
from stages.store.tables import read_table

PER_CLASS = "per_class.csv"
# In EVALUATION, if evaluate could tell.
MAP = "map.npy"
UNLIKE = "unlike.npy"  # how far each test image is from the training images
SHOWN_UNLIKE = 1000


@dataclass(frozen=True)
class Results:
    """`labels` and `predicted` int (n,), `probabilities` float32 (n, classes) of `test`.

    `scores` are those of reports/scores.json; `class_scores` is in the order of `classes`.
    `counts` int (classes,) is the number of images by side; `confusion` int (classes,
    classes), rows are actual. `curves` holds the tables of reports/curves by name, each a dict
    of columns. `sha256`, `shape` and `layers` are the model's. `chosen_epoch` is None where nothing
    was chosen: without validation images or epochs.
    `history` holds (epochs, values) by metric, e.g. "val/loss"; `softened` names the settings that
    raise its "train/loss" by labels less certain than they are, `hardest` is the share of the
    images that each epoch learned from; `learning_curve` the columns of
    reports/train/learning_curve.csv, perhaps empty. `maps` uint8
    (k, 2, rows, columns) explains the images `explained`, positions in `test`. `map` float32 (n, 2)
    are the test images by principal components of the model's features, if known. `issues` are
    the lines of data_issues.csv, and such lines for test images unlike the training images, most
    unlike first; `suspects` those of label_suspects.csv; `places` says by id where the images are
    that they name: number in `SIDES` (`len(SIDES)` for `left_out`, those on no side) and position
    in that set. `told` has the `TRUST_COLUMNS` of the test images; `corrections` the columns and
    lines of the table of corrections; `parity` the figures of each exported format.
    """

    classes: list[str]
    sets: dict[str, ImageSet]
    left_out: ImageSet
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
    softened: list[str]
    hardest: float
    learning_curve: dict[str, np.ndarray]
    explained: np.ndarray
    maps: np.ndarray
    map: np.ndarray | None
    sha256: str
    shape: list[int]
    layers: list[dict[str, Any]]
    data: dict[str, Any]
    rejects: list[tuple[str, str]]
    issues: list[dict[str, str]]
    suspects: list[dict[str, str]]
    places: dict[str, tuple[int, int]]
    told: pa.Table
    corrections: tuple[list[str], list[list[str]]]
    parity: dict[str, Scores]

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


def read_results(
    folder: Path = Path(),
    corrections: str | Path = CORRECTIONS,
    softened: list[str] | None = None,
    hardest: float = 1.0,
) -> Results:
    """What the stages have left in `folder`, the project's, which has the table `corrections`;
    `softened` are the settings of this kind, `hardest` is train.hardest. Raises `UserError` for
    what is missing or damaged."""
    processed, splits, evaluation = folder / PROCESSED, folder / SPLITS, folder / EVALUATION
    sets = {side: load_image_set(processed, splits / f"{side}.csv") for side in SIDES}
    left_out = _left_out(processed, sets)
    test = sets["test"]
    classes = test.dataset.classes
    with made_by("evaluate", evaluation):
        probabilities = np.load(evaluation / "probabilities.npy")
        maps = np.load(evaluation / "grad_cam.npy")
        explained = read_table(evaluation / "grad_cam.csv", ["id"])["id"].to_pylist()
        map = np.load(evaluation / MAP) if (evaluation / MAP).exists() else None
        distances = np.load(evaluation / UNLIKE) if (evaluation / UNLIKE).exists() else None
        model = _read_json(evaluation / "model.json")
        sha256, shape, layers = (model[name] for name in ("sha256", "shape", "layers"))
    position = {id: at for at, id in enumerate(test.ids)}
    if (
        probabilities.shape != (len(test), len(classes))
        or not position.keys() >= set(explained)
        or (map is not None and map.shape != (len(test), 2))
        or (distances is not None and distances.shape != (len(test),))
    ):
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
        validated = any(name.startswith("val/") for name in history)
        last = _read_json(folder / LOG / "metrics.json")
        chosen_epoch = last.get("best_epoch") if validated and last.get("epochs") != 0 else None
    with made_by("train", folder / LEARNING_CURVE):
        learning_curve = _read_columns(folder / LEARNING_CURVE)
        if set(learning_curve) != set(LEARNING_CURVE_COLUMNS):
            raise ValueError("its columns are others")
    with made_by("split", folder / DATA_SUMMARY):
        facts = _read_json(folder / DATA_SUMMARY)
    with made_by("split", folder / DATA_ISSUES):
        issues = read_table(folder / DATA_ISSUES).to_pylist()
        issues += _unlike(test, distances, scores.get("trust", {}).get("unlike", 0))
        everything = [*sets.values(), left_out]
        places = _find(issues, ("id", "other_id"), everything)
    with made_by("evaluate", folder / SUSPECTS):
        suspects = _read_suspects(folder / SUSPECTS, classes)
        places |= _find(suspects, ("id", "nearest_given", "nearest_suggested"), everything)
    with made_by("export", folder / PARITY):
        parity = _read_json(folder / PARITY) if (folder / PARITY).exists() else {}
        parity = {name: of["figures"][0] for name, of in parity.items()}
    with made_by("evaluate", folder / PREDICTIONS):
        told = read_table(folder / PREDICTIONS, ["id", *TRUST_COLUMNS])
        if told["id"].to_pylist() != test.ids.tolist():
            raise ValueError("it is about other images")
    return Results(
        classes=classes,
        sets=sets,
        left_out=left_out,
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
        softened=softened or [],
        hardest=hardest,
        learning_curve=learning_curve,
        explained=np.array([position[id] for id in explained], int),
        maps=maps,
        map=map,
        sha256=sha256,
        shape=shape,
        layers=layers,
        data=facts,
        rejects=list(zip(*rejects.values(), strict=True)),
        issues=issues,
        suspects=suspects,
        places=places,
        told=told.select(TRUST_COLUMNS),
        corrections=correction_lines(folder / corrections),
        parity=parity,
    )


def _left_out(processed: Path, sets: dict[str, ImageSet]) -> ImageSet:
    """The processed images on no side."""
    known = next(iter(sets.values()))
    with made_by("preprocess", processed / INDEX):
        index = read_table(processed / INDEX, ["id", "path", "label", "shard", "row"])
    used = pa.chunked_array([pa.array(images.ids, pa.string()) for images in sets.values()])
    index = index.filter(pc.invert(pc.is_in(index["id"], value_set=used)))
    labels = pc.index_in(index["label"], pa.array(known.dataset.classes, pa.string()))
    if labels.null_count:
        raise UserError(f"{processed / INDEX} names classes that the data set lacks; dvc repro")
    with made_by("preprocess", processed):
        rows = known.pixels.rows(index["shard"].to_pylist(), index["row"].to_numpy())
    ids, paths = index["id"].to_numpy(), index["path"].to_numpy()
    return ImageSet(
        ids, paths, labels.to_numpy().astype(np.int32), rows, known.pixels, known.dataset
    )


def _unlike(test: ImageSet, distances: np.ndarray | None, share: float) -> list[dict[str, str]]:
    """Lines as those of data_issues.csv for the `share` of test images farthest from training."""
    if distances is None:
        return []
    farthest = np.argsort(-distances, kind="stable")[: min(round(share * len(test)), SHOWN_UNLIKE)]
    return [
        {"issue": "unlike the training images", "id": test.ids[at], "other_id": "", "distance": ""}
        | {"value": f"{distances[at]:.3g}"}
        for at in farthest
    ]


def _read_suspects(path: Path, classes: list[str]) -> list[dict[str, str]]:
    if not path.exists():
        return []
    lines: list[dict[str, str]] = read_table(path, SUSPECTS_COLUMNS).to_pylist()
    if unknown := {line["suggested"] for line in lines} - set(classes):
        raise ValueError(f"there is no class {min(unknown)}")
    return lines


def _find(
    lines: list[dict[str, str]], columns: tuple[str, ...], sets: list[ImageSet]
) -> dict[str, tuple[int, int]]:
    """Number of its set and position in it, of each image that `lines` name in `columns`, by id."""
    wanted = {line[column] for line in lines for column in columns} - {""}
    places = {
        id: (number, at)
        for number, images in enumerate(sets)
        for at, id in enumerate(images.ids)
        if id in wanted
    }
    if missing := wanted - places.keys():
        raise ValueError(f"there is no image {min(missing)}")
    return places


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
