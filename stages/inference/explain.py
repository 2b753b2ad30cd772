"""What a model is made of, and which parts of an image spoke for a class (Grad-CAM, Selvaraju et
al. 2017)."""

import keras
import numpy as np
import tensorflow as tf

TINY = 1e-37  # about the smallest float32, so that almost no confidence hides the others


def last_convolution(model: keras.Model) -> keras.Layer | None:
    """The convolution run last, however deeply models are nested; None if there is none.

    A convolution is a layer with a 4-dimensional kernel, so that subclasses and depthwise
    or separable kinds count too.
    """
    found = None
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found = last_convolution(layer) or found
        for part in ("kernel", "pointwise_kernel"):
            if len(getattr(getattr(layer, part, None), "shape", ())) == 4:
                found = layer
    return found


def grad_cam(
    model: keras.Model, layer: keras.Layer, images: np.ndarray, targets: np.ndarray
) -> np.ndarray:
    """Maps uint8 (n, rows, columns), 255 where the image spoke most for its class `targets`.

    `images` uint8 (n, height, width, channels), `targets` int (n,). The map has the
    resolution of `layer`'s output and is all zero where nothing spoke for the class. The
    score that is differentiated is the class's log-odds: unlike the probability, it has a
    useful gradient where the model is certain.
    """
    with tf.GradientTape() as tape, _watched(layer, tape) as outputs:
        probabilities = tf.cast(model(tf.constant(images), training=False), tf.float32)
        chosen = tf.one_hot(targets, probabilities.shape[-1])
        of_class = tf.reduce_sum(probabilities * chosen, axis=-1)
        of_others = tf.reduce_sum(probabilities * (1 - chosen), axis=-1)
        score = tf.math.log(of_class + TINY) - tf.math.log(of_others + TINY)
    activations = outputs[-1]
    gradients = tape.gradient(score, activations)
    if gradients is None:  # the layer's output does not lead to the probabilities
        return np.zeros((len(images), 1, 1), np.uint8)
    activations, gradients = (tf.cast(t, tf.float32).numpy() for t in (activations, gradients))
    weights = gradients.mean(axis=(1, 2), keepdims=True)
    maps = np.nan_to_num(np.maximum((weights * activations).sum(axis=-1), 0))
    peaks = maps.max(axis=(1, 2), keepdims=True)
    return np.round(255 * maps / np.where(peaks > 0, peaks, 1)).astype(np.uint8)


class _watched:
    """Collects what `layer` puts out while the block runs, watched by `tape`."""

    def __init__(self, layer, tape):
        self.layer, self.tape = layer, tape

    def __enter__(self):
        outputs, call = [], self.layer.call

        def watched_call(*args, **kwargs):
            output = call(*args, **kwargs)
            self.tape.watch(output)
            outputs.append(output)
            return output

        self.layer.call = watched_call
        return outputs

    def __exit__(self, *_):
        del self.layer.call


def layer_table(model: keras.Model) -> list[dict]:
    """One row a layer in order, layers of nested models below theirs.

    `depth` counts the models around the layer; `shape` is the output's, without the batch.
    """
    return list(_rows(model, 0))


def _rows(model: keras.Model, depth: int):
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
