"""Charts: learning curves, per-class scores, ROC, precision-recall, reliability, counts."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from stages.figures.style import BLUE, DASHES, INK, ORANGE, RED, SERIES, SKY, figure, shortened
from stages.metrics import scores

if TYPE_CHECKING:
    from stages.report.results import Results

Curve = tuple[np.ndarray, np.ndarray]
BARS = 100  # most classes in a bar chart
VISIBLE = 0.02  # of the height of a chart: a smaller gap between two curves is not shaded


def learning_curves(
    loss: dict[str, Curve],
    accuracy: dict[str, Curve],
    chosen: int | None,
    softened: Sequence[str] = (),
    hardest: float = 1.0,
) -> Figure:
    """Loss and accuracy an epoch, `train` and `val` each (epochs, values).

    The chosen epoch is marked, and where over-fitting opens a gap that can be seen, it is shaded.
    `softened` names the settings by which the labels of training are less certain than those of
    validation; `hardest` is the share of the images that an epoch learned from.
    """
    drawn = figure(10, 4)
    panels = [(what, kind) for what, kind in (("Loss", loss), ("Accuracy", accuracy)) if kind]
    names = {"train": "training", "val": "validation"}
    for axes, (what, curves) in zip(
        drawn.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        styles = {"train": (SKY, "o"), "val": (RED, "s")}
        last = []
        for side, (epochs, values) in curves.items():
            colour, marker = styles[side]
            axes.plot(
                epochs,
                values,
                color=colour,
                marker=marker if len(epochs) <= 30 else None,
                markersize=3.5,
                label=names[side],
            )
            value = f"{100 * values[-1]:.1f} %" if what == "Accuracy" else f"{values[-1]:.3g}"
            last.append(f"{names[side]} {value}")
        if {"train", "val"} <= curves.keys():
            epochs, train = curves["train"]
            val = np.interp(epochs, *curves["val"])
            gap = val - train if what == "Loss" else train - val
            seen = gap > VISIBLE * np.ptp(axes.get_ylim())
            if (seen[1:] & seen[:-1]).any():
                axes.fill_between(
                    epochs, train, val, where=seen, color=RED, alpha=0.12, linewidth=0, label="gap"
                )
        if chosen is not None:
            axes.axvline(
                chosen, color=INK, linestyle="--", linewidth=1, label=f"kept: epoch {chosen}"
            )
        if what == "Accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_title(f"{what}, last: {', '.join(last)}", fontsize=10)
        axes.set(xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    notes = []
    if softened and loss:
        notes.append(
            f"The training loss is measured against labels softened by {', '.join(softened)}: "
            "it may lie above the validation loss."
        )
    if hardest < 1:
        notes.append(
            f"Training figures are those of the hardest {100 * hardest:.3g} % of the images."
        )
    _legend_below(drawn, "\n".join(notes) or None)
    return drawn


def accuracy_by_epoch(
    epochs: np.ndarray, accuracy: np.ndarray, low: np.ndarray, high: np.ndarray
) -> Figure:
    """Accuracy on the extra set after each epoch, with its 95 % interval; each (epochs,)."""
    drawn = figure(7, 3.8)
    axes = drawn.subplots()
    axes.fill_between(epochs, low, high, color=SKY, alpha=0.35, linewidth=0, label="95 % interval")
    axes.plot(epochs, accuracy, color=BLUE, marker="o", markersize=3.5, label="extra set")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set(title="Accuracy on the extra set by epoch", xlabel="epoch", ylabel="accuracy")
    _legend_below(drawn)
    return drawn


def accuracy_by_photos(
    photos: np.ndarray, accuracy: np.ndarray, low: np.ndarray, high: np.ndarray
) -> Figure:
    """Accuracy in cross-validation by the number of photos of a class that were learned from, with
    its 95 % interval; each (points,), `photos` growing."""
    drawn = figure(7, 3.8)
    axes = drawn.subplots()
    axes.fill_between(photos, low, high, color=SKY, alpha=0.35, linewidth=0, label="95 % interval")
    axes.plot(photos, accuracy, color=BLUE, marker="o", markersize=3.5, label="cross-validation")
    axes.set_xscale("log")
    # From the last point back, a number wherever there is room for it.
    labels, free = [""] * len(photos), np.inf
    for at in range(len(photos) - 1, -1, -1):
        place = np.log(photos[at] / photos[0]) / max(np.log(photos[-1] / photos[0]), 1e-9)
        if place <= free:
            labels[at], free = f"{photos[at]:,.0f}", place - 0.1
    axes.set_xticks(photos, labels)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set(
        title="How many photos are enough?",
        xlabel="photos of a class to learn from (at most)",
        ylabel="accuracy on the others",
    )
    _legend_below(drawn)
    return drawn


def class_scores(classes: list[str], f1: np.ndarray, support: np.ndarray) -> Figure:
    """F1 of each class, weakest on top; classes without test images are left out."""
    order = [k for k in np.argsort(f1, kind="stable") if support[k]][:BARS]
    title = "F1 by class" if len(order) < BARS else f"F1 of the {BARS} weakest classes"
    labels = [f"{shortened(classes[k], 28)} ({support[k]:,})" for k in order]
    return _bars(
        title, labels, [("F1", f1[order], BLUE)], (0, 1.12), "F1 (test images in brackets)"
    )


def class_counts(classes: list[str], counts: dict[str, np.ndarray]) -> Figure:
    """Images of each class on each side of the split, stacked; largest class on top."""
    total = np.sum(list(counts.values()), axis=0)
    order = np.argsort(-total, kind="stable")[:BARS]
    title = "Images by class" if len(classes) <= BARS else f"Images of the {BARS} largest classes"
    colours = (BLUE, ORANGE, SKY, RED)
    parts = [
        (f"{side} ({values.sum():,})", values[order], colour)
        for (side, values), colour in zip(counts.items(), colours, strict=False)
    ]
    labels = [shortened(classes[k], 28) for k in order]
    return _bars(title, labels, parts, (0, max(1, total.max()) * 1.12), "images")


def roc(curves: dict[str, Curve], areas: dict[str, float], total: int) -> Figure:
    """ROC curves by class; the first is the mean of all `total` classes."""
    drawn = _family(curves, areas, total, "ROC, each class against the rest", "AUC")
    drawn.axes[0].plot([0, 1], [0, 1], color=INK, alpha=0.4, linestyle=":", linewidth=1)
    _show_corner(drawn, curves, 0, ("false positive rate", "true positive rate"))
    return drawn


def precision_recall(curves: dict[str, Curve], areas: dict[str, float], total: int) -> Figure:
    """Precision-recall curves by class; the first is the mean of all `total` classes."""
    title = "Precision and recall, each class against the rest"
    drawn = _family(curves, areas, total, title, "AP")
    _show_corner(drawn, curves, 1, ("recall", "precision"))
    return drawn


def reliability(
    low: np.ndarray,
    high: np.ndarray,
    confidence: np.ndarray,
    accuracy: np.ndarray,
    count: np.ndarray,
    error: float,
) -> Figure:
    """Accuracy against confidence, and how many images each bin of confidence holds."""
    drawn = figure(5.2, 4.8)
    top, bottom = drawn.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    top.plot([0, 1], [0, 1], color=INK, alpha=0.5, linestyle=":", label="ideal")
    top.bar(
        low,
        accuracy,
        high - low,
        align="edge",
        color=SKY,
        edgecolor=INK,
        linewidth=0.6,
        label="accuracy",
    )
    top.plot(confidence, accuracy, "o", color=RED, markersize=4, label="bin means")
    top.set(
        title=f"Reliability: mean gap {100 * error:.1f} %",
        ylabel="accuracy",
        xlim=(0, 1),
        ylim=(0, 1.02),
    )
    _legend_below(drawn)
    bottom.bar(low, count, high - low, align="edge", color=BLUE, edgecolor=INK, linewidth=0.6)
    bottom.set(xlabel="confidence of the prediction", ylabel="images", yscale="log")
    bottom.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    bottom.yaxis.set_minor_formatter(NullFormatter())
    return drawn


def _family(
    curves: dict[str, Curve], areas: dict[str, float], total: int, title: str, area: str
) -> Figure:
    """Curves by class in one picture, the first, their mean, in bold."""
    drawn = figure(7.6, 4.6)
    axes = drawn.subplots()
    for number, (name, (x, y)) in enumerate(curves.items()):
        label = f"{shortened(name, 26)}, {area} {areas[name]:.3f}"
        if number == 0:
            axes.plot(x, y, color=INK, linewidth=2.2, label=label, zorder=3)
        else:
            colour = SERIES[(number - 1) % len(SERIES)]
            dash = DASHES[(number - 1) // len(SERIES) % len(DASHES)]
            axes.plot(x, y, color=colour, linestyle=dash, linewidth=1.4, label=label)
    axes.set(title=title)
    shown = len(curves) - 1
    heading = f"{shown} weakest of {total} classes" if shown < total else None
    drawn.legend(loc="outside right upper", fontsize=8, title=heading, title_fontsize=8)
    return drawn


def corner(curves: dict[str, Curve], best: float) -> tuple[float, float]:
    """The side of the square at the corner of x = `best` and y = 1 in which the curves bend, 1 for
    all of the square, and how far from the corner the last of them passes."""
    distance = max(float(np.maximum(abs(x - best), 1 - y).min()) for x, y in curves.values())
    return next((side for side in (0.05, 0.1, 0.2, 0.5) if 2 * distance <= side), 1), distance


def _show_corner(
    drawn: Figure, curves: dict[str, Curve], best: float, labels: tuple[str, str]
) -> None:
    """Show the square in which the curves bend: a good classifier's all run through a corner."""
    (axes,) = drawn.axes
    side, distance = corner(curves, best)
    # Room around it, or the curves of a perfect classifier lie on the frame.
    low, high = (0, side) if best == 0 else (1 - side, 1)
    axes.set_xlim(low - 0.04 * side, high + 0.04 * side)
    axes.set_ylim(1 - 1.04 * side, 1 + 0.04 * side)
    where = "" if side == 1 else f" ({'left' if best == 0 else 'right'} {100 * side:.0f} %)"
    axes.set_xlabel(labels[0] + where)
    axes.set_ylabel(labels[1] + ("" if side == 1 else f" (top {100 * side:.0f} %)"))
    if distance == 0:
        text = "Every class is told from the others without a mistake."
        axes.text(sum(axes.get_xlim()) / 2, 1 - side / 2, text, ha="center", va="center")


def _legend_below(drawn: Figure, note: str | None = None) -> None:
    """One legend for all axes, where no curve is, under a `note`."""
    entries: dict[str, Artist] = {}
    for axes in drawn.axes:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    drawn.legend(
        handles=list(entries.values()),
        loc="outside lower center",
        ncols=len(entries),
        title=note,
    )


def _bars(
    title: str,
    labels: list[str],
    parts: list[tuple[str, np.ndarray, str]],
    limits: tuple[float, float],
    xlabel: str,
) -> Figure:
    """Horizontal bars, first label on top; several `parts` (name, values, colour) stack."""
    row = 0.26 if len(labels) <= 30 else 0.17
    drawn = figure(7.6, 1.3 + row * len(labels))
    axes = drawn.subplots()
    size = 9 if len(labels) <= 30 else 6.5
    positions = np.arange(len(labels))
    ends = np.zeros(len(labels))
    for name, values, colour in parts:
        axes.barh(positions, values, left=ends, color=colour, height=0.75, label=name)
        ends = ends + values
    for position, end in zip(positions.tolist(), ends.tolist(), strict=True):
        value = f" {end:,.0f}" if limits[1] > 2 else f" {end:.3f}"
        axes.text(end, position, value, verticalalignment="center", fontsize=size)
    axes.set_yticks(positions, labels, fontsize=size)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set(title=title, xlabel=xlabel, xlim=limits)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    if len(parts) > 1:
        drawn.legend(loc="outside lower center", ncols=len(parts), fontsize=8)
    return drawn


# Each chart from the results of a run; None where there is nothing to draw.


def _learning_curves(results: "Results") -> Figure | None:
    history = {
        what: {
            side: results.history[f"{side}/{what}"]
            for side in ("train", "val")
            if f"{side}/{what}" in results.history
        }
        for what in ("loss", "accuracy")
    }
    if not any(len(epochs) > 1 for curves in history.values() for epochs, _ in curves.values()):
        return None
    return learning_curves(
        **history,
        chosen=results.chosen_epoch,
        softened=results.softened,
        hardest=results.hardest,
    )


def _class_scores(results: "Results") -> Figure:
    f1 = np.array([score.f1 for score in results.class_scores])
    support = np.array([score.support for score in results.class_scores])
    return class_scores(results.classes, f1, support)


def _roc(results: "Results") -> Figure | None:
    drawn = by_class(results, "roc")
    return roc(*drawn) if drawn else None


def _precision_recall(results: "Results") -> Figure | None:
    drawn = by_class(results, "precision_recall")
    return precision_recall(*drawn) if drawn else None


def by_class(
    results: "Results", table_name: str
) -> tuple[dict[str, Curve], dict[str, float], int] | None:
    """The curves of a table of reports/curves, "roc" or "precision_recall", and the areas under
    them by name, and how many classes there are; None if the table is empty."""
    table = results.curves[table_name]
    x, y, area = {
        "roc": ("false_positive_rate", "true_positive_rate", "roc_auc"),
        "precision_recall": ("recall", "precision", "average_precision"),
    }[table_name]
    names = list(dict.fromkeys(table["class"].tolist()))
    if not names:
        return None
    curves = {
        name: (table[x][table["class"] == name], table[y][table["class"] == name]) for name in names
    }
    areas = {score.name: getattr(score, area) for score in results.class_scores}
    mean = float(np.mean([value for value in areas.values() if value is not None]))
    return curves, {name: areas.get(name, mean) for name in curves}, len(results.classes)


def _reliability(results: "Results") -> Figure:
    return reliability(**results.curves["reliability"], error=results.scores["test"]["ece"])


def _accuracy_by_epoch(results: "Results") -> Figure | None:
    extra = results.curves["extra"]
    return accuracy_by_epoch(*extra.values()) if len(extra["epoch"]) else None


def _accuracy_by_photos(results: "Results") -> Figure | None:
    curve = results.learning_curve
    if len(curve["photos"]) < 2:
        return None
    return accuracy_by_photos(curve["photos"], curve["accuracy"], *photo_intervals(curve))


def photo_intervals(curve: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Low and high ends, each (points,), of the 95 % intervals of `Results.learning_curve`."""
    counts = zip(curve["right"].astype(int), curve["judged"].astype(int), strict=True)
    shares = [scores.accuracy(int(right), int(judged)) for right, judged in counts]
    low, high = (np.array([each[f"accuracy_{end}"] for each in shares]) for end in ("low", "high"))
    return low, high


# reports/plots and the page show these, by name; a chart with no place of its own on the page comes
# among the curves. A further chart is a function above and a line here.
CHARTS: dict[str, Callable[["Results"], Figure | None]] = {
    "learning_curves": _learning_curves,
    "class_scores": _class_scores,
    "class_counts": lambda results: class_counts(results.classes, results.counts),
    "roc": _roc,
    "precision_recall": _precision_recall,
    "reliability": _reliability,
    "accuracy_by_epoch": _accuracy_by_epoch,
    "accuracy_by_photos": _accuracy_by_photos,
}
