"""Brightness: every pixel of an image times one random factor."""

import tensorflow as tf

from stages.augmentation.randomness import uniform


def vary_brightness(images, limit, key):
    """Float images (n, height, width, channels) times 1 - `limit` to 1 + `limit`, cut at 255."""
    factor = uniform([tf.shape(images)[0], 1, 1, 1], key, 1 - limit, 1 + limit)
    return tf.clip_by_value(images * factor, 0, 255)
