"""Cutout (DeVries and Taylor, 2017, arXiv:1708.04552): a square of each image is blanked."""

import tensorflow as tf

from stages.augmentation.randomness import integers, subkey


def cut_out(images, side: int, key):
    """A square of `side` pixels, at a random place inside the frame, becomes the mean colour
    of its float image (n, height, width, channels)."""
    masks = []
    for axis in (1, 2):
        length = images.shape[axis]
        start = integers([tf.shape(images)[0], 1], subkey(key, axis), 0, max(length - side, 0) + 1)
        place = tf.range(length)[None]
        masks.append((place >= start) & (place < start + side))
    blank = masks[0][:, :, None, None] & masks[1][:, None, :, None]
    return tf.where(blank, tf.reduce_mean(images, axis=(1, 2), keepdims=True), images)
