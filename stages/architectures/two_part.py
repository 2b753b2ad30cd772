"""Two models nested in one, `feature_learning` and `classification`, so each can be reused.

356,810 parameters for 32x32 RGB images of 10 classes.
"""

from collections.abc import Sequence

import keras
from keras import layers


def build(
    shape: tuple[int, int, int],
    outputs: int,
    filters: Sequence[int] = (32, 64, 128),
    dense: int = 128,
    dropout: float = 0.5,
) -> keras.Model:
    """`filters` of the blocks (convolution, pooling), units of `dense`, `dropout` after it."""
    features = keras.Sequential([keras.Input(shape)], name="feature_learning")
    for width in filters:
        features.add(layers.Conv2D(width, 3, padding="same", activation="relu"))
        features.add(layers.MaxPooling2D())
    classification = keras.Sequential(
        [
            keras.Input(features.output_shape[1:]),
            layers.Flatten(),
            layers.Dense(dense, activation="relu"),
            layers.Dropout(dropout),
            layers.Dense(outputs, dtype="float32"),
        ],
        name="classification",
    )
    images = keras.Input(shape)
    logits = classification(features(layers.Rescaling(1 / 255)(images)))
    return keras.Model(images, logits, name="two_part")
