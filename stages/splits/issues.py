"""What a person should look at before trusting the data: one line an issue."""

import numpy as np
import pyarrow as pa

from stages.splits import LEFT_OUT, SIDES

COLUMNS = ("issue", "path", "label", "side", "other_path", "other_label", "other_side", "distance")

LISTED = 1000  # issues of a kind that are listed; data.json counts all of them


def conflicting(labels: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Pairs of identical images with different labels, int64 (k, 2) rows of the table.

    Each image is paired with the first of its twins, if that one is labelled differently.
    """
    _, first, twin = np.unique(pixels, return_index=True, return_inverse=True)
    other = first[twin]
    rows = np.flatnonzero(labels != labels[other])
    return np.stack([rows, other[rows]], axis=1)


def left_out(sides: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Images left out, each with the twin that stays, int64 (k, 2) rows of the table.

    -1 stands for a relative of the same group, which `pixels` does not show.
    """
    rows = np.flatnonzero(sides == LEFT_OUT)
    kept = np.full(pixels.max(initial=-1) + 1, -1, np.int64)
    staying = np.flatnonzero(sides != LEFT_OUT)
    kept[pixels[staying]] = staying
    return np.stack([rows, kept[pixels[rows]]], axis=1)


def lines(issue: str, pairs: np.ndarray, images: pa.Table, sides: np.ndarray, distances=None):
    """Yield the lines of `COLUMNS` for the first `LISTED` of `pairs`."""
    pairs = pairs[:LISTED]
    paths, labels = (
        images[column].take(pa.array(pairs.ravel().clip(0))).to_pylist()
        for column in ("path", "label")
    )
    for k, (row, other) in enumerate(pairs.tolist()):
        yield (
            issue,
            paths[2 * k],
            labels[2 * k],
            _name(sides[row]),
            *((paths[2 * k + 1], labels[2 * k + 1], _name(sides[other])) if other >= 0 else "" * 3),
            "" if distances is None else f"{distances[k]:.4f}",
        )


def _name(side: int) -> str:
    return "" if side == LEFT_OUT else SIDES[side]
