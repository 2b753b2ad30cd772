"""Floating-point operations: how many a net takes, how many this machine can do."""

import math
import time


def training_flops(model) -> int:
    """Operations to train a Keras model on one image: multiply and add of its convolutions and
    dense layers, forward, and twice as many backward. The rest is under a hundredth of it.

    The model must be built for images of a fixed size.
    """
    total = 0
    for layer in model._flatten_layers():
        kernel = getattr(layer, "kernel", None)
        if kernel is not None:
            positions = math.prod(layer.output.shape[1:-1])
            total += 2 * math.prod(kernel.shape) * positions
    return 3 * total


def peak_flops(dtype: str, seconds: float = 10) -> float:
    """Operations a second of the fastest product this machine shows: a 3x3 convolution of 256
    channels, or a product of square matrices, the best of all runs within `seconds`."""
    import tensorflow as tf

    def convolution(images, kernel):
        return tf.nn.conv2d(images, kernel, 1, "SAME")

    size = 2048
    images, kernel = tf.ones((250, 16, 16, 256), dtype), tf.ones((3, 3, 256, 256), dtype)
    matrix = tf.ones((size, size), dtype)
    cases = [
        (tf.function(convolution), (images, kernel), 2 * 250 * 16 * 16 * 9 * 256 * 256),
        (tf.function(tf.matmul), (matrix, matrix), 2 * size**3),
    ]
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        for function, arguments, operations in cases:
            start = time.perf_counter()
            function(*arguments).numpy()
            best = max(best, operations / (time.perf_counter() - start))
    return best
