"""A trained net made faster for use: the same function in fewer steps."""

import keras
import numpy as np
import tensorflow as tf


def folded(model: keras.Model) -> keras.Model:
    """The same function up to rounding, for use only, without the batch normalisations that follow
    a convolution: their scale and offset are part of its weights.

    A normalisation takes as long as a depthwise convolution; TensorFlow computes convolution, bias
    and activation in one step.
    """
    normalised: dict[int, keras.Layer] = {}
    for part in [model, *(one for one in model._flatten_layers() if isinstance(one, keras.Model))]:
        for layer in part.layers:
            if (
                isinstance(layer, keras.layers.BatchNormalization)
                and len(layer._inbound_nodes) == 1
            ):
                before = layer.input._keras_history.operation
                if _is_plain_convolution(before):
                    normalised[id(before)] = layer
    gone = {id(layer) for layer in normalised.values()}

    def clone(layer: keras.Layer) -> keras.Layer:
        if id(layer) in gone:
            return _Same(name=layer.name)
        config = layer.get_config()
        if id(layer) in normalised:
            config["use_bias"] = True
        return type(layer).from_config(config)

    copy = keras.models.clone_model(model, clone_function=clone, recursive=True)
    for old, new in zip(model._flatten_layers(), copy._flatten_layers(), strict=True):
        if isinstance(old, keras.Model) or id(old) in gone:
            continue
        weights = old.get_weights()
        if id(old) in normalised:
            weights = _fold(weights, old, normalised[id(old)])
        new.set_weights(weights)
        if isinstance(new, keras.layers.Normalization):  # computes with what it makes of them
            new.finalize_state()
    return copy


class _Same(keras.layers.Layer):
    """In the place of a normalisation, called as it is."""

    def call(
        self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None
    ) -> tf.Tensor:
        return inputs


def _is_plain_convolution(layer: keras.Layer) -> bool:
    """Whether what `layer` computes is a convolution, and goes to one other layer only."""
    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
    if not isinstance(layer, kinds) or len(layer._outbound_nodes) != 1:
        return False
    return layer.activation is keras.activations.linear


def _fold(
    weights: list[np.ndarray], convolution: keras.Layer, normalisation: keras.Layer
) -> list[np.ndarray]:
    """Kernel and bias of the convolution followed by the normalisation."""
    mean, variance = (
        weight.numpy().astype("float64")
        for weight in (normalisation.moving_mean, normalisation.moving_variance)
    )
    scale = 1 / np.sqrt(variance + normalisation.epsilon)
    if normalisation.scale:
        scale *= normalisation.gamma.numpy()
    kernel, bias = weights[0], weights[1] if len(weights) > 1 else 0
    bias = (bias - mean) * scale
    if normalisation.center:
        bias += normalisation.beta.numpy()
    # A depthwise kernel is (rows, columns, channels, multiplier), any other (..., filters).
    depthwise = isinstance(convolution, keras.layers.DepthwiseConv2D)
    kernel = kernel * (scale.reshape(kernel.shape[2:]) if depthwise else scale)
    return [kernel.astype("float32"), bias.astype("float32")]
