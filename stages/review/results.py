"""The results of one side of a review, read from a folder laid out like the project."""

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import yaml

from stages.errors import UserError
from stages.store.tables import read_table
from stages.store.timing import read_times

METRICS = "reports/metrics.json"
PREDICTIONS = "reports/predictions.csv"
DATA = "reports/data.json"
EPOCHS = "reports/train/plots"
TIMING = "reports/timing.json"
JUDGEMENT = "models/model.json"  # names the model that the results are of
PARAMETERS = "params.yaml"
# Text results that live in git, and results that live in the DVC cache.
IN_GIT = [METRICS, PREDICTIONS, DATA, EPOCHS, PARAMETERS]
SPLITS, PLOTS = "data/splits", "reports/plots"


@dataclass(frozen=True)
class Results:
    """One side of a review; what its folder lacks is None or empty.

    `metrics`, `parameters`, `data`: nested dicts as in their files; `timing` too, if it is of
    this side's model.
    `predictions`: columns id, actual, predicted, confidence, path, one row a test image.
    `members`: columns id, label of every image of data/splits, or None.
    `epochs`: e.g. "val/loss" -> (epoch, value) of each row.
    """

    name: str
    metrics: dict
    parameters: dict
    data: dict
    timing: dict
    predictions: pa.Table | None
    members: pa.Table | None
    epochs: dict[str, list[tuple[int, float]]]
    plots: dict[str, Path]

    def classes(self) -> list[str]:
        """Names of the classes among the test images, actual or predicted, sorted."""
        if self.predictions is None:
            return []
        columns = [self.predictions[name].unique().to_pylist() for name in ("actual", "predicted")]
        return sorted(set().union(*columns))


def read_results(folder: Path, name: str) -> Results:
    """Read what `folder` holds. Raises `UserError` for a file that is there but malformed."""
    try:
        return Results(
            name=name,
            metrics=_read_json(folder / METRICS),
            parameters=_read_yaml(folder / PARAMETERS),
            data=_read_json(folder / DATA),
            timing=read_times(folder / TIMING, _read_json(folder / JUDGEMENT).get("sha256")),
            predictions=_read_predictions(folder / PREDICTIONS),
            members=_read_members(folder / SPLITS),
            epochs=_read_epochs(folder / EPOCHS),
            plots={path.stem: path for path in sorted((folder / PLOTS).glob("*.png"))},
        )
    except (yaml.YAMLError, pa.ArrowException, LookupError, ValueError, TypeError) as error:
        raise UserError(
            f"a result of {name} cannot be read ({error}); rebuild it there with: dvc repro"
        ) from None


def _read_json(path: Path) -> dict:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _read_yaml(path: Path) -> dict:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}


def _read_predictions(path: Path) -> pa.Table | None:
    columns = ["id", "actual", "predicted", "confidence", "path"]
    return read_table(path, columns) if path.exists() else None


def _read_members(folder: Path) -> pa.Table | None:
    tables = [read_table(path, ["id", "label"]) for path in sorted(folder.glob("*.csv"))]
    return pa.concat_tables(tables) if tables else None


def _read_epochs(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """DVCLive's tables, one a metric: the columns `step` and the metric's value."""
    epochs = {}
    metrics = folder / "metrics"
    for path in sorted(metrics.rglob("*.tsv")):
        rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
        step = rows[0].index("step")
        name = path.relative_to(metrics).with_suffix("").as_posix()
        epochs[name] = [(int(row[step]), float(row[1 - step])) for row in rows[1:]]
    return epochs
