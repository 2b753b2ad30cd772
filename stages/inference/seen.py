"""What a model makes of images, whatever runs it: Keras, or a runtime without TensorFlow."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np

# As many as the widest nets of keras.applications commonly have; more are folded.
MOST_FEATURES = 2048
SMALLEST = 1e-30  # in place of a probability that was rounded to zero, which has no logarithm
NEAREST = 3  # training images that are named for an image


class Sizes(NamedTuple):
    """How much a model tells of an image: so many `features`; height and width of `heat`."""

    features: int
    heat: tuple[int, int] | None = None


class Seen(NamedTuple):
    """What a model makes of n images.

    `probabilities` float32 (n, classes); `features` float32 (n, d), d <= `MOST_FEATURES`: what goes
    into the last layer with a kernel, as a rule the Dense layer that makes the logits; `distance`
    float32 (n,): 1 - cosine to the nearest training image's features, 0 to 2; NaN if none
    is known; `nearest` int32 (n, `NEAREST`): which of the training images compared with are the
    nearest, the nearest first and of equals the first; -1 where no more are known.

    `heat` float32 (n, h, w), of exported models whose net tells it, else None: how much each part
    of the image speaks for the predicted class, 0 to 1.
    """

    probabilities: np.ndarray
    features: np.ndarray
    distance: np.ndarray
    nearest: np.ndarray
    heat: np.ndarray | None = None

    @classmethod
    def of(cls, outputs: Mapping[str, np.ndarray]) -> Self:
        """The `outputs` of the graph that makes it, by name."""
        seen = cls(**{name: outputs[name] for name in cls._fields if name in outputs})
        return seen._replace(distance=np.round(seen.distance, 5))

    @classmethod
    def together(cls, parts: Sequence[Self]) -> Self:
        """What was seen in one after the other of `parts`, at least one, of one model."""
        *arrays, heat = zip(*parts, strict=True)
        seen = cls(*map(np.concatenate, arrays))
        return seen if heat[0] is None else seen._replace(heat=np.concatenate(heat))

    @classmethod
    def empty(cls, classes: int, sizes: Sizes) -> Self:
        """What there is to see where there are no images."""
        return cls(
            np.empty((0, classes), np.float32),
            np.empty((0, sizes.features), np.float32),
            np.empty(0, np.float32),
            np.empty((0, NEAREST), np.int32),
            None if sizes.heat is None else np.empty((0, *sizes.heat), np.float32),
        )


def few(features: np.ndarray) -> np.ndarray:
    """`features` float32 (n, d), of which more than `MOST_FEATURES` (a Dense layer over all pixels)
    are folded: each is added, with a sign drawn by lot, to one of so many sums.

    That keeps distances in expectation (Weinberger et al. 2009, arXiv:0902.2206).
    """
    count, width = features.shape
    if width <= MOST_FEATURES:
        return features
    folds = -(-width // MOST_FEATURES)
    padded = np.zeros((count, folds * MOST_FEATURES), np.float32)
    padded[:, :width] = features * signs(width)
    return padded.reshape(count, folds, MOST_FEATURES).sum(axis=1)


def signs(width: int) -> np.ndarray:
    """float32 (width,), -1 or 1, with which features are folded."""
    return np.random.Generator(np.random.Philox(0)).choice([-1.0, 1.0], width).astype(np.float32)
