"""The net of the CIFAR-10 speed records, for small colour images of any size.

After airbench (Keller Jordan, 2024, arXiv:2404.00498, github.com/KellerJordan/cifar10-airbench):

- The first convolution whitens 2x2 patches. Its filters come from the training images (`adapt`)
  and stay; only its bias learns.
- Convolutions start as the identity on their first input channels, so that signals and gradients
  pass through all layers from the first step.
- Normalisations learn a shift but no scale, and forget old statistics fast.
- Pooling comes before normalisation and activation: a quarter of their work.

What differs: ReLU for GELU, which takes twenty times as long on a CPU in bfloat16, and the head's
scale of 1/width is in its initial weights.
"""

from collections.abc import Sequence

import keras
import numpy as np
from keras import layers

from stages.architectures._layers import FusedBatchNormalization, MatmulGradientConv2D


def build(
    shape: tuple[int | None, int | None, int],
    outputs: int,
    widths: Sequence[int] = (64, 256, 256),
    depth: int = 2,
    residual: bool = False,
) -> keras.Model:
    """`widths` of the blocks, `depth` convolutions in each; `residual` adds what follows a
    block's first convolution to its last."""
    images = keras.Input(shape)
    x = layers.Normalization(name="normalize", dtype="float32")(images)
    x = layers.Conv2D(2 * 4 * shape[-1], 2, name="whiten")(x)
    x = layers.ReLU()(x)
    for width in widths:
        x = layers.MaxPooling2D()(_convolution(x, width))
        x = start = layers.ReLU()(_normalization()(x))
        for number in range(1, depth):
            x = _normalization()(_convolution(x, width))
            if residual and number == depth - 1:
                x = layers.Add()([start, x])
            x = layers.ReLU()(x)
    x = layers.GlobalMaxPooling2D()(x)
    scale = 1 / widths[-1]
    head = keras.initializers.RandomUniform(-scale * 3**0.5, scale * 3**0.5)
    x = layers.Dense(outputs, use_bias=False, kernel_initializer=head, dtype="float32")(x)
    model = keras.Model(images, x, name="speednet")
    model.get_layer("whiten").kernel.trainable = False
    return model


def adapt(model: keras.Model, images: np.ndarray) -> None:
    """Take mean and variance of the channels, and the whitening filters, from `images`.

    `images` uint8 (n, h, w, c).

    Whitening: neighbouring pixels are much alike, so raw patches say the same thing several times,
    and gradients along their common brightness drown all others. Let C be the covariance matrix of
    the flattened patches, with eigenvectors v_i (the principal components) and eigenvalues l_i
    (the variance of the patches along v_i). The projections on v_i / sqrt(l_i) are uncorrelated
    and all have variance 1, so every direction counts alike from the first step. 5e-4 keeps
    directions that hardly vary, and hold little but noise, from being blown up. Each filter is
    there with both signs, because the ReLU that follows drops the negative half of each.
    """
    pixels = images.astype("float32")
    mean, variance = pixels.mean((0, 1, 2)), pixels.var((0, 1, 2))
    normalize = model.get_layer("normalize")
    normalize.adapt_mean.assign(mean)
    normalize.adapt_variance.assign(variance)
    normalize.finalize_state()
    pixels = (pixels - mean) / np.sqrt(np.maximum(variance, 1e-6))
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (2, 2), axis=(1, 2))
    patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 4 * images.shape[-1])
    eigenvalues, eigenvectors = np.linalg.eigh(patches.T @ patches / len(patches))
    filters = (eigenvectors / np.sqrt(eigenvalues + 5e-4)).reshape(2, 2, images.shape[-1], -1)
    model.get_layer("whiten").kernel.assign(np.concatenate([filters, -filters], axis=-1))


def _convolution(x: keras.KerasTensor, width: int) -> keras.KerasTensor:
    uniform = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
    convolution = MatmulGradientConv2D(
        width, 3, padding="same", use_bias=False, kernel_initializer=uniform
    )
    x = convolution(x)
    _start_as_identity(convolution)
    return x


def _normalization() -> keras.Layer:
    return FusedBatchNormalization(scale=False, momentum=0.6)


def _start_as_identity(convolution: keras.layers.Conv2D) -> None:
    """Filter i passes input channel i on as it is; filters beyond the last input stay random."""
    kernel = convolution.kernel.numpy().copy()
    height, width, inputs, outputs = kernel.shape
    for channel in range(min(inputs, outputs)):
        kernel[..., channel] = 0
        kernel[height // 2, width // 2, channel, channel] = 1
    convolution.kernel.assign(kernel)
