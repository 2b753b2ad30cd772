"""The numbers behind the charts, for the script that lets people read them off on the page."""

from typing import Any

import numpy as np

from stages.figures.charts import by_class, corner, photo_intervals
from stages.report.results import Results
from stages.store.names import printable

DIGITS = 4  # significant ones of a value
Panel = dict[str, Any]


def panels(results: Results) -> dict[str, list[Panel]]:
    """By the name of a chart of `charts.CHARTS` what its panels show.

    A panel has a `title`, axes `x` and `y` (`label`; `kind`: share, count, number, or for x log),
    and `lines`: `name`, `x`, `y`, and for some `low` and `high`, the ends of a 95 % interval,
    `n`, a number of images of which `y` is a share, `area`, that under the line, or `guide`: it
    shows what would be ideal. `snap`: values are read where there are points, not between them;
    `smooth`: lines may be smoothed; `view`: what is shown at first, left, right, bottom and top;
    `kept`: the epoch whose weights the model has.
    """
    drawn = {
        "learning_curves": _history(results),
        "accuracy_by_epoch": _by_epoch(results),
        "accuracy_by_photos": _by_photos(results),
        "roc": _by_class(results, "roc", 0, ("false positive rate", "true positive rate")),
        "precision_recall": _by_class(results, "precision_recall", 1, ("recall", "precision")),
        "reliability": _reliability(results),
    }
    return {name: shown for name, shown in drawn.items() if shown}


def _history(results: Results) -> list[Panel]:
    kinds = {"loss": "number", "accuracy": "share"}
    sides = {"train": "training", "val": "validation"}
    return [
        {
            "title": what.capitalize(),
            "x": {"label": "epoch", "kind": "count"},
            "y": {"label": what, "kind": kind},
            "lines": [
                _line(sides[side], *results.history[f"{side}/{what}"])
                for side in sides
                if f"{side}/{what}" in results.history
            ],
            "snap": True,
            "smooth": True,
            "kept": results.chosen_epoch,
        }
        for what, kind in kinds.items()
        if any(f"{side}/{what}" in results.history for side in sides)
    ]


def _by_epoch(results: Results) -> list[Panel]:
    extra = results.curves["extra"]
    line = _line(
        "extra set",
        extra["epoch"],
        extra["accuracy"],
        low=extra["accuracy_low"],
        high=extra["accuracy_high"],
    )
    return [
        {
            "title": "Accuracy on the extra set",
            "x": {"label": "epoch", "kind": "count"},
            "y": {"label": "accuracy", "kind": "share"},
            "lines": [line],
            "snap": True,
        }
    ]


def _by_photos(results: Results) -> list[Panel]:
    curve = results.learning_curve
    low, high = photo_intervals(curve)
    line = _line("cross-validation", curve["photos"], curve["accuracy"], low=low, high=high)
    return [
        {
            "title": "How many photos are enough?",
            "x": {"label": "photos of a class to learn from (at most)", "kind": "log"},
            "y": {"label": "accuracy on the others", "kind": "share"},
            "lines": [line],
            "snap": True,
        }
    ]


def _by_class(results: Results, table: str, best: int, labels: tuple[str, str]) -> list[Panel]:
    drawn = by_class(results, table)
    if drawn is None:
        return []
    curves, areas, _ = drawn
    side, _ = corner(curves, best)
    left = 0 if best == 0 else 1 - side
    return [
        {
            "title": "ROC" if table == "roc" else "Precision and recall",
            "x": {"label": labels[0], "kind": "share"},
            "y": {"label": labels[1], "kind": "share"},
            "lines": [
                _line(printable(name), x, y) | {"area": round(areas[name], DIGITS)}
                for name, (x, y) in curves.items()
            ],
            "view": [left, left + side, 1 - side, 1],
        }
    ]


def _reliability(results: Results) -> list[Panel]:
    bins = results.curves["reliability"]
    guide = _line("ideal", np.array([0, 1]), np.array([0, 1])) | {"guide": True}
    line = _line("accuracy", bins["confidence"], bins["accuracy"], n=bins["count"])
    return [
        {
            "title": f"Reliability: mean gap {100 * results.scores['test']['ece']:.1f} %",
            "x": {"label": "confidence of the prediction", "kind": "share"},
            "y": {"label": "accuracy", "kind": "share"},
            "lines": [line, guide],
            "snap": True,
            "view": [0, 1, 0, 1],
        }
    ]


def _line(name: str, x: np.ndarray, y: np.ndarray, **more: np.ndarray) -> dict[str, Any]:
    columns = {"x": x, "y": y} | more
    return {"name": name} | {key: _short(values) for key, values in columns.items()}


def _short(values: np.ndarray) -> list[float]:
    """Rounded, whole numbers without a point: half the bytes."""
    rounded = [float(f"{value:.{max(DIGITS, len(str(int(abs(value)))))}g}") for value in values]
    return [int(value) if value == int(value) else value for value in rounded]
