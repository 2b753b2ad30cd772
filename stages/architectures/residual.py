"""A small residual network for images of 32 to 96 pixels.

A ResNet (He et al., 2015, arXiv:1512.03385) cut down for small images: a 3x3 stem that keeps the
resolution, stages of two-convolution blocks, each stage at half the resolution of the one before,
and global average pooling. The last normalisation of each block starts at zero, so that each
block starts as the identity (Goyal et al., 2017, arXiv:1706.02677). 2,782,154 parameters for RGB
images of 10 classes, whatever their size.
"""

from collections.abc import Sequence

import keras
from keras import layers

from stages.architectures._layers import FusedBatchNormalization


def build(
    shape: tuple[int | None, int | None, int],
    outputs: int,
    widths: Sequence[int] = (64, 128, 256),
    blocks: int = 2,
    dropout: float = 0.0,
) -> keras.Model:
    """`widths` of the stages, residual `blocks` in each, `dropout` before the last layer."""
    images = keras.Input(shape)
    x = layers.Rescaling(1 / 127.5, offset=-1)(images)
    x = _convolution(x, widths[0])
    x = layers.ReLU()(FusedBatchNormalization()(x))
    for stage, width in enumerate(widths):
        for block in range(blocks):
            x = _block(x, width, stride=2 if stage and not block else 1)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(dropout)(x)
    return keras.Model(images, layers.Dense(outputs, dtype="float32")(x), name="residual")


def _block(x: keras.KerasTensor, width: int, stride: int) -> keras.KerasTensor:
    shortcut = x
    if stride > 1 or x.shape[-1] != width:
        shortcut = _convolution(x, width, size=1, stride=stride)
        shortcut = FusedBatchNormalization()(shortcut)
    x = layers.ReLU()(FusedBatchNormalization()(_convolution(x, width, stride=stride)))
    x = FusedBatchNormalization(gamma_initializer="zeros")(_convolution(x, width))
    return layers.ReLU()(layers.Add()([shortcut, x]))


def _convolution(
    x: keras.KerasTensor, width: int, size: int = 3, stride: int = 1
) -> keras.KerasTensor:
    return layers.Conv2D(
        width,
        size,
        strides=stride,
        padding="same",
        use_bias=False,  # the normalisation that follows has one
        kernel_initializer="he_normal",
    )(x)
