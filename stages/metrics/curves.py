"""Tables behind the plots: each a list of column names and rows, ready for a CSV file.

Curves have at most `POINTS` points, so that they stay small whatever the number of images.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from stages.metrics.scores import (
    DECIMALS,
    ClassScore,
    confusion_counts,
    one_vs_rest_areas,
    reliability,
)

POINTS = 201
CURVES = 12  # classes drawn at most; with more, their mean and the weakest are
MEAN = "(mean of all classes)"

Table = tuple[list[str], list[tuple]]
Curve = tuple[np.ndarray, np.ndarray]  # x and y of its points, each float (points,)


def confusion_table(labels: np.ndarray, probabilities: np.ndarray, classes: list[str]) -> Table:
    """The diagonal, then the pairs of actual and predicted class that occur, with counts.

    The percentages are of all images of the actual class, and of all predicted as the
    predicted class. The diagonal comes first so that plots list the classes in their order.
    """
    counts = confusion_counts(labels, probabilities.argmax(axis=1), len(classes))
    of_actual = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    of_predicted = 100 * counts / np.maximum(counts.sum(axis=0, keepdims=True), 1)
    wrong = counts - np.diag(np.diag(counts))
    pairs = [(k, k) for k in range(len(classes))] + np.argwhere(wrong).tolist()
    rows = [
        (
            classes[i],
            classes[j],
            int(counts[i, j]),
            round(of_actual[i, j], 2),
            round(of_predicted[i, j], 2),
        )
        for i, j in pairs
    ]
    return ["actual", "predicted", "count", "percent_of_actual", "percent_of_predicted"], rows


def per_class_table(scores: list[ClassScore]) -> Table:
    """One row a class; the areas are empty where they are undefined."""
    return ["class", *ClassScore._fields[1:]], list(scores)


def roc_table(labels: np.ndarray, probabilities: np.ndarray, classes: list[str]) -> Table:
    """ROC curves, one-vs-rest: false and true positive rate, long format."""
    from stages.scikit import metrics

    def curve(is_class: np.ndarray, scores: np.ndarray) -> Curve:
        false_positives, true_positives, _ = metrics.roc_curve(is_class, scores)
        return false_positives, true_positives

    return _curves(
        curve, labels, probabilities, classes, 0, ["false_positive_rate", "true_positive_rate"]
    )


def precision_recall_table(
    labels: np.ndarray, probabilities: np.ndarray, classes: list[str]
) -> Table:
    """Precision-recall curves, one-vs-rest, long format.

    They end where everything is found: to ask for less could only add false positives.
    """
    from stages.scikit import metrics

    def curve(is_class: np.ndarray, scores: np.ndarray) -> Curve:
        precision, recall, _ = metrics.precision_recall_curve(is_class, scores)
        end = len(recall) - int((recall == 1).sum()) + 1  # from recall 0 on
        return recall[::-1][:end], precision[::-1][:end]

    return _curves(curve, labels, probabilities, classes, 1, ["recall", "precision"])


def reliability_table(labels: np.ndarray, probabilities: np.ndarray, classes: list[str]) -> Table:
    """The bins of `scores.reliability`."""
    bins = reliability(probabilities.argmax(axis=1) == labels, probabilities.max(axis=1))
    rows = list(zip(*[map(_number, column) for column in bins.values()], strict=True))
    return list(bins), rows


def _curves(
    curve: Callable[[np.ndarray, np.ndarray], Curve],
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: list[str],
    which_area: int,
    axes: list[str],
) -> Table:
    """`curve` of each class (of the weakest by area, if there are many) and their mean.

    `which_area` is the one of `one_vs_rest_areas` that lies under the curve.
    """
    grid = np.linspace(0, 1, POINTS)
    curves: dict[str, Curve] = {}
    areas: dict[str, float] = {}
    for k, name in enumerate(classes):
        is_class = labels == k
        area = one_vs_rest_areas(is_class, probabilities[:, k])
        if area is None:
            continue
        curves[name] = curve(is_class, probabilities[:, k])
        areas[name] = area[which_area]
        if len(classes) > CURVES:  # keep them small until the weakest are known
            curves[name] = grid, np.interp(grid, *curves[name])
    if not curves:
        return ["class", *axes], []
    mean = np.mean([np.interp(grid, x, y) for x, y in curves.values()], axis=0)
    shown = list(curves)
    if len(shown) > CURVES:
        weakest = set(sorted(shown, key=areas.__getitem__)[: CURVES - 1])
        shown = [name for name in shown if name in weakest]
    rows = [(MEAN, _number(x), _number(y)) for x, y in zip(grid, mean, strict=True)]
    for name in shown:
        x, y = _thinned(*curves[name])
        rows += [(name, _number(a), _number(b)) for a, b in zip(x, y, strict=True)]
    return ["class", *axes], rows


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most `POINTS` points of a curve, its ends included, spread evenly along it."""
    if len(x) <= POINTS:
        return x, y
    along = np.concatenate([[0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    at = np.searchsorted(along, np.linspace(0, along[-1], POINTS))
    at = np.unique(np.concatenate([[0], at, [len(x) - 1]]))
    return x[at], y[at]


def _number(value: Any) -> int | float:
    """A NumPy number as a plain one, rounded."""
    return int(value) if isinstance(value, np.integer) else round(float(value), DECIMALS)


# What evaluate writes to reports/curves, by the name of the file: functions of the labels, int
# (n,), the probabilities, float (n, classes), and the names of the classes. A further table is a
# function above and a line here; a chart of it is one in stages/figures/charts.py.
TABLES: dict[str, Callable[[np.ndarray, np.ndarray, list[str]], Table]] = {
    "confusion": confusion_table,
    "roc": roc_table,
    "precision_recall": precision_recall_table,
    "reliability": reliability_table,
}
EXTRA = "extra"  # accuracy on the extra set by epoch, which needs the model again
EXTRA_COLUMNS = ("epoch", "accuracy", "accuracy_low", "accuracy_high")
