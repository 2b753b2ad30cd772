"""A net with a frozen backbone, cut where its last layer begins: what the features of an image are,
whose they are, and what the last layer makes of them."""

import hashlib
import json
import os

import keras
import numpy as np
import tensorflow as tf

from stages.errors import UserError
from stages.store.model import TEMPERATURE


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


def after_features(model: keras.Model, key: str) -> keras.Model | None:
    """The rest of the `model` for use: features float32 (n, d) to probabilities (n, classes).

    None unless its net is one whose `frozen_part` has the `identity` that `key` says.
    """
    net = next((layer for layer in model.layers if isinstance(layer, keras.Model)), None)
    if net is None or TEMPERATURE not in [layer.name for layer in model.layers]:
        return None
    try:
        part = frozen_part(net)
    except UserError:
        return None
    if identity(part) != key:
        return None
    # Parts of the graphs that are there: a layer that is called anew no longer tells its shapes.
    last = keras.Model(net.layers[-1].input, net.layers[-1].output)
    rest = keras.Model(model.get_layer(TEMPERATURE).input, model.output)
    features = keras.Input(part.output_shape[1:])
    return keras.Model(features, rest(last(features)), name="after_features")
