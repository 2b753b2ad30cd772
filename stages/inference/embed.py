"""The frozen part of a transfer-learning net on its own: what it makes of images, and who it is."""

import hashlib
import json
import os

import keras
import numpy as np
import tensorflow as tf

from stages.architectures import build_model, portable
from stages.errors import UserError
from stages.inference.fold import folded
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


def frozen_part(net: keras.Model) -> keras.Model:
    """Images 0 to 255 (n, h, w, c) to features (n, d): `net` up to what its last layer takes.

    Raises `UserError` for a net that has weights elsewhere than in a layer named backbone and in
    its last layer, a dense one.
    """
    trained = [layer.name for layer in net.layers if layer.weights]
    last = net.layers[-1]
    if trained != ["backbone", last.name] or not isinstance(last, keras.layers.Dense):
        raise UserError(
            "model.backbone: frozen needs an architecture with weights in a layer named backbone "
            f"and in one dense layer after it; this one has them in {', '.join(trained)}"
        )
    return keras.Model(net.input, last.input, name="features")


def identity(part: keras.Model) -> str:
    """A digest in hex of the layers and weights of a `frozen_part`, and of what computes it."""
    library = f"{tf.__version__} {os.environ.get('TF_ENABLE_ONEDNN_OPTS')}"
    digest = hashlib.sha256(library.encode())
    digest.update(json.dumps(part.get_config(), sort_keys=True).encode())
    for weight in part.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()
