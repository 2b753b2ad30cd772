"""An image, or its twin, is never both learned from and judged by."""

import numpy as np

from stages.splits import EXTRA, LEFT_OUT, TEST, TRAIN, VAL

# Of the copies of an image those that judge stay, then those that choose. `test` and `extra`
# rank alike: neither influences the model, so both may hold the same image.
RANK = np.zeros(5, np.int8)
RANK[[LEFT_OUT, TRAIN, VAL, TEST, EXTRA]] = [-1, 0, 1, 2, 2]


def leaking(sides: np.ndarray, twins: np.ndarray) -> np.ndarray:
    """Which images have a twin on a side that is held back more than their own.

    `sides` int8 (n,), `twins` int64 (n,): equal numbers are twins (same pixels, or same
    group), negative ones have none. Returns bool (n,). With these images left out, no two
    twins sit on different sides, except on `test` and `extra`.
    """
    rank = RANK[sides]
    highest = np.full(twins.max(initial=-1) + 2, -1, np.int8)
    np.maximum.at(highest, twins, rank)
    return (twins >= 0) & (rank >= 0) & (rank < highest[twins])
