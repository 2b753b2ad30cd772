"""Random numbers as functions of a key, so that any batch can be made again."""

import tensorflow as tf


def batch_key(seed, epoch, step) -> tf.Tensor:
    """The key, int64 (2,), of a batch."""
    return tf.stack([_int64(seed), _int64(epoch) * 2**32 + _int64(step)])


def subkey(key, number: int) -> tf.Tensor:
    """An independent key for each `number`."""
    return tf.random.experimental.stateless_fold_in(key, number)


def uniform(shape, key, low=0.0, high=1.0) -> tf.Tensor:
    """Float32 numbers, evenly spread from `low` (included) to `high` (excluded)."""
    return tf.random.stateless_uniform(shape, key, low, high, alg="philox")


def integers(shape, key, low, high) -> tf.Tensor:
    """Int32 numbers from `low` (included) to `high` (excluded)."""
    return tf.random.stateless_uniform(shape, key, low, high, tf.int32, alg="philox")


def coins(count, key) -> tf.Tensor:
    """Booleans (count,), true half the time."""
    return uniform([count], key) < 0.5


def beta(count, alpha, key) -> tf.Tensor:
    """Numbers (count,) from the symmetric beta distribution with parameter `alpha`."""
    pair = tf.random.stateless_gamma([2, count], key, alpha)
    return tf.math.divide_no_nan(pair[0], pair[0] + pair[1])


def coin_of_image(index, seed) -> tf.Tensor:
    """A boolean for each position in the training set, true half the time, never changing.

    The finishing steps of SplitMix64 (Steele et al., 2014, doi:10.1145/2660193.2660195).
    """
    x = tf.cast(_int64(index) + (_int64(seed) + 1) * 0x9E3779B9, tf.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = tf.bitwise.bitwise_xor(x, _shift_right(x, shift)) * tf.constant(factor, tf.uint64)
    return tf.equal(_shift_right(x, 63), 1)


def _shift_right(x, bits):
    return tf.bitwise.right_shift(x, tf.constant(bits, x.dtype))


def _int64(value):
    return tf.cast(value, tf.int64)
