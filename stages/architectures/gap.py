"""Convolutions all the way, ended by global average pooling instead of a dense layer.

68,026 parameters for RGB images of 10 classes, whatever their size.
"""

import keras
from keras import layers


def build(
    shape: tuple[int | None, int | None, int],
    outputs: int,
    filters: int = 48,
    dropout: float = 0.25,
) -> keras.Model:
    """`filters` of each convolution, share of `dropout` after each pooling."""
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Rescaling(1 / 255),
            layers.Conv2D(filters, 3, padding="same", activation="relu"),
            layers.Conv2D(filters, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Dropout(dropout),
            layers.Conv2D(filters, 3, padding="same", activation="relu"),
            layers.Conv2D(filters, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Dropout(dropout),
            layers.Conv2D(outputs, 3, padding="same"),
            layers.GlobalAveragePooling2D(dtype="float32"),
        ],
        name="gap",
    )
