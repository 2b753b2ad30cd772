"""Images whose label is probably wrong, on every side of the split, the most suspicious first.

The measure is self-confidence, the probability of the class that an image was given, by a model
that has not learned it from this image: for images of other sides the trained model's, for
training images what train has kept (`stages.training.job.Job`). An image is a suspect where it is
far less than is usual for images of the class on the same side: each class has a threshold of its
own, as in confident learning (Northcutt et al. 2021, arXiv:1911.00068), and the less sure the model
is of a class, the less its doubt says.

For people to look at: nothing is learned from it. Test labels change no training; whoever mends
one by hand mends the yardstick, not the model.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.inference.seen import Seen
from stages.inference.trust import directions
from stages.store.features import Features, read_embedding
from stages.store.image_set import ImageSet
from stages.store.names import cell, path_cell
from stages.store.outputs import made_by

# The share of the usual self-confidence, itself between 0 and 1, below which an image is a suspect:
# where the model is usually certain of a class, less than half as sure is suspicious; where it is
# usually 0.4, less than a fifth. One limit for all either names most mistakes of a mediocre model
# or misses errors among few photos (bench/label_errors.py).
LIMIT = 0.5
TINY = 1e-30  # in place of a mean of zero

# Training images that a suspect is compared with: at most so many, of all classes together if
# these are few, and of each class.
CANDIDATES, OF_A_CLASS = 2000, 20


class Suspect(NamedTuple):
    """The image at `position` of `side`; `score`, 0 to `LIMIT`, is its self-confidence as a share
    of the usual."""

    side: str
    position: int
    score: float


def find(sides: dict[str, tuple[np.ndarray, np.ndarray]]) -> list[Suspect]:
    """The suspects of all sides, the most suspicious first.

    `sides` has the labels int (n,) and self-confidences float (n,) of the images of each side; NaN
    where it is not known. How sure a net is of images that it learned and of others does not
    compare, so each side is ranked by itself: a suspect that only 1 % of its side are ahead of
    comes before one that 2 % of its own are ahead of.
    """
    found = []
    for side, (labels, confidence) in sides.items():
        usual = usual_confidence(labels, confidence)
        scores = confidence / np.maximum(usual, TINY)
        order = np.argsort(scores, kind="stable")
        order = order[scores[order] < LIMIT * usual[order]]  # which NaN is not
        for place, at in enumerate(order.tolist()):
            found.append((place / len(labels), Suspect(side, at, float(scores[at]))))
    return [suspect for _, suspect in sorted(found, key=lambda ranked: ranked[0])]


def usual_confidence(labels: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """The mean of `confidence` over the images of each image's class, float64 (n,)."""
    known = np.isfinite(confidence)
    sums, images = np.bincount(labels, np.where(known, confidence, 0)), np.bincount(labels, known)
    return (sums / np.maximum(images, 1))[labels]


def suggested(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The most probable of the classes that an image was not given, int (n,)."""
    others = probabilities.copy()
    others[np.arange(len(labels)), labels] = -1
    return others.argmax(axis=1)


def candidates(labels: np.ndarray, wanted: np.ndarray, left_out: list[int]) -> np.ndarray:
    """Positions of training images to compare suspects with, int (m,): evenly drawn from those of
    the classes `wanted`, going by `labels` int (n,), without the positions `left_out`."""
    free = np.ones(len(labels), bool)
    free[left_out] = False
    classes = np.unique(wanted)
    most = max(OF_A_CLASS, CANDIDATES // max(1, len(classes)))
    drawn = []
    for label in classes:
        those = np.flatnonzero(free & (labels == label))
        drawn.append(those[:: max(1, -(-len(those) // most))])
    return np.concatenate(drawn)


def nearest(
    features: np.ndarray, classes: np.ndarray, others: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """The most similar of the `others` to each image, by the angle between features: int (n,),
    positions in `others`, -1 where none is of the class asked for.

    `features` float (n, d) of the images, `classes` int (n,) asked for; `others` float (m, d), of
    images with `labels` int (m,).
    """
    out = np.full(len(classes), -1)
    features, others = directions(features), directions(others)
    for label in np.unique(classes):
        at, those = np.flatnonzero(classes == label), np.flatnonzero(labels == label)
        if len(those):
            out[at] = those[(features[at] @ others[those].T).argmax(axis=1)]
    return out


def describe(
    observe: Callable[[np.ndarray], Seen],
    sets: dict[str, ImageSet],
    found: list[Suspect],
    features_folder: Path,
    most: int,
    batch_size: int,
) -> list[tuple]:
    """The rows of reports/label_suspects.csv: `most` at most of the suspects `found` in `sets`.

    Each with the class that a model suggests and the nearest training images of both classes, by
    the features in `features_folder` if there are any, else by those of the model, of which
    `observe` tells what it makes of the images at global rows of the pixels.
    """
    listed, train = found[:most], sets["train"]
    if not listed:
        return []
    names, size = train.dataset.classes, batch_size
    images = [(sets[suspect.side], suspect.position) for suspect in listed]
    rows = np.array([of.rows[at] for of, at in images])
    given = np.array([of.labels[at] for of, at in images])

    def look(rows: np.ndarray) -> Seen:
        parts = [observe(rows[start : start + size]) for start in range(0, len(rows), size)]
        return Seen.together(parts)

    probabilities, features, *_ = look(rows)
    better = suggested(given, probabilities)
    wrong = [suspect.position for suspect in found if suspect.side == "train"]
    others = candidates(train.labels, np.union1d(given, better), wrong)
    with made_by("features", features_folder):
        if read_embedding(features_folder):  # then they are there
            both = np.concatenate([rows, train.rows[others]])
            embedded = Features(features_folder, train.pixels.starts).take(both)
            features, compared = embedded[: len(rows)], embedded[len(rows) :]
        else:
            compared = look(train.rows[others]).features if len(others) else features[:0]
    neighbours = [
        ["" if at < 0 else train.ids[others[at]] for at in found.tolist()]
        for found in (
            nearest(features, classes, compared, train.labels[others])
            for classes in (given, better)
        )
    ]
    return [
        (
            of.ids[at],
            path_cell(of.paths[at]),
            cell(names[given[number]]),
            cell(names[better[number]]),
            suspect.side,
            f"{suspect.score:.4f}",
            *near,
        )
        for number, (suspect, (of, at), *near) in enumerate(
            zip(listed, images, *neighbours, strict=True)
        )
    ]
