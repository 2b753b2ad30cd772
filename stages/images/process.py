"""All images of data/raw to pixels: in parallel, each content once, reusing earlier results."""

import hashlib
import math
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from stages.errors import UserError
from stages.images.decode import UnreadableImage, decode_with_facts
from stages.images.fingerprints import APPEARANCE, DECODER, appearances, digests, perceptual_hashes
from stages.images.reuse import FACT_TYPES, FACTS, Contents, Taken, Work, read_finished, take_over
from stages.parameters.pixels import PixelSettings, Preprocessing
from stages.progress import progress
from stages.store.archives import is_direct
from stages.store.blobs import copy_file
from stages.store.processed import Shards, shard_starts
from stages.store.raw import REMEDY, read_images
from stages.store.tables import encode
from stages.workers import cluster, each, in_threads, own_folder, this_worker

# A batch is as much work as makes the cost of handing it over small, and so little memory that
# pixels are still in the cache of the core when they are hashed and written.
BATCH_IMAGES, BATCH_FILE_BYTES, BATCH_PIXEL_BYTES = 512, 2**20, 2**21

# Decoding releases Python's lock, but a small image takes longer in Python than in the decoder:
# threads (no start-up, nothing copied) for files above this size, processes below.
THREADS_FROM_BYTES = 32 * 2**10

# With fewer small images than this the processes would take longer to start than to work.
PROCESSES_FROM_IMAGES = 10_000

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
    decode = _in_cluster if cluster() else _on_this_machine
    # Every core has an image at work. Threads that a product of matrices has for itself would wait
    # for the next one in a busy loop, which took half of the time.
    with (
        closing(here),
        progress(len(wanted), "images", "decoding") as bar,
        threadpool_limits(1),
    ):
        for rows, facts, reasons in decode(
            raw, manifest, contents, wanted, settings, shards, workers
        ):
            contents.facts[rows] = facts
            contents.reasons.update(reasons)
            here.remember(contents, rows, list(reasons))
            bar.update(len(rows) + len(reasons))
    return Processed(manifest, contents, shards, taken, damaged_tables)


def _texts(column: pa.Array) -> Iterator[str]:
    """The values of `column`, a bounded number of them in memory."""
    for start in range(0, len(column), ROWS_AT_A_TIME):
        yield from column.slice(start, ROWS_AT_A_TIME).to_pylist()


class _Files:
    """Yields (content, its SHA-256, the file) for images of `raw`: `rows` of `manifest`, or all.

    `content_of` int (rows of `manifest`,): their contents, to which `hashes` belong. What cannot
    be read ends it, and is raised by `check`: where the files are handed out, to several workers,
    an exception would be lost.
    """

    def __init__(
        self,
        raw: str | Path,
        manifest: pa.Table,
        content_of: np.ndarray,
        hashes: pa.Array,
        rows: np.ndarray | None = None,
    ):
        self._raw, self._manifest, self._rows = raw, manifest, rows
        self._content_of, self._hashes = content_of, hashes
        self._error: Exception | None = None

    def __iter__(self) -> Iterator[tuple[int, str, bytes]]:
        try:
            for row, data in read_images(self._raw, self._manifest, self._rows):
                content = int(self._content_of[row])
                yield content, self._hashes[content].as_py(), data
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
        raise self._damaged(what) from None

    def other(self, content: int) -> UserError:
        """What to raise if the file of `content` does not have its hash."""
        path = self._manifest["path"][int(np.argmax(self._content_of == content))].as_py()
        return self._damaged(f"{path} is not the file that its manifest names")

    def _damaged(self, what: str) -> UserError:
        return UserError(f"{self._raw} is damaged ({what}); {REMEDY}")


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


def _on_this_machine(
    raw: str | Path,
    manifest: pa.Table,
    contents: Contents,
    wanted: np.ndarray,
    settings: Preprocessing,
    shards: Shards,
    workers: int | None,
) -> Iterator[Done]:
    """What `_decode_batch` makes of the contents `wanted`."""
    files = _Files(raw, manifest, contents.content_of, contents.hashes, contents.first[wanted])
    average = sum(f.stat().st_size for f in Path(raw).iterdir()) / max(1, len(manifest))
    tasks = _batches(files, math.prod(settings.shape))
    try:
        yield from _parallel(tasks, settings, shards, len(wanted), average, workers)
    except _OtherFile as error:
        raise files.other(error.args[0]) from None
    files.check()


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
        yield from in_threads(work, tasks, workers)
        return
    from joblib import Parallel, delayed  # late: not needed for small data, and slow to import

    parallel = Parallel(n_jobs=workers, return_as="generator_unordered", batch_size=1)
    yield from parallel(delayed(work)(task) for task in tasks)


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


# In a cluster a task is a whole shard. Its worker reads the files from the raw archives itself and
# writes the pixels itself; through the network of Dask go the rows of the manifest and the facts.
# And a file on a network file system has one writer: caches of two may undo what the other wrote.


@dataclass(frozen=True)
class _Part:
    """What is to be decoded of shard `number`, the file `path` with `count` rows.

    `files` has `sha256`, `shard` and `member` of each, `rows` int64 (n,) are theirs in the shard.
    """

    number: int
    path: Path
    count: int
    files: pa.Table
    rows: np.ndarray


@dataclass(frozen=True)
class _PartDone:
    """The shard with what has been decoded, `file`; the rest as in `Done`, by row of the shard."""

    number: int
    file: Path
    done: Done


def _in_cluster(
    raw: str | Path,
    manifest: pa.Table,
    contents: Contents,
    wanted: np.ndarray,
    settings: Preprocessing,
    shards: Shards,
    workers: int | None,
) -> Iterator[Done]:
    """As `_on_this_machine`, by the workers of the cluster.

    A tar is read from its start, so that every task would read it whole: this machine does it, in
    one pass.
    """
    spread = _spread(raw, manifest, contents.first[wanted])
    if not spread.all():
        alone = wanted[~spread]
        print(
            f"{len(alone):,} images are in tar archives, which are read from the start: this "
            "machine decodes them, not the cluster (a zip or a folder would be shared out)",
            file=sys.stderr,
        )
        yield from _on_this_machine(raw, manifest, contents, alone, settings, shards, workers)
    work = partial(_decode_part, raw=raw, settings=settings)
    for part in each(work, _parts(manifest, contents, wanted[spread], shards)):
        os.replace(part.file, shards.path(part.number))
        shutil.rmtree(part.file.parent, ignore_errors=True)
        rows, facts, reasons = part.done
        first = int(shards.starts[part.number])
        yield first + rows, facts, {first + row: reason for row, reason in reasons.items()}


def _spread(raw: str | Path, manifest: pa.Table, rows: np.ndarray) -> np.ndarray:
    """Which of the images at `rows` of `manifest` can be read without those before, bool (n,)."""
    archive, names = encode(manifest["shard"])
    paths = [Path(raw) / name for name in names.to_pylist()]
    direct = [not path.is_file() or is_direct(path) for path in paths]  # a worker misses it, too
    return np.array(direct, bool)[archive[rows]]


def _parts(
    manifest: pa.Table, contents: Contents, wanted: np.ndarray, shards: Shards
) -> Iterator[_Part]:
    number_of = np.searchsorted(shards.starts, wanted, side="right") - 1
    files = manifest.select(["sha256", "shard", "member"])
    for number in np.unique(number_of).tolist():
        chosen = wanted[slice(*np.searchsorted(number_of, [number, number + 1]))]
        at = contents.first[chosen]  # ascending
        # To take from all files would cost as many as they are.
        near = files.slice(at[0], at[-1] - at[0] + 1)
        table = near.take(pa.array(at - at[0])).combine_chunks()
        first, end = shards.starts[number : number + 2].tolist()
        yield _Part(number, shards.path(number), end - first, table, chosen - first)


def _decode_part(part: _Part, raw: str | Path, settings: Preprocessing) -> _PartDone:
    if settings.decoder not in (None, DECODER):
        raise UserError(
            f"{this_worker()} decodes by {DECODER}, this machine by {settings.decoder}; install "
            "the same requirements there and start it again"
        )
    folder = own_folder(part.path.parent)
    shard = Shards(folder, settings.shape, np.array([0, part.count]))
    if len(part.rows) == part.count:
        shard.create(0)
    else:  # the others are there already
        copy_file(part.path, shard.path(0))
    at = np.zeros(part.count, np.int64)
    at[part.rows] = np.arange(len(part.rows))
    hashes = part.files["sha256"].combine_chunks().take(pa.array(at))
    table = part.files.append_column("path", part.files["member"])
    files = _Files(raw, table, part.rows, hashes)
    done, facts = [np.empty(0, np.int64)], [np.empty(0, FACTS)]
    reasons: dict[int, str] = {}
    try:
        for batch in _batches(files, math.prod(settings.shape)):
            rows, known, why = _decode_batch(batch, settings, shard)
            done.append(rows)
            facts.append(known)
            reasons |= why
    except _OtherFile as error:
        raise files.other(error.args[0]) from None
    files.check()
    return _PartDone(
        part.number, shard.path(0), (np.concatenate(done), np.concatenate(facts), reasons)
    )
