"""The small net of the cats-against-dogs tutorials: photos of two kinds, little data.

5,046,369 parameters for 300x300 RGB photos and one sigmoid output.
"""

from collections.abc import Sequence

import keras
from keras import layers


def build(
    shape: tuple[int, int, int],
    outputs: int,
    filters: Sequence[int] = (32, 32, 64),
    dense: int = 64,
    dropout: float = 0.5,
) -> keras.Model:
    """`filters` of the blocks (convolution, pooling), units of `dense`, `dropout` after it."""
    model = keras.Sequential([keras.Input(shape), layers.Rescaling(1 / 255)], name="binary_photo")
    for width in filters:
        model.add(layers.Conv2D(width, 3, activation="relu"))
        model.add(layers.MaxPooling2D())
    model.add(layers.Flatten())
    model.add(layers.Dense(dense, activation="relu"))
    model.add(layers.Dropout(dropout))
    model.add(layers.Dense(outputs, dtype="float32"))
    return model
