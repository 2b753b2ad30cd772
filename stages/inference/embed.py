"""The frozen part of a transfer-learning net on its own, made fast: what it makes of images."""

import keras
import numpy as np
import tensorflow as tf

from stages.architectures import build_model, portable
from stages.inference.fold import folded
from stages.inference.frozen import frozen_part, identity
from stages.parameters.model import Model

# Always so many images at a time, the last ones filled up: TensorFlow's libraries choose how to
# compute by the size of a batch, and an image's features must not depend on its neighbours.
BATCH = 16


class Backbone:
    """The net of `settings`, with its weights, up to what its last layer takes.

    Called with uint8 (n, *shape), n at most `BATCH`, it gives float32 (n, width). `key` tells it
    from any other.
    """

    def __init__(self, settings: Model, shape: tuple[int, int, int]):
        keras.utils.clear_session(free_memory=False)  # layers are named as in any other process
        model = portable(build_model(settings.name, shape, 1, settings.settings, settings.weights))
        part = frozen_part(model)
        self.key, self.width = identity(part), part.output_shape[-1]
        fast, self._shape = folded(part), (BATCH, *shape)
        signature = [tf.TensorSpec(self._shape, tf.uint8)]
        self._forward = tf.function(
            lambda images: fast(tf.cast(images, tf.float32), training=False), signature
        )

    def __call__(self, images: np.ndarray) -> np.ndarray:
        batch = np.zeros(self._shape, np.uint8)
        batch[: len(images)] = images
        return self._forward(batch).numpy()[: len(images)]
