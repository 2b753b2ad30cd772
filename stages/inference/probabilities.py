"""Class probabilities of images, in batches, optionally averaged over views of each image."""

from collections.abc import Callable, Iterable, Iterator

import keras
import numpy as np
import tensorflow as tf

TINY = 1e-30  # log of a probability that was rounded to zero


def probabilities(
    model: keras.Model, batches: Iterable[np.ndarray], tta: str = "none"
) -> Iterator[np.ndarray]:
    """Yield float32 (n, classes) for each of `batches`, uint8 (n, height, width, channels)."""
    yield from map(classifier(model, tta), batches)


def classifier(model: keras.Model, tta: str = "none") -> Callable[[np.ndarray], np.ndarray]:
    """A function from uint8 (n, height, width, channels) to float32 (n, classes), n >= 0.

    `tta`, test-time averaging: `none`; `flip`, each image and its mirror image; `flip_shift`,
    both of these centred (weight 1/2) and moved one pixel up-left and down-right (1/4 each),
    as in airbench (Jordan 2024, arXiv:2404.00498). Logarithms of probabilities are averaged,
    which is averaging logits.
    """

    @tf.function(input_signature=[tf.TensorSpec(model.input_shape, tf.uint8)])
    def forward(images):
        if tta == "none":
            return model(images, training=False)
        logs = [
            weight * tf.math.log(tf.maximum(model(view, training=False), TINY))
            for weight, view in _views(images, tta)
        ]
        return tf.nn.softmax(tf.add_n(logs))

    def classify(images: np.ndarray) -> np.ndarray:
        if not len(images):  # convolutions do not take an empty batch
            return np.empty((0, model.output_shape[-1]), np.float32)
        return forward(images).numpy()

    return classify


def _views(images: tf.Tensor, tta: str) -> list[tuple[float, tf.Tensor]]:
    """Weights, which sum to one, and variants of `images`."""
    shifted = [(1.0, images)]
    if tta == "flip_shift":
        padded = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]], "REFLECT")
        up_left, down_right = padded[:, 2:, 2:], padded[:, :-2, :-2]
        shifted = [(0.5, images), (0.25, up_left), (0.25, down_right)]
    return [
        (weight / 2, variant)
        for weight, view in shifted
        for variant in (view, tf.reverse(view, axis=[2]))
    ]
