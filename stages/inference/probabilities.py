"""Class probabilities of images, in batches, optionally averaged over views of each image."""

from collections.abc import Callable, Iterable, Iterator

import keras
import numpy as np
import tensorflow as tf

SMALLEST = 1e-30  # in place of a probability that was rounded to zero, which has no logarithm


def probabilities(
    model: keras.Model, batches: Iterable[np.ndarray], tta: str = "none"
) -> Iterator[np.ndarray]:
    """Yield float32 (n, classes) for each of `batches`, uint8 (n, height, width, channels)."""
    yield from map(classifier(model, tta), batches)


def classifier(model: keras.Model, tta: str = "none") -> Callable[[np.ndarray], np.ndarray]:
    """A function from uint8 (n, height, width, channels) to float32 (n, classes), n >= 0.

    `tta`, test-time averaging: `none`; `flip`, each image and its mirror image; `flip_shift`,
    both of these centred (weight 1/2) and moved one pixel up-left and down-right (1/4 each),
    as in airbench (Jordan 2024, arXiv:2404.00498).

    Why it helps: the class does not change when a picture is mirrored or moved a little, but the
    net's answer does, and those errors partly cancel in the mean of several answers. The mean is
    taken of the logarithms of the probabilities. These differ from the logits by one constant for
    each view, and a constant does not change a softmax: this is the softmax of the mean logits.
    """

    @tf.function(input_signature=[tf.TensorSpec(model.input_shape, tf.uint8)])
    def forward(images: tf.Tensor) -> tf.Tensor:
        if tta == "none":
            return model(images, training=False)
        logs = [
            weight * tf.math.log(tf.maximum(model(view, training=False), SMALLEST))
            for weight, view in _views(images, tta)
        ]
        return tf.nn.softmax(tf.add_n(logs))

    def classify(images: np.ndarray) -> np.ndarray:
        if not len(images):  # convolutions do not take an empty batch
            return np.empty((0, model.output_shape[-1]), np.float32)
        return forward(images).numpy()

    return classify


def _views(images: tf.Tensor, tta: str) -> list[tuple[float, tf.Tensor]]:
    """The views of `images` for `flip` or `flip_shift`, with their weights, which sum to one."""
    shifts = [(1.0, images)]
    if tta == "flip_shift":
        # One row and column more on each side, mirrored from within: a window of the old size
        # that begins one pixel further down and right shows the image moved up and left.
        padded = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]], "REFLECT")
        up_left, down_right = padded[:, 2:, 2:], padded[:, :-2, :-2]
        shifts = [(0.5, images), (0.25, up_left), (0.25, down_right)]
    return [
        (weight / 2, view)
        for weight, shifted in shifts
        for view in (shifted, tf.reverse(shifted, axis=[2]))
    ]
