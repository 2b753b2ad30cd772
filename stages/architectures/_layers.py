"""Layers that train faster than Keras' own of the same meaning, and the way back to Keras' own."""

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("stages")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` on TensorFlow's fused kernel.

    Same settings, weights and results, for images (n, h, w, c) normalised over the last axis.
    Keras composes the operation and lifts bfloat16 to float32 first. The fused kernel reads and
    writes bfloat16 and keeps its statistics in float32: six times faster on a CPU, forward and
    backward.
    """

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        channels = inputs.shape[-1]
        gamma = self.gamma if self.scale else tf.ones(channels)
        beta = self.beta if self.center else tf.zeros(channels)
        train = bool(training) and self.trainable
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.cast(gamma, "float32"),
            offset=tf.cast(beta, "float32"),
            mean=tf.zeros(0) if train else tf.cast(self.moving_mean, "float32"),
            variance=tf.zeros(0) if train else tf.cast(self.moving_variance, "float32"),
            epsilon=self.epsilon,
            is_training=train,
        )
        if train:
            # The kernel gives the variance with N - 1 below the line, where Keras has N.
            count = tf.cast(tf.size(inputs, tf.int64) // channels, "float32")
            variance *= (count - 1) / count
            for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(moving * self.momentum + batch * (1 - self.momentum))
        return outputs


@keras.saving.register_keras_serializable("stages")
class MatmulGradientConv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` whose kernel's gradient is a sum of matrix products on small images.

    Same settings, weights and results up to rounding. In bfloat16 oneDNN computes that gradient
    at a third of the speed of the convolution when images are 8x8 or smaller; one matrix product
    for each position in the kernel is nearly twice as fast. For strides of 1, padding "same" and
    odd kernels; everything else is left to Keras.
    """

    SMALL = 8

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        height, width = inputs.shape[1:3]
        small = height is not None and max(height, width) <= self.SMALL
        odd = all(size % 2 for size in self.kernel_size)
        fits = self.padding == "same" and self.strides == (1, 1) and self.groups == 1 and odd
        if not (small and fits and inputs.dtype == tf.bfloat16):
            return super().call(inputs)
        outputs = _convolve(inputs, tf.cast(self.kernel, inputs.dtype))
        if self.use_bias:
            outputs = tf.nn.bias_add(outputs, tf.cast(self.bias, inputs.dtype))
        return self.activation(outputs)


@tf.custom_gradient
def _convolve(
    images: tf.Tensor, kernel: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
    """Convolution with stride 1 and padding "same", differentiated by matrix products.

    Weight (y, x, i, o) of the kernel multiplies input channel i, shifted by (y, x), into output
    channel o. So its gradient is the sum, over all images and pixels, of that shifted channel
    times the upstream gradient of channel o: for one (y, x) and all i and o, one matrix product.
    """

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        to_images = tf.nn.conv2d_transpose(upstream, kernel, tf.shape(images), 1, "SAME")
        rows, columns, inputs, outputs = kernel.shape
        height, width = images.shape[1:3]
        margin = [[0, 0], [rows // 2] * 2, [columns // 2] * 2, [0, 0]]
        padded, flat = tf.pad(images, margin), tf.reshape(upstream, [-1, outputs])
        products = [
            tf.matmul(
                tf.reshape(padded[:, y : y + height, x : x + width], [-1, inputs]),
                flat,
                transpose_a=True,
            )
            for y in range(rows)
            for x in range(columns)
        ]
        return to_images, tf.reshape(tf.stack(products), kernel.shape)

    return tf.nn.conv2d(images, kernel, 1, "SAME"), gradient


class BareConv2D(keras.layers.Conv2D):
    """A `keras.layers.Conv2D` whose bias and ReLU a `BiasedMaxPooling2D` adds."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self.convolution_op(inputs, self.kernel)


class BiasedMaxPooling2D(keras.layers.MaxPooling2D):
    """`keras.layers.MaxPooling2D`, then bias and ReLU of the `convolution` before it."""

    def __init__(self, convolution: BareConv2D, **options: Any):
        super().__init__(**options)
        self._bias = lambda: convolution.bias  # not the layer: its weights are counted there

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        pooled = super().call(inputs)
        return tf.nn.relu(tf.nn.bias_add(pooled, tf.cast(self._bias(), pooled.dtype)))


def pool_early(model: keras.Model) -> keras.Model:
    """The same model with the same weights, to train: pooling before bias and ReLU, not after.

    max(relu(x + b)) is relu(max(x) + b), to the bit, and so are the gradients up to rounding: where
    Keras has a `Conv2D` with ReLU and its `MaxPooling2D`, the work on a bias and a ReLU, forward
    and backward, is done for one value in four. For nets without such a pair, `model` itself.
    """
    pairs = _pooled_convolutions(model)
    copies: dict[keras.Layer, keras.Layer] = {}

    def early(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        if layer in pairs.values():
            copies[layer] = BareConv2D.from_config(config)
            return copies[layer]
        if layer in pairs:
            return BiasedMaxPooling2D(copies[pairs[layer]], **config)
        return type(layer).from_config(config)

    return _copy(model, early) if pairs else model


def _pooled_convolutions(model: keras.Model) -> dict[keras.Layer, keras.Layer]:
    """By pooling, the convolution with bias and ReLU that goes there and nowhere else."""
    models = [layer for layer in model._flatten_layers() if isinstance(layer, keras.Model)]
    uses = Counter(layer for each in models for layer in each.layers)
    return {
        pool: convolution
        for each in models
        if isinstance(each, keras.Sequential)
        for convolution, pool in pairwise(each.layers)
        if type(convolution) is keras.layers.Conv2D
        and type(pool) is keras.layers.MaxPooling2D
        and convolution.use_bias
        and convolution.activation is keras.activations.relu
        and convolution.activity_regularizer is None
        and convolution.data_format == pool.data_format == "channels_last"
        and uses[convolution] == uses[pool] == 1
    }


def portable(model: keras.Model) -> keras.Model:
    """The same model with the same weights, made of Keras' own float32 layers only.

    What is saved for use needs nothing but Keras to load.
    """

    def plain(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        if isinstance(layer, keras.Layer):  # and not a bare operation: x + 3
            config["dtype"] = "float32"
        return PLAIN.get(type(layer), type(layer)).from_config(config)

    return _copy(model, plain)


def _copy(model: keras.Model, layer_of: Callable[[keras.Layer], keras.Layer]) -> keras.Model:
    """`model` with the same weights, and of each layer what `layer_of` makes of it."""
    copy = keras.models.clone_model(model, clone_function=layer_of, recursive=True)
    copy.set_weights(model.get_weights())
    for layer in copy._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):  # computes with what it makes of them
            layer.finalize_state()
    return copy


PLAIN = {
    FusedBatchNormalization: keras.layers.BatchNormalization,
    MatmulGradientConv2D: keras.layers.Conv2D,
}
