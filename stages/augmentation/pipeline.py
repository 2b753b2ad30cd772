"""All variations that the settings ask for, in order."""

import numpy as np
import tensorflow as tf

from stages.augmentation.randaugment import randaugment
from stages.augmentation.transforms import (
    Fill,
    Integer,
    Key,
    PartKey,
    batch_key,
    coin_of_image,
    coins,
    cut_out,
    cutmix,
    flip_and_crop,
    mixup,
    subkey,
    transform,
    uniform,
    vary_brightness,
)
from stages.errors import UserError
from stages.parameters.augment import Augment

AFFINE = ("rotation", "width_shift", "height_shift", "shear", "zoom")
AMOUNTS = ("brightness", "crop_padding", "cutout", "mixup", "cutmix")


class Augmentation:
    """Varies batches as the `augment` section of the parameters says.

    Order: RandAugment, one affine transform (rotation, shift, shear, zoom), flips and crop,
    brightness, cutout, mixup or cutmix.

    Args:
        settings: that section.
        shape: (height, width, channels) of the images.

    Raises `UserError` for settings that images of this shape do not allow.
    """

    def __init__(self, settings: Augment, shape: tuple[int, int, int]):
        self.settings = settings
        height, width, _ = shape
        for name in ("crop_padding", "cutout"):
            value = getattr(settings, name)
            if value >= min(height, width):
                raise UserError(
                    f"augment.{name} = {value} must be less than the {height}x{width} of the images"
                )

    @property
    def active(self) -> bool:
        """Whether any variation is asked for."""
        settings = self.settings
        return (
            any(getattr(settings, name) for name in AFFINE + AMOUNTS)
            or settings.horizontal_flip != "none"
            or settings.vertical_flip != "none"
            or settings.randaugment.layers > 0
        )

    @property
    def mixes(self) -> bool:
        """Whether an image shows something of the one before it in the batch."""
        return bool(self.settings.mixup or self.settings.cutmix)

    @tf.autograph.experimental.do_not_convert  # no Python loops or branches on tensors within
    def __call__(
        self,
        images: tf.Tensor,
        labels: tf.Tensor,
        index: tf.Tensor,
        turns: tf.Tensor,
        epoch: Integer,
        step: Integer,
        seed: Integer,
        part: tuple[tf.Tensor, tf.Tensor] | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Vary a batch, or a part of one.

        Args:
            images: (n, height, width, channels), values 0 to 255, uint8 or float32.
            labels: float32 (n, classes), one-hot; mixup and cutmix mix them.
            index: int64 (n,), positions of the images in the training set.
            turns: int64 (n,), how often each was used before; alternating flips depend on both.
            epoch, step: counted from 0.
            part: of a part, the places int64 (n,) of its images in the batch, and the batch's
                length. Each image is varied as in the whole batch; where images are mixed, the
                first of the part is mixed with the last, and right only if that was before it.

        Returns float32 images (0 to 255) and float32 labels of the same shapes.
        """
        settings, key = self.settings, batch_key(seed, epoch, step)
        if part:
            key = PartKey(key, *part)
        images = self._geometry(images, index, turns, seed, key)
        images = tf.cast(images, tf.float32)
        if settings.brightness:
            images = vary_brightness(images, settings.brightness, subkey(key, 4))
        if settings.cutout:
            images = cut_out(images, settings.cutout, subkey(key, 5))
        labels = tf.cast(labels, tf.float32)
        return self._mix(images, labels, key)

    def _geometry(
        self, images: tf.Tensor, index: tf.Tensor, turns: tf.Tensor, seed: Integer, key: Key
    ) -> tf.Tensor:
        settings = self.settings
        fill = Fill(settings.fill, settings.fill_value)
        if settings.randaugment.layers:
            images = randaugment(
                images,
                settings.randaugment.layers,
                settings.randaugment.magnitude,
                fill,
                subkey(key, 0),
            )
        affine = {name: getattr(settings, name) for name in AFFINE}
        if any(affine.values()):
            shape = images.shape
            images = transform(images, **affine, fill=fill, key=subkey(key, 1))
            images.set_shape(shape)  # the sides are known, however many images there are
        count = tf.shape(images)[0]
        horizontal = vertical = None
        if settings.horizontal_flip == "random":
            horizontal = coins(count, subkey(key, 2))
        elif settings.horizontal_flip == "alternating":
            horizontal = coin_of_image(index, seed) ^ (turns % 2 == 1)
        if settings.vertical_flip == "random":
            vertical = coins(count, subkey(key, 3))
        if horizontal is None and vertical is None and not settings.crop_padding:
            return images
        return flip_and_crop(
            images, horizontal, vertical, settings.crop_padding, fill, subkey(key, 7)
        )

    def _mix(self, images: tf.Tensor, labels: tf.Tensor, key: Key) -> tuple[tf.Tensor, tf.Tensor]:
        settings = self.settings
        if settings.mixup and settings.cutmix:  # one or the other, image by image
            first = uniform([tf.shape(images)[0]], subkey(key, 8)) < 0.5
            a = mixup(images, labels, settings.mixup, subkey(key, 6))
            b = cutmix(images, labels, settings.cutmix, subkey(key, 9))
            return (
                tf.where(first[:, None, None, None], a[0], b[0]),
                tf.where(first[:, None], a[1], b[1]),
            )
        if settings.mixup:
            return mixup(images, labels, settings.mixup, subkey(key, 6))
        if settings.cutmix:
            return cutmix(images, labels, settings.cutmix, subkey(key, 9))
        return images, labels

    def variants(self, image: np.ndarray, count: int, seed: int) -> np.ndarray:
        """`count` variants, uint8 (count, h, w, c), of one `image`, uint8 (h, w, c)."""
        images = tf.repeat(tf.convert_to_tensor(image)[None], count, axis=0)
        labels = tf.ones([count, 1])
        index, turns = tf.range(count, dtype=tf.int64), tf.zeros(count, tf.int64)
        images, _ = self(images, labels, index, turns, 0, 0, seed)
        return np.clip(np.rint(images.numpy()), 0, 255).astype(np.uint8)
