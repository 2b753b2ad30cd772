"""What a model is made of, and which parts of an image spoke for a class (Grad-CAM, Selvaraju et
al. 2017, arXiv:1610.02391)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypedDict

import keras
import numpy as np
import tensorflow as tf

from stages.store.image_set import ImageSet

TINY = 1e-37  # about the smallest float32, so that almost no confidence hides the others


def last_convolution(model: keras.Model) -> keras.Layer | None:
    """The convolution run last, however deeply models are nested; None if there is none.

    A convolution is a layer with a 4-dimensional kernel, so that subclasses and depthwise
    or separable kinds count too.
    """
    last = None
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            last = last_convolution(layer) or last
        for part in ("kernel", "pointwise_kernel"):
            if len(getattr(getattr(layer, part, None), "shape", ())) == 4:
                last = layer
    return last


def grad_cam(
    model: keras.Model, layer: keras.Layer, images: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Maps uint8 (n, k, rows, columns), 255 where the image spoke most for a class of `targets`;
    and the probabilities float32 (n, classes) that they explain.

    `images` uint8 (n, height, width, channels), `targets` int (n, k). The map has the
    resolution of `layer`'s output and is all zero where nothing spoke for the class.

    The map is a sum of the layer's channels, each weighted by how much the score of the class
    grows with it: the gradient of the score, averaged over the image. Only what speaks for the
    class is kept. The score is the class's log-odds: unlike the probability, it has a useful
    gradient where the model is certain.
    """
    # Watched is what the layer puts out alone: else the tape holds all that comes before it.
    recorder = tf.GradientTape(persistent=True, watch_accessed_variables=False)
    with recorder as tape, _outputs_of(layer, tape) as outputs:
        probabilities = tf.cast(model(tf.constant(images), training=False), tf.float32)
        scores = []
        for target in targets.T:
            chosen = tf.one_hot(target, probabilities.shape[-1])
            own = tf.reduce_sum(probabilities * chosen, axis=-1)
            others = tf.reduce_sum(probabilities * (1 - chosen), axis=-1)
            scores.append(tf.math.log(own + TINY) - tf.math.log(others + TINY))
    activations = outputs[-1]
    maps = [_map(activations, tape.gradient(score, activations)) for score in scores]
    return np.stack(maps, axis=1), probabilities.numpy()


def _map(activations: tf.Tensor, gradients: tf.Tensor | None) -> np.ndarray:
    """uint8 (n, rows, columns), by both (n, rows, columns, channels)."""
    if gradients is None:  # the layer's output does not lead to the probabilities
        return np.zeros((len(activations), 1, 1), np.uint8)
    activations, gradients = (tf.cast(t, tf.float32).numpy() for t in (activations, gradients))
    weights = gradients.mean(axis=(1, 2), keepdims=True)
    maps = np.nan_to_num(np.maximum((weights * activations).sum(axis=-1), 0))
    peaks = maps.max(axis=(1, 2), keepdims=True)
    return np.round(255 * maps / np.where(peaks > 0, peaks, 1)).astype(np.uint8)


def explain(
    model: keras.Model,
    test: ImageSet,
    chosen: np.ndarray,
    predicted: np.ndarray,
    batch_size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Grad-CAM uint8 (n, 2, rows, columns) of the `chosen` images, and their probabilities float32
    (n, classes) by the `model` as it is.

    First for the predicted class, then for the actual one; both are empty for a model without
    convolutions.
    """
    layer = last_convolution(model)
    if layer is None or not len(chosen):
        return np.zeros((0, 2, 1, 1), np.uint8), np.zeros((0, model.output_shape[-1]), np.float32)
    pixels = test.pixels.take(test.rows[chosen])
    targets = np.stack([predicted[chosen], test.labels[chosen]], axis=1)
    size = min(batch_size, 16)
    parts = [slice(at, at + size) for at in range(0, len(chosen), size)]
    found = [grad_cam(model, layer, pixels[at], targets[at]) for at in parts]
    maps, probabilities = map(np.concatenate, zip(*found, strict=True))
    return maps, probabilities


@contextmanager
def _outputs_of(layer: keras.Layer, tape: tf.GradientTape) -> Iterator[list[tf.Tensor]]:
    """Collects what `layer` puts out while the block runs, watched by `tape`."""
    outputs: list[tf.Tensor] = []
    call = layer.call

    def watched_call(*args: Any, **kwargs: Any) -> tf.Tensor:
        output = call(*args, **kwargs)
        tape.watch(output)
        outputs.append(output)
        return output

    layer.call = watched_call
    try:
        yield outputs
    finally:
        del layer.call


class LayerRow(TypedDict):
    """A layer of a model. `depth` counts the models around it; `shape` is that of its output
    without the batch, a list of them where it has several outputs."""

    depth: int
    name: str
    type: str
    shape: list
    parameters: int


def layer_table(model: keras.Model) -> list[LayerRow]:
    """One row a layer in order, layers of nested models below theirs."""
    return list(_rows(model, 0))


def _rows(model: keras.Model, depth: int) -> Iterator[LayerRow]:
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        try:
            shape = [list(output.shape[1:]) for output in keras.tree.flatten(layer.output)]
        except (AttributeError, ValueError):  # called more than once, or on nothing symbolic
            shape = []
        yield {
            "depth": depth,
            "name": layer.name,
            "type": type(layer).__name__,
            "shape": shape[0] if len(shape) == 1 else shape,
            "parameters": layer.count_params(),
        }
        if isinstance(layer, keras.Model):
            yield from _rows(layer, depth + 1)
