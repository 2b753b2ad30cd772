"""All images of data/raw to pixels: in parallel, each content once, reusing earlier results."""

import hashlib
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from stages.errors import UserError
from stages.images.decode import UnreadableImage, decode_with_facts
from stages.images.fingerprints import APPEARANCE, appearances, digests, perceptual_hashes
from stages.images.reuse import FACT_TYPES, FACTS, Contents, Taken, Work, read_finished, take_over
from stages.parameters.pixels import PixelSettings, Preprocessing
from stages.progress import progress
from stages.store.processed import Shards, shard_starts
from stages.store.raw import REMEDY, read_images
from stages.store.tables import encode

# A batch is as much work as makes the cost of handing it over small, and so little memory that
# pixels are still in the cache of the core when they are hashed and written.
BATCH_IMAGES, BATCH_FILE_BYTES, BATCH_PIXEL_BYTES = 512, 2**20, 2**21

# Decoding releases Python's lock, but a small image takes longer in Python than in the decoder:
# threads (no start-up, nothing copied) for files above this size, processes below.
THREADS_FROM_BYTES = 32 * 2**10

# With fewer small images than this the processes would take longer to start than to work.
PROCESSES_FROM_IMAGES = 10_000

# Batches read ahead, for each thread.
WAITING = 2

ROWS_AT_A_TIME = 10_000


@dataclass(frozen=True)
class Processed:
    """What `process` made of the images of `manifest`: `contents`, and the `shards` they fill.

    `taken` says what of it comes from an earlier run; `damaged_tables` are those of the earlier
    run that were not as it wrote them.
    """

    manifest: pa.Table
    contents: Contents
    shards: Shards
    taken: Taken
    damaged_tables: list[str]

    def publish(self, folder: Path) -> None:
        """Put the finished shards in `folder`, without gaps where images were rejected."""
        self.shards.drop(np.flatnonzero(~self.contents.readable & ~self.taken.complete))
        self.shards.publish(folder)

    def index(self) -> Iterator[tuple]:
        """The rows of index.csv."""
        contents, starts = self.contents, self.shards.starts
        readable = contents.readable
        shard = np.searchsorted(starts, np.arange(len(readable)), side="right") - 1
        before = np.concatenate([[0], np.cumsum(readable)])
        row = before[:-1] - before[starts[shard]]
        names = [self.shards.path(number).name for number in range(len(starts) - 1)]
        for start in range(0, len(contents.content_of), ROWS_AT_A_TIME):
            content = contents.content_of[start : start + ROWS_AT_A_TIME]
            kept = np.flatnonzero(readable[content])
            content = content[kept]
            table = self.manifest.slice(start, ROWS_AT_A_TIME).take(pa.array(kept))
            facts = [contents.facts[name][content].tolist() for name in FACT_TYPES]
            yield from zip(
                *(table[name].to_pylist() for name in ("id", "path", "label")),
                *(table[name].to_pylist() for name in ("split", "group", "sha256")),
                [names[number] for number in shard[content].tolist()],
                row[content].tolist(),
                *(
                    [value.decode() for value in column] if FACTS[number].kind == "S" else column
                    for number, column in enumerate(facts)
                ),
                strict=True,
            )

    def readable_per_class(self) -> dict[str, int]:
        """How many images of each class of the manifest could be read, sorted by class."""
        labels, names = encode(self.manifest["label"])
        readable = self.contents.readable[self.contents.content_of]
        counts = np.bincount(labels[readable], minlength=len(names))
        return dict(sorted(zip(names.to_pylist(), counts.tolist(), strict=True)))

    def narrow(self, levels: int) -> list[tuple[str, int]]:
        """Path and levels of the images of 16 bits that use fewer than `levels` of 65,536."""
        facts = self.contents.facts
        wide = np.char.startswith(facts["mode"], b"I") & self.contents.readable
        rows = np.flatnonzero((wide & (facts["levels"] < levels))[self.contents.content_of])
        paths = self.manifest["path"].take(pa.array(rows)).to_pylist()
        used = facts["levels"][self.contents.content_of[rows]] + 1
        return list(zip(paths, used.tolist(), strict=True))

    def rejects(self) -> list[tuple[str, str, str]]:
        """The rows of rejects.csv: file, reason, hash."""
        rows = np.flatnonzero(~self.contents.readable[self.contents.content_of])
        table = self.manifest.select(["path", "sha256"]).take(pa.array(rows))
        return [
            (path, self.contents.reasons[content], sha256)
            for path, content, sha256 in zip(
                table["path"].to_pylist(),
                self.contents.content_of[rows].tolist(),
                table["sha256"].to_pylist(),
                strict=True,
            )
        ]


def process(
    raw: str | Path,
    manifest: pa.Table,
    settings: Preprocessing,
    work: Path,
    previous: Path,
    workers: int | None = None,
) -> Processed:
    """Decode the images that `manifest` names in `raw`, into shards in a new folder under `work`.

    `settings` is what dataset.json keeps as `preprocess`. Results made with the same, in the
    folder `previous` or left in `work` by runs that did not end, are verified and taken over;
    they end in the same bytes as new ones would. The number of `workers` (None: one a core)
    makes no difference either. Raises `UserError` if `raw` is not what `manifest` says.
    """
    contents = Contents.from_manifest(manifest)
    starts = shard_starts(_texts(contents.hashes), settings.shape)
    here = Work(work, settings, starts)
    shards = Shards(here.folder, settings.shape, starts)
    finished, damaged_tables = read_finished(Path(previous), settings)
    taken = take_over(finished, here.unfinished(), contents, shards, workers)
    here.replace_earlier(contents, taken)
    wanted = np.flatnonzero(~taken.known)
    average = sum(f.stat().st_size for f in Path(raw).iterdir()) / max(1, len(manifest))
    files = _Files(raw, manifest, contents, wanted)
    tasks = _batches(files, math.prod(settings.shape))
    with closing(here), progress(len(wanted), "images", "decoding") as bar:
        results = _parallel(tasks, settings, shards, len(wanted), average, workers)
        try:
            for rows, facts, reasons in results:
                contents.facts[rows] = facts
                contents.reasons.update(reasons)
                here.remember(contents, rows, list(reasons))
                bar.update(len(rows) + len(reasons))
        except _OtherFile as error:
            path = files.path(error.args[0])
            raise files.damaged(f"{path} is not the file that its manifest names") from None
    files.check()
    return Processed(manifest, contents, shards, taken, damaged_tables)


def _texts(column: pa.Array) -> Iterator[str]:
    """The values of `column`, a bounded number of them in memory."""
    for start in range(0, len(column), ROWS_AT_A_TIME):
        yield from column.slice(start, ROWS_AT_A_TIME).to_pylist()


class _Files:
    """Yields (content, its SHA-256, the file) for each of the contents `wanted` of `raw`.

    What cannot be read ends it, and is raised by `check`: where the files are handed out, to
    several workers, an exception would be lost.
    """

    def __init__(self, raw: str | Path, manifest: pa.Table, contents: Contents, wanted: np.ndarray):
        self._raw, self._manifest, self._contents, self._wanted = raw, manifest, contents, wanted
        self._error: Exception | None = None

    def __iter__(self) -> Iterator[tuple[int, str, bytes]]:
        contents = self._contents
        try:
            for row, data in read_images(self._raw, self._manifest, contents.first[self._wanted]):
                content = int(contents.content_of[row])
                yield content, contents.hashes[content].as_py(), data
        except Exception as error:  # the archives' libraries raise nearly anything
            self._error = error

    def check(self) -> None:
        """Raise what went wrong, damaged archives as `UserError`."""
        match self._error:
            case None:
                return
            case PermissionError() | UserError() | MemoryError():
                raise self._error
            case _:
                what = str(self._error) or type(self._error).__name__
        raise self.damaged(what) from None

    def damaged(self, what: str) -> UserError:
        return UserError(f"{self._raw} is damaged ({what}); {REMEDY}")

    def path(self, content: int) -> str:
        return self._manifest["path"][int(self._contents.first[content])].as_py()


class _OtherFile(Exception):
    """The file of a content, whose number this holds, is not the one that the manifest names."""


# The files of a batch, each as (content, its SHA-256, bytes).
Task = list[tuple[int, str, bytes]]

# Contents that are done, their facts, and the reasons why others are not.
Done = tuple[np.ndarray, np.ndarray, dict[int, str]]


def _batches(files: Iterable[tuple[int, str, bytes]], pixel_bytes: int) -> Iterator[Task]:
    most = min(BATCH_IMAGES, max(1, BATCH_PIXEL_BYTES // pixel_bytes))
    batch, size = [], 0
    for file in files:
        batch.append(file)
        size += len(file[2])
        if len(batch) >= most or size >= BATCH_FILE_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _parallel(
    tasks: Iterable[Task],
    settings: PixelSettings,
    shards: Shards,
    count: int,
    average_bytes: float,
    workers: int | None,
) -> Iterator[Done]:
    """What `_decode_batch` makes of each of `tasks`, which hold `count` files in all."""
    workers = workers or os.cpu_count() or 1
    threads = average_bytes >= THREADS_FROM_BYTES
    work = partial(_decode_batch, settings=settings, shards=shards)
    if workers == 1 or not (threads or count >= PROCESSES_FROM_IMAGES):
        yield from map(work, tasks)
        return
    if threads:
        yield from _in_threads(work, tasks, workers)
        return
    from joblib import Parallel, delayed  # late: not needed for small data, and slow to import

    parallel = Parallel(n_jobs=workers, return_as="generator_unordered", batch_size=1)
    yield from parallel(delayed(work)(task) for task in tasks)


def _in_threads(
    work: Callable[[Task], Done], tasks: Iterable[Task], workers: int
) -> Iterator[Done]:
    """`work` of each of `tasks`, in their order; of these, a bounded number is in memory."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Done]] = deque()
        try:
            for task in tasks:
                waiting.append(pool.submit(work, task))
                if len(waiting) >= WAITING * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _decode_batch(batch: Task, settings: PixelSettings, shards: Shards) -> Done:
    """Decode, describe and store (content, SHA-256, file): (contents, their facts, reasons)."""
    images = np.empty((len(batch), *settings.shape), np.uint8)
    facts = np.zeros(len(batch), FACTS)
    done: list[int] = []
    reasons: dict[int, str] = {}
    for content, sha256, data in sorted(batch):
        if hashlib.sha256(data).hexdigest() != sha256:
            raise _OtherFile(content)
        try:
            images[len(done)], seen = decode_with_facts(data, settings)
        except UnreadableImage as error:
            reasons[content] = str(error)
            continue
        facts[len(done)] = (b"", b"", *seen, len(data), *[0] * len(APPEARANCE))
        done.append(content)
    images, facts, rows = images[: len(done)], facts[: len(done)], np.array(done, np.int64)
    if done:
        facts["pixels"] = digests(images)
        facts["perceptual"] = perceptual_hashes(images)
        for name, values in appearances(images).items():
            facts[name] = values
        shards.write(rows, images)
    return rows, facts, reasons
