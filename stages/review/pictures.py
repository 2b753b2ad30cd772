"""Pictures of both sides, drawn from the results that git holds, so they need no DVC cache."""

from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from stages.review.results import Results

MOST_CLASSES = 200  # in a confusion matrix that is still a picture
BLUE, ORANGE = "#0072b2", "#d55e00"  # Okabe and Ito's colour-blind safe palette


def draw_epochs(base: Results, head: Results, path: Path) -> bool:
    """Loss and accuracy per epoch, both sides in one chart each. False if there are none."""
    panels = [
        name
        for name in ("loss", "accuracy")
        if any(f"{part}/{name}" in head.epochs for part in ("train", "val"))
    ]
    if not panels:
        return False
    figure, axes = _figure(len(panels), 5.0, 3.6)
    for name, ax in zip(panels, axes, strict=True):
        for side, color in ((base, BLUE), (head, ORANGE)):
            for part, style in (("train", "--"), ("val", "-")):
                rows = side.epochs.get(f"{part}/{name}")
                if rows:
                    label = f"{side.name}, {'training' if part == 'train' else 'validation'}"
                    marker = "o" if len(rows) == 1 else None
                    ax.plot(
                        *zip(*rows, strict=True), style, color=color, label=label, marker=marker
                    )
        ax.set(title=name.capitalize(), xlabel="epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    _save(figure, path)
    return True


def draw_confusion(base: Results, head: Results, path: Path) -> bool:
    """Both confusion matrices, each row normalised by actual class, side by side.

    False if a side has no predictions, or there are more than `MOST_CLASSES` classes.
    """
    if base.predictions is None or head.predictions is None:
        return False
    classes = sorted({*base.classes(), *head.classes()})
    if len(classes) > MOST_CLASSES:
        return False
    figure, axes = _figure(2, 5.0, 4.8)
    few = len(classes) <= 20
    for side, ax in zip((base, head), axes, strict=True):
        shares = _confusion(side, classes)
        ax.imshow(shares, cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
        ax.set(title=side.name, xlabel="predicted", ylabel="actual")
        if few:
            ax.set_xticks(range(len(classes)), classes, rotation=90)
            ax.set_yticks(range(len(classes)), classes)
            for row, column in np.argwhere(shares >= 0.005):
                share = shares[row, column]
                color = "black" if share > 0.6 else "white"
                ax.text(
                    column, row, f"{100 * share:.0f}", ha="center", va="center", color=color, size=7
                )
    _save(figure, path)
    return True


def _confusion(side: Results, classes: list[str]) -> np.ndarray:
    """float64 (n, n): share of the images of an actual class (row) predicted as each class."""
    import pyarrow as pa

    names = pa.array(classes, pa.string())
    actual, predicted = (
        pc.index_in(side.predictions[name], names).to_numpy() for name in ("actual", "predicted")
    )
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, (actual, predicted), 1)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def _figure(columns: int, width: float, height: float):
    """A row of axes. Without pyplot: no global state, no display."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * width, height), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, columns)))


def _save(figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})
