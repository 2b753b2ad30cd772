"""What is told of an image: the same by predict, by the service and by the demo page."""

from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import NamedTuple

import numpy as np

from stages.inference import trust
from stages.inference.seen import Seen
from stages.store.model import Judgement


class Answer(NamedTuple):
    """What is told of one image.

    `ranked`: the most probable classes, the most probable first, and their probabilities; `set`:
    the classes of its prediction set, alike; `unlike`: whether it is unlike the training images;
    `distance` to the nearest of them; `nearest`: which they are, in the order of the reference.
    None, or nothing, for what is not known.
    """

    ranked: list[tuple[str, float]]
    set: list[str] | None
    unlike: bool | None
    distance: float | None
    nearest: list[int]


def answers(
    seen: Seen, classes: list[str], judgement: Judgement | None, top_k: int
) -> Iterator[Answer]:
    """An answer for each image of `seen`, with `top_k` classes at most.

    `judgement` has the thresholds: they are compared in float32, as `seen` is.
    """
    count = len(seen.probabilities)
    order = np.argsort(-seen.probabilities, axis=1, kind="stable")[:, :top_k]
    highest = np.take_along_axis(seen.probabilities, order, 1)
    sets: Iterable[list[str] | None] = repeat(None, count)
    unlike: Iterable[bool | None] = repeat(None, count)
    if judgement and judgement.sets:
        inside = trust.prediction_sets(seen.probabilities, judgement.sets.threshold)
        sets = trust.named(inside, seen.probabilities, classes)
    if judgement and judgement.unlike:
        unlike = (seen.distance > judgement.unlike.threshold).tolist()
    columns = order.tolist(), highest.tolist(), seen.distance.tolist(), seen.nearest.tolist()
    for best, values, distance, nearest, names, far in zip(*columns, sets, unlike, strict=True):
        known = distance == distance
        yield Answer(
            [(classes[k], round(value, 6)) for k, value in zip(best, values, strict=True)],
            names,
            far if known else None,
            round(distance, 5) if known else None,
            [at for at in nearest if at >= 0],
        )
