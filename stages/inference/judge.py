"""A model judged on whole sides: what it makes of their images, and when to believe it."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from stages.errors import UserError
from stages.inference import trust
from stages.inference.probabilities import observer
from stages.inference.seen import Seen
from stages.metrics import scores
from stages.parameters.evaluate import Evaluate
from stages.progress import progress
from stages.store.image_set import ImageSet
from stages.store.model import Limit, ModelInfo, Reference

# What the model makes of images


class Judged(NamedTuple):
    """What the model makes of images: `probabilities` float32 (n, classes), `distance` float32
    (n,) from the training images (NaN if unknown), `place` float32 (n, 2) on the map of features.
    """

    probabilities: np.ndarray
    distance: np.ndarray
    place: np.ndarray


def judge_of(
    observe: Callable[[np.ndarray], Seen], reference: Reference | None
) -> Callable[[np.ndarray], Judged]:
    """A function from global rows of the pixels, int (n,), to what the model makes of those images.

    `observe` is the model's, of the same rows.
    """
    mean, axes = trust.plane(reference.trained) if reference else (0.0, np.zeros((1, 2)))

    def judge(rows: np.ndarray) -> Judged:
        seen = observe(rows)
        features = seen.features if reference else np.zeros((len(rows), 1))
        place = ((features - mean) @ axes).astype(np.float32)
        return Judged(seen.probabilities, seen.distance, place)

    return judge


def look_at(
    judge: Callable[[np.ndarray], Judged], images: ImageSet, batch_size: int, what: str
) -> Judged:
    """What the model makes of `images`; holds one batch of pixels and features at a time."""
    parts = [judge(images.rows[:0])]  # for the shapes, if there are no images
    with progress(len(images), "images", what) as bar:
        for start in range(0, len(images), batch_size):
            rows = images.rows[start : start + batch_size]
            parts.append(judge(rows))
            bar.update(len(rows))
    seen = Judged(*map(np.concatenate, zip(*parts, strict=True)))
    if bad := int((~np.isfinite(seen.probabilities)).any(axis=1).sum()):
        raise UserError(
            f"the model gives no numbers (NaN) for {bad:,} of {len(images):,} {what}: its training "
            "diverged; lower train.optimizer.learning_rate and train again"
        )
    return seen


def accuracy_by_epoch(
    model: keras.Model, folder: Path, extra: ImageSet, settings: Evaluate
) -> list[tuple]:
    """Accuracy on the extra set with the weights of each epoch saved in `folder`. Nothing is
    chosen by it."""
    observe, rows = observer(model, settings.tta), []
    judge = judge_of(lambda at: observe(extra.pixels.take(at)), None)
    for path in sorted(folder.glob("epoch-*.weights.h5")):
        model.load_weights(path)
        seen = look_at(judge, extra, settings.batch_size, f"extra images, {path.stem}")
        right = seen.probabilities.argmax(axis=1) == extra.labels
        accuracy = scores.accuracy(int(right.sum()), len(extra))
        accuracy.pop("count")
        rows.append((int(path.name.split(".")[0].removeprefix("epoch-")), *accuracy.values()))
    return rows


def seconds_per_single_image(
    observe: Callable[[np.ndarray], Seen], image: np.ndarray, runs: int = 20
) -> float:
    """Median time of one `image` uint8 (1, h, w, c) alone, as a service would see it."""
    observe(image)  # the first takes longer
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        observe(image)
        times.append(time.perf_counter() - started)
    return float(np.median(times))


# When to believe it


class Limits(NamedTuple):
    """Thresholds that the validation images give, None where they are too few."""

    sets: Limit | None
    unlike: Limit | None


def ordinary_distances(
    info: ModelInfo, reference: Reference | None, held_out: Judged
) -> np.ndarray:
    """How far from the training images are images like them, float32 (n,).

    Those that the net did not learn from: the validation images, and where the backbone is frozen
    the training images too, each beside the others.
    """
    ordinary = held_out.distance[np.isfinite(held_out.distance)]
    if reference and info.model.get("backbone") == "frozen" and len(reference.trained) > 1:
        ordinary = np.concatenate([ordinary, trust.nearest_other(reference.trained)])
    return ordinary


def limits_of(
    settings: Evaluate, labels: np.ndarray, held_out: Judged, ordinary: np.ndarray
) -> Limits:
    """The thresholds for what `settings` ask for, by the validation images, and by the distances
    of `ordinary` images."""
    sets = trust.set_threshold(held_out.probabilities, labels, settings.coverage)
    unlike = trust.quantile(ordinary, 1 - settings.unlike)
    return Limits(
        None if sets is None else Limit(share=settings.coverage, threshold=sets),
        None if unlike is None else Limit(share=settings.unlike, threshold=unlike),
    )


def unknown(settings: Evaluate, limits: Limits, val: int, ordinary: int) -> Iterator[str]:
    """What so many validation images, and so many `ordinary` distances, are too few for."""
    for limit, count, what, key, share in (
        (limits.sets, val, "prediction sets", "coverage", settings.coverage),
        (limits.unlike, ordinary, "image is called unlike", "unlike", 1 - settings.unlike),
    ):
        if limit is None:
            yield (
                f"no {what}: evaluate.{key} = {getattr(settings, key):g} needs at least "
                f"{trust.images_for(share):,} validation images, not {count:,}; raise split.val"
            )


def believed(
    limits: Limits, temperature: float, labels: np.ndarray, seen: Judged
) -> tuple[scores.Scores, np.ndarray | None, np.ndarray | None]:
    """How far the model's doubts can be believed, by the test images; their sets bool (n, classes)
    and which of them are unlike, bool (n,)."""
    raw = scores.without_temperature(seen.probabilities, temperature)
    correct = seen.probabilities.argmax(axis=1) == labels
    figures = {
        "temperature": temperature,
        "ece_before": scores.expected_calibration_error(correct, raw.max(axis=1)),
    }
    sets = unlike = None
    if limits.sets:
        sets = trust.prediction_sets(seen.probabilities, limits.sets.threshold)
        figures |= {"coverage_asked": limits.sets.share, "set_threshold": limits.sets.threshold}
        figures |= scores.score_sets(labels, sets)
    if limits.unlike:
        unlike = seen.distance > limits.unlike.threshold
        figures |= {"unlike_asked": limits.unlike.share, "unlike": unlike.mean()}
        figures["unlike_threshold"] = limits.unlike.threshold
    return scores.rounded(figures), sets, unlike
