"""What a person should look at before trusting the data: one line an issue."""

import numpy as np
import pyarrow as pa

from stages.splits import LEFT_OUT, SIDES
from stages.store.names import cell, path_cell

COLUMNS = (
    *("issue", "path", "label", "side", "other_path", "other_label", "other_side", "distance"),
    *("id", "other_id"),
)
NEAR = "near-duplicate"

LISTED = 1000  # issues of a kind that are listed; data.json counts all of them


def conflicting(labels: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Pairs of identical images with different labels, int64 (k, 2) rows of the table.

    Each image is paired with the first of its twins, if that one is labelled differently.
    """
    _, first, twin = np.unique(pixels, return_index=True, return_inverse=True)
    other = first[twin]
    rows = np.flatnonzero(labels != labels[other])
    return np.stack([rows, other[rows]], axis=1)


def left_out(sides: np.ndarray, *twins: np.ndarray) -> np.ndarray:
    """Images left out, each with a twin that stays, int64 (k, 2) rows of the table.

    `twins` int64 (n,) are numbers that relatives share, the closest kind first: same pixels,
    then same group. -1 where none stays.
    """
    rows = np.flatnonzero(sides == LEFT_OUT)
    staying = np.flatnonzero(sides != LEFT_OUT)
    others = np.full(len(rows), -1, np.int64)
    for numbers in twins:
        kept = np.full(numbers.max(initial=-1) + 1, -1, np.int64)
        kept[numbers[staying]] = staying
        others = np.where(others < 0, kept[numbers[rows]], others)
    return np.stack([rows, others], axis=1)


def lines(issue: str, pairs: np.ndarray, images: pa.Table, sides: np.ndarray, distances=None):
    """Yield the lines of `COLUMNS` for the first `LISTED` of `pairs`."""
    pairs = pairs[:LISTED]
    ids, paths, labels = (
        images[column].take(pa.array(pairs.ravel().clip(0))).to_pylist()
        for column in ("id", "path", "label")
    )
    for k, (row, other) in enumerate(pairs.tolist()):
        one, two = 2 * k, 2 * k + 1
        known = other >= 0
        yield (
            issue,
            path_cell(paths[one]),
            cell(labels[one]),
            _name(sides[row]),
            path_cell(paths[two]) if known else "",
            cell(labels[two]) if known else "",
            _name(sides[other]) if known else "",
            "" if distances is None else f"{distances[k]:.4f}",
            ids[one],
            ids[two] if known else "",
        )


def _name(side: int) -> str:
    return "" if side == LEFT_OUT else SIDES[side]
