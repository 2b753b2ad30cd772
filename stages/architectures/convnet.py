"""The convnet of the MNIST tutorials: three convolutions, two poolings, one hidden layer.

93,322 parameters for 28x28 grey images of 10 classes.
"""

from collections.abc import Sequence

import keras
from keras import layers


def build(
    shape: tuple[int, int, int],
    outputs: int,
    filters: Sequence[int] = (32, 64, 64),
    dense: int = 64,
    dropout: float = 0.0,
) -> keras.Model:
    """`filters` of the three convolutions, units of the `dense` layer, share of `dropout` after."""
    first, second, third = filters
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Rescaling(1 / 255),
            layers.Conv2D(first, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(second, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(third, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(dense, activation="relu"),
            layers.Dropout(dropout),
            layers.Dense(outputs, dtype="float32"),
        ],
        name="convnet",
    )
