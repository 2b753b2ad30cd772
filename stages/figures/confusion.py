"""The confusion matrix as a picture."""

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from stages.figures.style import figure, shortened

TITLES = {
    "actual": "Confusion, % of the actual class",
    "predicted": "Confusion, % of the predicted class",
    "counts": "Confusion, numbers of images",
}
ANNOTATED = 20  # with more classes, numbers in the cells would not be legible
LABELLED = 120


def confusion_matrix(counts: np.ndarray, classes: list[str], of: str = "actual") -> Figure:
    """`counts` int (classes, classes), rows are actual; `of` is one of `TITLES`."""
    if of == "counts":
        values = counts.astype(float)
    else:
        total = counts.sum(axis=1 if of == "actual" else 0, keepdims=True)
        values = counts / np.maximum(total, 1)
    many = len(classes)
    side = float(np.clip(0.52 * many, 2.6, 8 if many <= ANNOTATED else 11))
    font = 9 if many <= ANNOTATED else float(np.clip(side * 72 / many * 0.72, 3.5, 8))
    length = 24 if many <= 40 else 20
    margin = 0.6 + min(length, max(map(len, classes))) * font * 0.6 / 72
    drawn = figure(side + margin + 0.9, side + margin + 0.5)
    axes = drawn.subplots()
    top = values.max() if of == "counts" else 1
    # Among many classes single confusions are rare: the root keeps them visible.
    scale = PowerNorm(1 if many <= ANNOTATED else 0.5, vmin=0, vmax=max(top, 1e-9))
    picture = axes.imshow(values, cmap="Blues", norm=scale)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(TITLES[of], loc="left")
    axes.set(xlabel="predicted", ylabel="actual")
    step = -(-many // LABELLED)
    ticks = np.arange(0, many, step)
    names = [shortened(classes[k], length) for k in ticks]
    straight = many * max(map(len, names)) * font * 0.62 / 72 < side
    axes.set_xticks(ticks, names, fontsize=font, rotation=0 if straight else 90)
    axes.set_yticks(ticks, names, fontsize=font)
    axes.tick_params(length=0)
    if many <= ANNOTATED:
        for i, j in zip(*np.nonzero(counts), strict=True):
            text = (
                f"{counts[i, j]}"
                if of == "counts"
                else f"{100 * values[i, j]:.1f}".removesuffix(".0")
            )
            colour = "white" if values[i, j] > 0.55 * top else "black"
            axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=8)
    bar = drawn.colorbar(picture, ax=axes, shrink=0.7)
    bar.outline.set_visible(False)
    if of != "counts":
        bar.ax.yaxis.set_major_formatter(PercentFormatter(1))
    return drawn
