"""What a model makes of images, whatever runs it: Keras, or a runtime without TensorFlow."""

from collections.abc import Mapping
from typing import NamedTuple, Self

import numpy as np

# As many as the widest nets of keras.applications commonly have; more are folded.
MOST_FEATURES = 2048


class Seen(NamedTuple):
    """What a model makes of n images.

    `probabilities` float32 (n, classes); `features` float32 (n, d), d <= `MOST_FEATURES`: what goes
    into the last layer with a kernel, as a rule the Dense layer that makes the logits; `distance`
    float32 (n,): 1 - cosine to the nearest training image's features, 0 to 2; NaN if none
    is known; `nearest` int32 (n,): which of the training images compared with that is; -1 if none
    is known.
    """

    probabilities: np.ndarray
    features: np.ndarray
    distance: np.ndarray
    nearest: np.ndarray

    @classmethod
    def of(cls, outputs: Mapping[str, np.ndarray]) -> Self:
        """The `outputs` of the graph that makes it, by name."""
        seen = cls(*(outputs[name] for name in cls._fields))
        return seen._replace(distance=np.round(seen.distance, 5))

    @classmethod
    def empty(cls, classes: int, features: int) -> Self:
        """What there is to see where there are no images."""
        return cls(
            np.empty((0, classes), np.float32),
            np.empty((0, features), np.float32),
            np.empty(0, np.float32),
            np.empty(0, np.int32),
        )
