"""Does an exported model give the answers that evaluate judged? On every test image, from its file.

What differs is seldom the net: nearly always the image was decoded or resized in another way. So
nothing is taken from data/processed here: the files as they were given go through the very
decoding that predict does, and what comes out has to be what the model was judged by.
"""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.errors import UserError
from stages.images.decode import UnreadableImage, decode
from stages.inference.exported import load_exported
from stages.metrics.paired import LEVEL, Comparison
from stages.metrics.scores import Scores
from stages.parameters.export import Limits
from stages.parameters.pixels import PixelSettings
from stages.progress import progress
from stages.store.exported import Exported
from stages.store.image_set import ImageSet
from stages.store.names import printable
from stages.store.raw import read_images, read_manifest

# A function from uint8 (n, height, width, channels) to probabilities float32 (n, classes).
Classifier = Callable[[np.ndarray], np.ndarray]

BATCH_IMAGES, BATCH_PIXELS = 128, 2**20  # at a time, at most: 20 of 224x224
ROUNDS = 5  # of taking times, at most: none begins after so many seconds
ENOUGH_SECONDS = 2.0
SINGLES = 10  # images of each that are timed one by one
SINGLE, MANY = "milliseconds_per_single_image", "images_per_second"


class Turn(NamedTuple):
    """Seconds for each of `SINGLES` images alone, and for a batch."""

    singles: list[float]
    batch: float


# A function from the images of a batch, uint8 (n, height, width, channels), to the times of a turn.
Timer = Callable[[np.ndarray], Turn]


def prove(
    folder: Path,
    exported: Exported,
    keras: Timer,
    raw: Path,
    test: ImageSet,
    expected: np.ndarray,
    limits: Limits,
) -> tuple[dict[str, Scores], dict[str, dict[str, float]]]:
    """Compare the formats in `folder`, of which `exported` tells, with the Keras model.

    `expected` float32 (n, classes) are the answers that evaluate got from it for the images `test`,
    whose files are in `raw`; `keras` times it. Returns the figures of each format, and how fast
    each and Keras are. Raises `UserError` for a format past `limits`.
    """
    formats: dict[str, Classifier] = {
        name: _classifier(folder / one.file) for name, one in exported.files.items()
    }
    height, width = exported.preprocess.size
    batch_size = max(1, min(BATCH_IMAGES, BATCH_PIXELS // (height * width)))
    batches = from_files(raw, test, exported.preprocess, batch_size)
    found = compare(formats, batches, test.labels, expected)
    parity: dict[str, Scores] = {
        name: {"bytes": one.bytes, **found[name]} for name, one in exported.files.items()
    }
    failed, doubtful = past_limits(parity, limits)
    if failed:
        raise UserError(
            f"{'; '.join(failed)}: raise the limit, or take the format off export.formats; what "
            "was exported before is kept"
        )
    timers = {name: partial(turn, classify) for name, classify in formats.items()}
    times = speeds({"keras": keras, **timers}, test.images(0, batch_size))
    print("\n".join(_line(name, of, times) for name, of in parity.items()), flush=True)
    for said in doubtful:
        print(f"warning: {said}, which may be chance: so few images do not tell", file=sys.stderr)
    return parity, times


def _classifier(path: Path) -> Classifier:
    _, observe = load_exported(path)
    return lambda images: observe(images).probabilities


def _line(name: str, of: Scores, times: dict[str, dict[str, float]]) -> str:
    single, many = (
        f"{times[name][key]:,g} (Keras {times['keras'][key]:,g})" for key in (SINGLE, MANY)
    )
    return (
        f"{name}: {of['bytes'] / 1e6:.2f} MB, accuracy {of['accuracy']:.2%}, the same class for "
        f"{of['agreement']:.2%} of {of['count']:,} test images, largest difference "
        f"{of['largest_difference']:.2g}; {single} ms an image, {many} images/s"
    )


def from_files(
    raw: Path, test: ImageSet, settings: PixelSettings, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield all of `test`, `batch_size` at a time, decoded from the files in the folder `raw`.

    Positions int (n,) in `test`, in the order of the archives, and uint8 (n, height, width,
    channels). Holds a batch, and two files for each core. Raises `UserError` for an image that
    comes out otherwise than data/processed has it.
    """
    manifest = read_manifest(raw)
    rows = pc.index_in(pa.array(test.ids, pa.string()), manifest["id"])
    if rows.null_count:
        raise UserError(f"{raw} lacks {rows.null_count:,} test images; run dvc repro")
    position = np.full(len(manifest), -1)
    position[rows.to_numpy()] = np.arange(len(test))
    files = read_images(raw, manifest, np.flatnonzero(position >= 0))
    decoded = _decoded(((int(position[row]), data) for row, data in files), test, settings)
    positions: list[int] = []
    images = np.empty((batch_size, *settings.shape), np.uint8)
    for at, image in decoded:
        images[len(positions)] = image
        positions.append(at)
        if len(positions) == batch_size:
            yield _checked(positions, images, test)
            positions, images = [], np.empty_like(images)
    if positions:
        yield _checked(positions, images[: len(positions)], test)


def _decoded(
    files: Iterable[tuple[int, bytes]], test: ImageSet, settings: PixelSettings
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode (position in `test`, file) in threads, a bounded number ahead."""

    def image(at: int, data: bytes) -> np.ndarray:
        try:
            return decode(data, settings)
        except UnreadableImage as error:
            raise _other(f"{test.paths[at]} cannot be read any more ({error})") from None

    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[tuple[int, Future]] = deque()
        try:
            for at, data in files:
                ahead.append((at, pool.submit(image, at, data)))
                if len(ahead) > 2 * workers:
                    at, done = ahead.popleft()
                    yield at, done.result()
            for at, done in ahead:
                yield at, done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _checked(
    positions: list[int], images: np.ndarray, test: ImageSet
) -> tuple[np.ndarray, np.ndarray]:
    at = np.array(positions)
    differ = (images != test.pixels.take(test.rows[at])).any(axis=(1, 2, 3))
    if differ.any():
        path = test.paths[at[differ.argmax()]]
        raise _other(f"{path} comes out with other pixels than {test.pixels.folder} holds")
    return at, images


def _other(what: str) -> UserError:
    """The error that a file is not decoded as it was for training."""
    return UserError(
        f"{printable(what)}: predict would see another image than evaluate judged; run "
        "dvc repro --single-item --force preprocess, then dvc repro"
    )


def compare(
    classifiers: Mapping[str, Classifier],
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    labels: np.ndarray,
    expected: np.ndarray,
) -> dict[str, Scores]:
    """How far the answers of each of `classifiers` are from those `expected`, by its name.

    `batches` as `from_files` gives them; `labels` int (n,) and `expected` float32 (n, classes) of
    all images. Raises `UserError` for answers that are no numbers.
    """
    found = {name: Comparison() for name in classifiers}
    with progress(len(labels), "images", "comparing") as bar:
        for at, images in batches:
            for name, classify in classifiers.items():
                answers = classify(images)
                if not np.isfinite(answers).all():
                    raise UserError(
                        f"{name} gives no numbers (NaN) where the Keras model does; leave it out "
                        "of export.formats"
                    )
                found[name].add(labels[at], expected[at], answers)
            bar.update(len(at))
    return {name: comparison.figures() for name, comparison in found.items()}


def past_limits(parity: Mapping[str, Scores], limits: Limits) -> tuple[list[str], list[str]]:
    """In sentences: what is past `limits`, for which the stage fails, and what may be chance.

    A net in float32 is the same net, so no probability may differ by more than rounding makes it.
    Weights of 16 bits are other weights: only the classes have to be the same, but for an image
    in a thousand, or one at all, since any rounding turns a tie. A net of whole numbers is
    another classifier, judged by its accuracy: a loss past the limit fails if McNemar's test can
    tell it from chance, which few test images do not allow for one or two of them.
    """
    failed: list[str] = []
    doubtful: list[str] = []
    for name, figures in parity.items():
        count = int(figures["count"])
        if name == "litert_int8":
            lost = int(figures["broken"] - figures["fixed"])
            if lost > limits.int8_loss * count + 1e-9:
                said = (
                    f"{name} loses {100 * lost / count:.2f} points of accuracy ({lost:,} of "
                    f"{count:,} test images, McNemar p = {figures['mcnemar_p']:.3g}), more than "
                    f"export.limits.int8_loss = {limits.int8_loss:g} allows"
                )
                (failed if figures["mcnemar_p"] < 1 - LEVEL else doubtful).append(said)
            continue
        far = figures["largest_difference"] > limits.float_difference
        if far and name != "litert_float16":
            failed.append(
                f"a probability of {name} differs by {figures['largest_difference']:g}, more than "
                f"export.limits.float_difference = {limits.float_difference:g} allows"
            )
        other = round((1 - figures["agreement"]) * count)
        if other > max(1, (1 - limits.agreement) * count + 1e-9):
            failed.append(
                f"{name} says another class for {other:,} of {count:,} test images, more than "
                f"export.limits.agreement = {limits.agreement:g} allows"
            )
    return failed, doubtful


def turn(classify: Classifier, images: np.ndarray) -> Turn:
    """How long `classify` takes for the first of `images` and for all of them."""
    # Each shape once before: some compile for it, and threads of others come to rest.
    classify(images[:1])
    singles = [_seconds(classify, images[:1]) for _ in range(SINGLES)]
    classify(images)
    return Turn(singles, _seconds(classify, images))


def _seconds(classify: Classifier, images: np.ndarray) -> float:
    started = time.perf_counter()
    classify(images)
    return time.perf_counter() - started


def speeds(timers: Mapping[str, Timer], images: np.ndarray) -> dict[str, dict[str, float]]:
    """How fast what each of `timers` times is: `SINGLE` for an image alone, `MANY` of a batch.

    Medians, taken in turns so that all meet the same conditions. `images`, at least one, are the
    batch.
    """
    turns: dict[str, list[Turn]] = {name: [] for name in timers}
    started = time.perf_counter()
    for number in range(ROUNDS):
        if number and time.perf_counter() - started > ENOUGH_SECONDS:
            break
        for name, timer in timers.items():
            turns[name].append(timer(images))
    return {
        name: {
            SINGLE: round(1000 * float(np.median([one for each in of for one in each.singles])), 3),
            MANY: round(len(images) / float(np.median([each.batch for each in of])), 1),
        }
        for name, of in turns.items()
    }
