"""All images of data/raw to pixels: in parallel, each content once, reusing earlier results."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.images.decode import Recipe, UnreadableImage, decode_with_facts
from stages.images.fingerprints import digests, perceptual_hashes
from stages.progress import progress
from stages.store.processed import Dataset, Pixels, Shards, shard_starts
from stages.store.raw import read_images
from stages.store.tables import encode, read_table

# What index.csv says of a content besides where its pixels are.
FACTS = np.dtype(
    [
        ("pixels", "S32"),
        ("perceptual", "S16"),
        ("width", np.int32),
        ("height", np.int32),
        ("mode", "S8"),
        ("format", "S8"),
        ("bytes", np.int64),
    ]
)

# A batch is as much work as makes the cost of handing it over small, and so little memory that
# pixels are still in the cache of the core when they are hashed and written.
BATCH_IMAGES, BATCH_FILE_BYTES, BATCH_PIXEL_BYTES = 512, 2**19, 2**20

# Decoding lets go of Python's lock, but a small image takes longer in Python than in the decoder:
# threads (no start-up, nothing copied) for files above this size, processes below.
THREADS_FROM_BYTES = 32 * 2**10

# With fewer small images than this the processes would take longer to start than to work.
PROCESSES_FROM_IMAGES = 10_000

ROWS_AT_A_TIME = 10_000


@dataclass
class Contents:
    """The distinct files of a manifest, in the order of their first mention.

    `of` int (images,): the content of each image. `hashes`: SHA-256 of each content. `first`
    int (contents,): the first image with it. Then, as results: `facts` (`FACTS`), and `reasons`
    why a content could not be read.
    """

    of: np.ndarray
    hashes: pa.Array
    first: np.ndarray
    facts: np.ndarray
    reasons: dict[int, str]

    @classmethod
    def of_manifest(cls, manifest: pa.Table) -> "Contents":
        of, hashes = encode(manifest["sha256"])
        first = np.unique(of, return_index=True)[1]
        return cls(of, hashes, first, np.zeros(len(first), FACTS), {})

    @property
    def readable(self) -> np.ndarray:
        """bool (contents,)"""
        readable = np.ones(len(self.first), bool)
        readable[list(self.reasons)] = False
        return readable


@dataclass(frozen=True)
class Processed:
    """What `process` made of the images of `manifest`: `contents`, their `shards`, and counts."""

    manifest: pa.Table
    contents: Contents
    shards: Shards
    decoded: int

    def index(self) -> Iterator[tuple]:
        """The rows of index.csv."""
        contents, starts = self.contents, self.shards.starts
        readable = contents.readable
        shard = np.searchsorted(starts, np.arange(len(readable)), side="right") - 1
        before = np.concatenate([[0], np.cumsum(readable)])
        row = before[:-1] - before[starts[shard]]
        names = [self.shards.path(number).name for number in range(len(starts) - 1)]
        for start in range(0, len(contents.of), ROWS_AT_A_TIME):
            of = contents.of[start : start + ROWS_AT_A_TIME]
            kept = np.flatnonzero(readable[of])
            of = of[kept]
            table = self.manifest.slice(start, ROWS_AT_A_TIME).take(pa.array(kept))
            facts = [contents.facts[name][of].tolist() for name in FACTS.names]
            yield from zip(
                *(table[name].to_pylist() for name in ("id", "path", "label")),
                *(table[name].to_pylist() for name in ("split", "group", "sha256")),
                [names[number] for number in shard[of].tolist()],
                row[of].tolist(),
                *(
                    [value.decode() for value in column] if FACTS[number].kind == "S" else column
                    for number, column in enumerate(facts)
                ),
                strict=True,
            )

    def labels(self) -> set[str]:
        """The classes of which at least one image could be read."""
        readable = pa.array(self.contents.readable[self.contents.of])
        return set(self.manifest["label"].filter(readable).unique().to_pylist())

    def rejects(self) -> list[tuple[str, str, str]]:
        """The rows of rejects.csv: file, reason, hash."""
        rows = np.flatnonzero(~self.contents.readable[self.contents.of])
        table = self.manifest.select(["path", "sha256"]).take(pa.array(rows))
        return [
            (path, self.contents.reasons[content], sha256)
            for path, content, sha256 in zip(
                table["path"].to_pylist(),
                self.contents.of[rows].tolist(),
                table["sha256"].to_pylist(),
                strict=True,
            )
        ]


def process(
    raw: str | Path,
    manifest: pa.Table,
    settings: dict,
    folder: Path,
    previous: Path,
    workers: int | None = None,
) -> Processed:
    """Fill `folder` with the pixels of the images that `manifest` names in `raw`.

    `settings` is what dataset.json keeps as `preprocess`. Results in the folder `previous` are
    reused if they were made with the same, and end in the same bytes as new ones would. The
    number of `workers` (None: one a core) makes no difference either.
    """
    recipe = Recipe.of(settings)
    contents = Contents.of_manifest(manifest)
    starts = shard_starts(_texts(contents.hashes), recipe.shape)
    shards = Shards(folder, recipe.shape, starts)
    known, complete = _reuse(Path(previous), settings, contents, shards)
    wanted = np.flatnonzero(~known)
    average = sum(f.stat().st_size for f in Path(raw).iterdir()) / max(1, len(manifest))
    files = _files(raw, manifest, contents, wanted)
    tasks = _batches(files, int(np.prod(recipe.shape)))
    with progress(len(wanted), "images", "decoding") as bar:
        for rows, facts, reasons in _parallel(tasks, recipe, shards, len(wanted), average, workers):
            contents.facts[rows] = facts
            contents.reasons.update(reasons)
            bar.update(len(rows) + len(reasons))
    shards.drop(np.flatnonzero(~contents.readable & ~complete))
    return Processed(manifest, contents, shards, len(wanted))


def _texts(column: pa.Array) -> Iterator[str]:
    """The values of `column`, a bounded number of them in memory."""
    for start in range(0, len(column), ROWS_AT_A_TIME):
        yield from column.slice(start, ROWS_AT_A_TIME).to_pylist()


def _files(raw, manifest, contents: Contents, wanted: np.ndarray) -> Iterator[tuple[int, bytes]]:
    for row, data in read_images(raw, manifest, contents.first[wanted]):
        yield int(contents.of[row]), data


def _batches(
    files: Iterable[tuple[int, bytes]], pixel_bytes: int
) -> Iterator[list[tuple[int, bytes]]]:
    most = min(BATCH_IMAGES, max(1, BATCH_PIXEL_BYTES // pixel_bytes))
    batch, size = [], 0
    for content, data in files:
        batch.append((content, data))
        size += len(data)
        if len(batch) >= most or size >= BATCH_FILE_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _parallel(tasks, recipe, shards, count, average_bytes, workers) -> Iterator[tuple]:
    workers = workers or os.cpu_count()
    threads = average_bytes >= THREADS_FROM_BYTES
    if workers == 1 or not (threads or count >= PROCESSES_FROM_IMAGES):
        for task in tasks:
            yield _decode_batch(task, recipe, shards)
        return
    from joblib import Parallel, delayed  # late: not needed for small data, and slow to import

    parallel = Parallel(
        n_jobs=workers,
        backend="threading" if threads else "loky",
        return_as="generator_unordered",
        batch_size=1,
    )
    yield from parallel(delayed(_decode_batch)(task, recipe, shards) for task in tasks)


def _decode_batch(
    batch: list[tuple[int, bytes]], recipe: Recipe, shards: Shards
) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Decode, describe and store (content, file) pairs: (contents, their facts, reasons)."""
    images = np.empty((len(batch), *recipe.shape), np.uint8)
    facts = np.zeros(len(batch), FACTS)
    done, reasons = [], {}
    for content, data in sorted(batch):
        try:
            images[len(done)], seen = decode_with_facts(data, recipe)
        except UnreadableImage as error:
            reasons[content] = str(error)
            continue
        facts[len(done)] = (b"", b"", seen.width, seen.height, seen.mode, seen.format, len(data))
        done.append(content)
    images, facts, rows = images[: len(done)], facts[: len(done)], np.array(done, np.int64)
    if done:
        facts["pixels"] = digests(images)
        facts["perceptual"] = perceptual_hashes(images)
        shards.write(rows, images)
    return rows, facts, reasons


def _reuse(
    previous: Path, settings: dict, contents: Contents, shards: Shards
) -> tuple[np.ndarray, np.ndarray]:
    """Create the shards with whatever the folder `previous` has of them.

    Two times bool (contents,): what is done already, and what is in shards that are complete.
    """
    count = len(contents.first)
    results = _read_previous(previous, settings, contents.hashes, shards.shape)
    if results is None:
        pixels, old_rows = None, np.full(count, -1)
    else:
        pixels, old_rows, contents.facts, contents.reasons = results
    known, complete = old_rows >= 0, np.zeros(count, bool)
    rejected = np.zeros(count, bool)
    rejected[list(contents.reasons)] = True
    for shard in range(len(shards.starts) - 1):
        first, last = shards.starts[shard : shard + 2]
        rows = first + np.flatnonzero(known[first:last])
        old = old_rows[rows]
        if (known | rejected)[first:last].all() and (same := _whole_shard(pixels, old)):
            shards.link(shard, same)
            complete[first:last] = True
            continue
        shards.create(shard)
        step = max(1, BATCH_PIXEL_BYTES // int(np.prod(shards.shape)))
        for start in range(0, len(rows), step):
            shards.write(rows[start : start + step], pixels.take(old[start : start + step]))
    return known | rejected, complete


def _whole_shard(pixels: Pixels, rows: np.ndarray) -> Path | None:
    """The shard of `pixels` that consists of the global `rows` in this order, if there is one."""
    if not len(rows) or (np.diff(rows) != 1).any():
        return None
    shard = int(np.searchsorted(pixels.starts, rows[0], side="right")) - 1
    ends = pixels.starts[shard : shard + 2].tolist()
    return pixels.paths[shard] if ends == [rows[0], rows[-1] + 1] else None


def _read_previous(
    folder: Path, settings: dict, hashes: pa.Array, shape: tuple[int, int, int]
) -> tuple[Pixels, np.ndarray, np.ndarray, dict[int, str]] | None:
    """Earlier results for the contents `hashes`, made with the same `settings`, if there are any.

    The earlier pixels, the global row of each content in them (-1: none), facts, and reasons.
    """
    try:
        dataset = Dataset.load(folder)
        if dataset.preprocess != settings or dataset.shape != shape:
            return None
        pixels = Pixels(folder)
        index = read_table(folder / "index.csv", ["sha256", "shard", "row", *FACTS.names])
        rejects = read_table(folder / "rejects.csv", ["reason", "sha256"])
        rows = pixels.rows(index["shard"].to_pylist(), index["row"].to_numpy())
    except (OSError, ValueError, KeyError, TypeError):  # none, or not as this program writes it
        return None
    at = pc.fill_null(pc.index_in(hashes, index["sha256"]), -1).to_numpy()
    found = np.flatnonzero(at >= 0)
    old_rows, facts = np.full(len(hashes), -1), np.zeros(len(hashes), FACTS)
    old_rows[found] = rows[at[found]]
    for name in FACTS.names:
        facts[name][found] = index[name].take(pa.array(at[found])).to_numpy().astype(FACTS[name])
    at = pc.fill_null(pc.index_in(hashes, rejects["sha256"]), -1).to_numpy()
    given = rejects["reason"].to_pylist()
    reasons = {content: given[at[content]] for content in np.flatnonzero(at >= 0).tolist()}
    return pixels, old_rows, facts, reasons
