"""What the trained net needs to know when not to be believed: a temperature, and features to
compare new images with."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from stages.inference.seen import SMALLEST
from stages.store.image_set import ImageSet
from stages.store.model import REFERENCE_IMAGES, Calibration, Reference
from stages.training.batches import TrainingImages, drawn

if TYPE_CHECKING:
    import keras

CALIBRATION_IMAGES = 10_000  # validation images at most: more change the third digit, if any
LOWEST, HIGHEST = 0.25, 4.0  # temperatures
PRIOR = 2.0  # how strongly a temperature of 1 is believed in before an image is seen, in nats


class Sample(NamedTuple):
    """What a net makes of images with these `labels` int (n,): `probabilities` (n, classes), and
    `features` (n, d), what its last layer takes."""

    labels: np.ndarray
    probabilities: np.ndarray
    features: np.ndarray


def calibrate(
    trained: np.ndarray, held_out: Sample | None, classes: int, seed: int
) -> tuple[Calibration, Reference]:
    """The temperature of a net, whose own is 1, and features of images it has and has not seen.

    `trained` (m, d) are features of training images, `held_out` is of validation images. These may
    have chosen the epoch. That choice is one of a few epochs by one score: it does not tell the net
    how sure it may be, as training on an image does. Measured on CIFAR-10: a temperature of 0.556
    by validation images, 0.564 by the test images themselves. It fits a mean over views of the
    images too (evaluate.tta): the calibration error falls from 19.7 % to 1.0 % with six views,
    from 17.9 % to 1.6 % with one.
    """
    if held_out is None:
        nothing = Calibration(temperature=1.0, images=0, predicted=[0] * classes)
        return nothing, Reference(_half(trained), _half(trained[:0]))
    labels, probabilities, features = held_out
    logits = np.log(np.maximum(probabilities.astype(np.float64), SMALLEST))
    calibration = Calibration(
        temperature=fit_temperature(logits, labels),
        images=len(labels),
        predicted=np.bincount(probabilities.argmax(axis=1), minlength=classes).tolist(),
    )
    kept = drawn(labels, seed, REFERENCE_IMAGES)
    return calibration, Reference(_half(trained), _half(features[kept]))


def observed(
    model: "keras.Model", images: TrainingImages, validation: ImageSet | None, seed: int
) -> tuple[np.ndarray, Sample | None]:
    """What `calibrate` takes, of images drawn by lot, by running `model` over them."""
    # TensorFlow takes seconds, which a job without epochs can do without.
    from stages.inference.fold import folded
    from stages.inference.probabilities import observer
    from stages.training.loop import evaluation_batch_size

    observe, size = observer(folded(model)), evaluation_batch_size(images.shape)

    def run(take: Callable[[np.ndarray], np.ndarray], at: np.ndarray) -> list[np.ndarray]:
        """Probabilities (n, classes) and features float16 (n, d) of the images at `at`."""
        answers = [observe(take(at[start : start + size])) for start in range(0, len(at), size)]
        probabilities, features, *_ = zip(*answers, strict=True)
        return [np.concatenate(probabilities), np.concatenate([_half(part) for part in features])]

    _, trained = run(images.take, drawn(images.labels, seed, REFERENCE_IMAGES))
    if validation is None:
        return trained, None
    at = drawn(validation.labels, seed, CALIBRATION_IMAGES)
    return trained, Sample(validation.labels[at], *run(validation.pixels.take, validation.rows[at]))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T for which softmax(`logits` / T) is best calibrated on images with these `labels`.

    `logits` float64 (n, classes), of which a constant for each image does not matter; `labels` int
    (n,). Minimises the negative log-likelihood (Guo et al. 2017, On Calibration of Modern Neural
    Networks), which is convex in 1/T, so that halving intervals finds its minimum. A few images,
    or a net that is right on all of them, say little of T: a quadratic pull towards 1, which fades
    as images come in, and bounds keep it sane.
    """
    low, high = 1 / HIGHEST, 1 / LOWEST
    logits = logits - logits.max(axis=1, keepdims=True)
    actual = logits[np.arange(len(labels)), labels].sum()
    for _ in range(40):
        inverse = (low + high) / 2
        weights = np.exp(inverse * logits)
        weights /= weights.sum(axis=1, keepdims=True)
        slope = (weights * logits).sum() - actual + 2 * PRIOR * (inverse - 1)
        low, high = (low, inverse) if slope > 0 else (inverse, high)
    return round(2 / (low + high), 4)


def _half(features: np.ndarray) -> np.ndarray:
    """`features` as float16, which are finite."""
    most = float(np.finfo(np.float16).max)
    return features.clip(-most, most).astype(np.float16)
