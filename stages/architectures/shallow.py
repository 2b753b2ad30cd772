"""Two convolutions and a wide dense layer, as the blood-cell tutorials have it.

10,250,788 parameters for 200x200 RGB images of 4 classes, nearly all in the dense layer.
"""

from collections.abc import Sequence

import keras
from keras import layers


def build(
    shape: tuple[int, int, int],
    outputs: int,
    filters: Sequence[int] = (32, 32),
    dense: int = 128,
) -> keras.Model:
    """`filters` of the blocks (convolution, pooling), units of the `dense` layer."""
    model = keras.Sequential([keras.Input(shape), layers.Rescaling(1 / 255)], name="shallow")
    for width in filters:
        model.add(layers.Conv2D(width, 3, padding="same", activation="relu"))
        model.add(layers.MaxPooling2D())
    model.add(layers.Flatten())
    model.add(layers.Dense(dense, activation="relu"))
    model.add(layers.Dense(outputs, dtype="float32"))
    return model
