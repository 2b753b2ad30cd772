"""How sure the net is of the class that each training image was given, while it learns.

A net learns what many images share before it learns single images by heart. So a wrong label is
long outvoted by the images that look alike, and its loss, averaged over the epochs, stays high.
That is the idea of the area under the margin (Pleiss et al. 2020, arXiv:2001.10528); the mean loss
found as many wrong labels as the margin of the logits, and more where the net learns nearly all by
heart. It costs next to nothing: the training step has the logits anyway.
"""

import numpy as np
import tensorflow as tf


def label_losses(logits: tf.Tensor, labels: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """float32 (n, 2): the cross-entropy of the given class of each image, and its weight.

    `logits` (n, classes) or (n, 1), the log-odds of class 1; `labels` int (n,), the given classes;
    `targets` float32 (n, classes), what the step learns. The weight is the share that the given
    class has of the target: below one where images are mixed.
    """
    logits = tf.cast(logits, tf.float32)
    if logits.shape[-1] == 1:
        logits = tf.concat([tf.zeros_like(logits), logits], axis=1)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    weights = tf.reduce_sum(targets * tf.one_hot(labels, logits.shape[-1]), axis=1)
    return tf.stack([losses, weights], axis=1)


class SelfConfidence:
    """The geometric mean, over all steps so far, of the probability of its given class, for `count`
    images, and its loss in the last one. `array` is the state to continue from."""

    def __init__(self, count: int):
        # sums of losses times weights, and of weights; the last loss
        self._array = np.tile((0.0, 0.0, np.inf), (count, 1))
        self._new: list[tuple[np.ndarray, tf.Tensor]] = []

    def add(self, index: np.ndarray, losses: tf.Tensor) -> None:
        """The `label_losses` of the images at positions `index`.

        They stay where they are until they are needed: waiting for a GPU at every step would hold
        it up.
        """
        self._new.append((index, losses))

    @property
    def array(self) -> np.ndarray:
        """float64 (count, 3)"""
        for index, losses in self._new:
            found = losses.numpy().astype(np.float64)
            self._array[index, 2] = found[:, 0]
            found[:, 0] *= found[:, 1]
            np.add.at(self._array[:, :2], index, found)
        self._new = []
        return self._array

    def restore(self, array: np.ndarray) -> None:
        self._array = array

    @property
    def last_losses(self) -> np.ndarray:
        """float64 (count,); infinite for images that no step has seen."""
        return self.array[:, 2]

    @property
    def mean(self) -> np.ndarray:
        """float32 (count,), 0 to 1; NaN for images that no step has seen."""
        losses, weights, _ = self.array.T
        with np.errstate(invalid="ignore"):
            return np.exp(-losses / weights).astype(np.float32)
