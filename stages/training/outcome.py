"""What a training leaves beside the model."""

from pathlib import Path

import numpy as np

from stages.files import (
    AUGMENTED,
    LABEL_CONFIDENCE,
    LEARNING_CURVE,
    LEARNING_CURVE_COLUMNS,
    LOG,
)
from stages.store.outputs import Outputs
from stages.store.tables import write_table
from stages.training.head import Point
from stages.training.log import copy_log

VARIANTS = 20  # of one image, to see what augmentation does


def write_outcome(
    outputs: Outputs,
    log: Path,
    variants: np.ndarray,
    confidence: np.ndarray,
    curve: list[Point],
) -> None:
    """Write them to `outputs`.

    Args:
        log: the epoch log, as the training kept it.
        variants: uint8 (`VARIANTS`, h, w, c), what augmentation makes of one image.
        confidence: float32 (n,), how sure the net was of the class of each training image.
        curve: how good a last layer is by the number of photos it was fitted to; empty if none was.
    """
    copy_log(log, outputs.directory(LOG / "plots"), outputs.file(LOG / "metrics.json"))
    for path, array in ((AUGMENTED, variants), (LABEL_CONFIDENCE, confidence)):
        with open(outputs.file(path), "wb") as file:
            np.save(file, array)
    rows = [(*point, round(point.accuracy, 6)) for point in curve]
    write_table(outputs.file(LEARNING_CURVE), LEARNING_CURVE_COLUMNS, rows)
