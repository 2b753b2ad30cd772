"""What a model makes of images, whatever runs it: Keras, or a runtime without TensorFlow."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np

# As many as the widest nets of keras.applications commonly have; more are folded.
MOST_FEATURES = 2048
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
