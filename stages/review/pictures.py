"""Pictures drawn from the results that git holds, so they need no DVC cache."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.ticker import MaxNLocator

from stages.figures.pictures import confusion_matrix
from stages.figures.style import BLUE, ORANGE, figure, save_png
from stages.review.revision import Results


def draw_epochs(base: Results, head: Results, path: Path) -> bool:
    """Loss and accuracy per epoch, both sides in one chart. False if there are none."""
    names = [
        name
        for name in ("loss", "accuracy")
        if any(f"{part}/{name}" in head.epochs for part in ("train", "val"))
    ]
    if not names:
        return False
    drawn = figure(10, 3.8)
    panels = drawn.subplots(1, len(names), squeeze=False)[0]
    for name, axes in zip(names, panels, strict=True):
        for side, colour in ((base, BLUE), (head, ORANGE)):
            for part, dashes in (("train", "--"), ("val", "-")):
                rows = side.epochs.get(f"{part}/{name}")
                if rows:
                    label = f"{side.name}, {'training' if part == 'train' else 'validation'}"
                    marker = "o" if len(rows) == 1 else None
                    steps, values = zip(*rows, strict=True)
                    axes.plot(steps, values, dashes, color=colour, label=label, marker=marker)
        axes.set(title=name.capitalize(), xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    panels[0].legend(fontsize=8)
    save_png(drawn, path)
    return True


def draw_confusion(side: Results, classes: list[str], path: Path) -> None:
    """The confusion matrix of one side's predictions."""
    names = pa.array(classes, pa.string())
    actual, predicted = (
        pc.index_in(side.predictions[name], names).to_numpy() for name in ("actual", "predicted")
    )
    counts = np.zeros((len(classes), len(classes)), int)
    np.add.at(counts, (actual, predicted), 1)
    save_png(confusion_matrix(counts, classes), path)
