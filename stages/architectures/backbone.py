"""Any network of keras.applications under a new last layer: transfer learning.

The network is one layer of the model, named "backbone", so that a trainer can freeze it first
and fine-tune it afterwards. Its batch normalisations always run on their stored statistics, as
fine-tuning on little data wants. Each network's own scaling of the pixels is part of the model.
"""

import difflib
import sys
from collections.abc import Callable
from types import ModuleType

import keras
import numpy as np
from keras import layers

from stages.architectures._build import load_weights
from stages.errors import UserError

DEFAULT = "MobileNetV3Small"


def build(
    shape: tuple[int | None, int | None, int],
    outputs: int,
    network: str = DEFAULT,
    weights: str | None = None,
    pooling: str = "avg",
    dense: int = 0,
    dropout: float = 0.2,
) -> keras.Model:
    """`network` as keras.applications names it; `weights` null, imagenet or a file's path;
    `pooling` avg or max; a hidden layer of `dense` units unless 0; `dropout` before the last."""
    if pooling not in ("avg", "max"):
        raise UserError(f"model.settings.pooling = {pooling!r}: it may be avg or max")
    constructor, module = _find(network)
    channels = shape[-1] if weights is None else 3
    try:
        backbone = constructor(
            include_top=False,
            weights="imagenet" if weights == "imagenet" else None,
            input_shape=(*shape[:2], channels),
            pooling=pooling,
            name="backbone",
        )
    except OSError as error:
        raise UserError(f"model.weights: {weights} of {network} cannot be read: {error}") from error
    except Exception as error:
        if "URL fetch failure" not in str(error):  # Keras raises it as a plain Exception
            raise
        raise UserError(
            f"model.weights: {weights} of {network} cannot be downloaded ({error}); fetch the "
            "file on a machine that can and set model.weights to its path"
        ) from error
    if weights not in (None, "imagenet"):
        load_weights(backbone, weights)
    images = keras.Input(shape)
    x = images
    if channels != shape[-1]:  # a grey image in each of the three channels
        x = layers.Concatenate()([x] * channels)
    x = _preprocess(x, module)
    x = backbone(x, training=False)
    if dense:
        x = layers.Dense(dense, activation="relu")(x)
    x = layers.Dropout(dropout)(x)
    return keras.Model(images, layers.Dense(outputs, dtype="float32")(x), name="transfer")


def networks() -> list[str]:
    """Names of the networks in keras.applications."""
    return sorted(name for name in dir(keras.applications) if name[0].isupper())


def _find(network: str) -> tuple[Callable[..., keras.Model], ModuleType]:
    """The constructor of a network, and the module that has its `preprocess_input`."""
    if network not in networks():
        known = {name.lower(): name for name in networks()}
        close = [known[one] for one in difflib.get_close_matches(str(network).lower(), known, n=1)]
        hint = f"did you mean {close[0]}?" if close else "it may be " + ", ".join(networks())
        raise UserError(
            f"model.settings.network = {network!r} is not in keras.applications; {hint}"
        )
    constructor = getattr(keras.applications, network)
    return constructor, sys.modules[constructor.__module__]


def _preprocess(x: keras.KerasTensor, module: ModuleType) -> keras.KerasTensor:
    """The network's `preprocess_input` as layers.

    All of them are one scale and offset a channel, some after turning RGB into BGR; which,
    is seen from what they make of a black, a white and a red pixel.
    """
    if x.shape[-1] != 3:
        return layers.Rescaling(1 / 127.5, offset=-1)(x)
    black, white, red = module.preprocess_input(
        np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0]], "float32").reshape(1, 1, 3, 3)
    )[0, 0]
    if red[0] == black[0]:
        x = layers.Concatenate()([x[..., channel : channel + 1] for channel in (2, 1, 0)])
    scale = [float(value) for value in (white - black) / 255]
    if scale == [1.0] * 3 and not black.any():
        return x
    return layers.Rescaling(scale, offset=[float(value) for value in black])(x)
