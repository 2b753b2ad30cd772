"""Mix pairs of images and their labels: mixup and cutmix.

Each image is mixed with the next of its batch; batches are shuffled, so any pair can meet.
"""

import tensorflow as tf

from stages.augmentation.randomness import beta, subkey, uniform


def mixup(images, labels, alpha: float, key):
    """Mixup (Zhang et al., 2017, arXiv:1710.09412): weighted means of pairs.

    Args:
        images: float32 (n, height, width, channels).
        labels: float32 (n, classes).
        alpha: parameter of the beta distribution that weights are drawn from, for each image;
            small values leave most images nearly alone, 1 mixes evenly.
    """
    weight = beta(tf.shape(images)[0], alpha, key)
    return (
        _mean(images, weight[:, None, None, None]),
        _mean(labels, weight[:, None]),
    )


def cutmix(images, labels, alpha: float, key):
    """CutMix (Yun et al., 2019, arXiv:1905.04899): a rectangle of one image over the other.

    Arguments as in `mixup`. Labels are weighted by the areas the two images really show.
    """
    count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    side = tf.sqrt(1 - beta(count, alpha, subkey(key, 0)))
    inside, shares = [], []
    for number, length in ((1, height), (2, width)):
        centre = uniform([count], subkey(key, number), 0, length)
        low = tf.round(tf.clip_by_value(centre - side * length / 2, 0, length))
        high = tf.round(tf.clip_by_value(centre + side * length / 2, 0, length))
        place = tf.range(length, dtype=tf.float32)[None]
        inside.append((place >= low[:, None]) & (place < high[:, None]))
        shares.append((high - low) / length)
    box = inside[0][:, :, None, None] & inside[1][:, None, :, None]
    other = tf.roll(images, 1, axis=0)
    return tf.where(box, other, images), _mean(labels, (1 - shares[0] * shares[1])[:, None])


def _mean(values, weight):
    return weight * values + (1 - weight) * tf.roll(values, 1, axis=0)
