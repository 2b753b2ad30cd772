"""What is known of the images of a manifest: each content once, and earlier results, verified."""

import hashlib
import json
import math
import os
import shutil
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.errors import UserError
from stages.files import DATASET, INDEX, REJECTS
from stages.images.fingerprints import APPEARANCE, digests
from stages.parameters.pixels import Preprocessing
from stages.store.processed import Dataset, Pixels, Shards, shard_name
from stages.store.tables import encode, read_table

# The distinct files among the images of a manifest, and what is known of each.


# What index.csv says of a content besides where its pixels are.
FACT_TYPES = {
    "pixels": "S32",
    "perceptual": "S16",
    "width": "i4",
    "height": "i4",
    "mode": "S8",
    "format": "S8",
    "levels": "i4",
    "bytes": "i8",
    **dict.fromkeys(APPEARANCE, "i4"),
}
FACTS = np.dtype(list(FACT_TYPES.items()))


@dataclass
class Contents:
    """The distinct files of a manifest, in the order of their first mention.

    `content_of` int (images,): the content of each image. `hashes`: SHA-256 of each content.
    `first` int (contents,): the first image with it. Then, as results: `facts` (`FACTS`), and
    `reasons` why a content could not be read.
    """

    content_of: np.ndarray
    hashes: pa.Array
    first: np.ndarray
    facts: np.ndarray
    reasons: dict[int, str]

    @classmethod
    def from_manifest(cls, manifest: pa.Table) -> "Contents":
        content_of, hashes = encode(manifest["sha256"])
        first = np.unique(content_of, return_index=True)[1]
        return cls(content_of, hashes, first, np.zeros(len(first), FACTS), {})

    @property
    def readable(self) -> np.ndarray:
        """bool (contents,)"""
        readable = np.ones(len(self.first), bool)
        readable[list(self.reasons)] = False
        return readable


# Pixels of an earlier run, finished or not, taken over where they are what that run wrote.


# Enough to make the cost of handing it to a thread small, little beside the memory of a run.
BYTES_AT_A_TIME = 2**20

CONTENTS_AT_A_TIME = 10_000


@dataclass(frozen=True)
class Earlier:
    """What an earlier run decoded.

    `index` has a row for each image, with its `sha256` and the columns of `FACTS`; `rows` int64
    are its global rows in `pixels`, -1 if they are gone. `rejects` has `sha256` and `reason`.
    """

    pixels: Pixels
    rows: np.ndarray
    index: pa.Table
    rejects: pa.Table

    def facts(self, at: np.ndarray) -> np.ndarray:
        """`FACTS` of the rows `at` of the index."""
        facts = np.zeros(len(at), FACTS)
        for name in FACT_TYPES:
            facts[name] = self.index[name].take(pa.array(at)).to_numpy().astype(FACTS[name])
        return facts


def read_finished(folder: Path, settings: Preprocessing) -> tuple[Earlier | None, list[str]]:
    """What the folder `folder` of processed images has, if it was made with the same `settings`.

    Also the tables in it that are not as they were written, and so count for nothing.
    """
    try:
        dataset = Dataset.load(folder, check_tables=False)
    except UserError:  # none, or not as this program writes it
        return None, [DATASET] if (folder / DATASET).exists() else []
    if dataset.preprocess != settings or dataset.shape != settings.shape:
        return None, []
    damaged = dataset.damaged_tables(folder)
    if INDEX in damaged:
        return None, damaged
    index = read_table(folder / INDEX, ["sha256", "shard", "row", *FACT_TYPES])
    rejects = _rejects([], [])
    if not damaged:
        rejects = read_table(folder / REJECTS, ["sha256", "reason"])
    pixels = Pixels(folder, settings.shape, skip_damaged=True)
    rows = pixels.find(index["shard"].to_pylist(), index["row"].to_numpy())
    index = index.drop_columns(["shard", "row"])
    return Earlier(pixels, rows, index, rejects), damaged


# A record of work as it is done, which a kill at any moment leaves readable: one line a document,
# which begins with its own digest, so that a line that was cut short or damaged is left out.


class Journal:
    """Appends documents, which JSON can hold, to the new file `path`."""

    def __init__(self, path: str | Path):
        self._file = open(path, "xb", buffering=0)  # noqa: SIM115  closed by `close`

    def append(self, document: dict) -> None:
        content = json.dumps(document).encode()
        self._file.write(_line_digest(content) + b" " + content + b"\n")

    def close(self) -> None:
        self._file.close()


def read_journal(path: str | Path) -> Iterator[dict]:
    """The documents of the file `path` that are as they were written, in order."""
    with open(path, "rb") as file:
        for line in file:
            digest, _, content = line.rstrip(b"\n").partition(b" ")
            if digest == _line_digest(content):
                yield json.loads(content)


def _line_digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest()[:32].encode()


# What a journal of another version has is left alone.
FORMAT = f"arrays in base64, {FACTS.descr}"


class Work:
    """Shards being filled in a new folder under `folder`, with a journal of what is in them.

    Each run that does not come to its end, because it failed or was killed, leaves one for the
    next to take over.
    """

    def __init__(self, folder: Path, settings: Preprocessing, starts: np.ndarray):
        """`starts` are those of the shards, see `Shards`."""
        self._settings = settings
        self._earlier = sorted(
            (path for path in folder.glob("*") if path.name.isdecimal()),
            key=lambda path: int(path.name),
        )
        last = int(self._earlier[-1].name) if self._earlier else 0
        self.folder = folder / str(last + 1)
        self.folder.mkdir(parents=True)
        self._journal = Journal(self.folder / "journal")
        head = {"format": FORMAT, "settings": settings.model_dump(), "starts": starts.tolist()}
        self._journal.append(head)

    def unfinished(self) -> list[Earlier]:
        """What earlier runs with the same settings left, the latest first."""
        runs = [_read_unfinished(path, self._settings) for path in self._earlier[::-1]]
        return [earlier for earlier in runs if earlier is not None]

    def remember(self, contents: Contents, done: np.ndarray, rejected: list[int]) -> None:
        """Note that the pixels of `done` (their global rows) are written, and what is rejected."""
        both = np.concatenate([done, np.array(rejected, np.int64)])
        self._journal.append(
            {
                "sha256": "".join(contents.hashes.take(pa.array(both)).to_pylist()),
                "rows": b64encode(done.astype(np.int64).tobytes()).decode(),
                "facts": b64encode(contents.facts[done].tobytes()).decode(),
                "reasons": [contents.reasons[content] for content in rejected],
            }
        )

    def replace_earlier(self, contents: Contents, taken: "Taken") -> None:
        """Remove what earlier runs left, after `taken`, which has all that is wanted of it."""
        again = np.flatnonzero(taken.unfinished)
        for start in range(0, len(again), CONTENTS_AT_A_TIME):
            some = again[start : start + CONTENTS_AT_A_TIME]
            rejected = [content for content in some.tolist() if content in contents.reasons]
            self.remember(contents, np.setdiff1d(some, rejected), rejected)
        for path in self._earlier:
            shutil.rmtree(path)

    def close(self) -> None:
        self._journal.close()


def _read_unfinished(folder: Path, settings: Preprocessing) -> Earlier | None:
    try:
        documents = read_journal(folder / "journal")
        head = next(documents, {})
    except OSError:
        return None
    if (head.get("format"), head.get("settings")) != (FORMAT, settings.model_dump()):
        return None
    parts = [np.empty(0, np.int64)]
    hashes: list[str] = []
    rejected: list[str] = []
    reasons: list[str] = []
    facts = bytearray()
    for document in documents:
        done = np.frombuffer(b64decode(document["rows"]), np.int64)
        parts.append(done)
        joined = document["sha256"]
        found = [joined[at : at + 64] for at in range(0, len(joined), 64)]
        hashes += found[: len(done)]
        rejected += found[len(done) :]
        reasons += document["reasons"]
        facts += b64decode(document["facts"])
    table, rows = np.frombuffer(facts, FACTS), np.concatenate(parts)
    columns = {name: pa.array(table[name].tolist()) for name in FACT_TYPES}
    index = pa.table({"sha256": pa.array(hashes, pa.string()), **columns})
    pixels = Pixels(folder, settings.shape, skip_damaged=True)
    starts = np.array(head["starts"])
    shard = np.searchsorted(starts, rows, side="right") - 1
    names = [shard_name(number) for number in shard.tolist()]
    global_rows = pixels.find(names, rows - starts[shard])
    return Earlier(pixels, global_rows, index, _rejects(rejected, reasons))


def _rejects(hashes: list[str], reasons: list[str]) -> pa.Table:
    columns = {"sha256": hashes, "reason": reasons}
    return pa.table({name: pa.array(column, pa.string()) for name, column in columns.items()})


@dataclass(frozen=True)
class Taken:
    """What `take_over` did, each bool (contents,).

    `known`: pixels, or the reason why there are none, need not be made again; `unfinished`: those
    from a run that did not end. `complete`: lies in a shard without gaps. `damaged`: an earlier
    run finished it, but its pixels have changed.
    """

    known: np.ndarray
    unfinished: np.ndarray
    complete: np.ndarray
    damaged: np.ndarray


def take_over(
    finished: Earlier | None,
    unfinished: Sequence[Earlier],
    contents: Contents,
    shards: Shards,
    workers: int | None,
) -> Taken:
    """Create `shards` with whatever earlier runs have of them, and fill in `contents`.

    Pixels count for nothing that do not have the digest with which they were written.
    """
    sources = [*([finished] if finished else []), *unfinished]
    count = len(contents.first)
    known, damaged, earlier_work = (np.zeros(count, bool) for _ in range(3))
    source_of, rows_of = np.full(count, -1), np.full(count, -1)
    for number, earlier in enumerate(sources):
        before = known.copy()
        at = _positions(contents.hashes, earlier.index["sha256"])
        chosen = np.flatnonzero(~known & (at >= 0))
        facts, rows = earlier.facts(at[chosen]), earlier.rows[at[chosen]]
        sound = _sound(earlier, rows, facts["pixels"], workers)
        if earlier is finished:
            damaged[chosen[~sound]] = True
        chosen, rows = chosen[sound], rows[sound]
        contents.facts[chosen] = facts[sound]
        source_of[chosen], rows_of[chosen], known[chosen] = number, rows, True
        at = _positions(contents.hashes, earlier.rejects["sha256"])
        chosen = np.flatnonzero(~known & (at >= 0))
        reasons = earlier.rejects["reason"].take(pa.array(at[chosen])).to_pylist()
        contents.reasons |= dict(zip(chosen.tolist(), reasons, strict=True))
        known[chosen] = True
        if earlier is not finished:
            earlier_work |= known & ~before

    complete = np.zeros(count, bool)
    for shard in range(len(shards.starts) - 1):
        first, last = shards.starts[shard : shard + 2]
        part = first + np.flatnonzero(source_of[first:last] >= 0)
        if known[first:last].all() and (same := _whole_shard(sources, source_of, rows_of, part)):
            shards.link(shard, same)
            complete[first:last] = True
            continue
        shards.create(shard)
        step = max(1, BYTES_AT_A_TIME // math.prod(shards.shape))
        for number, earlier in enumerate(sources):
            chosen = part[source_of[part] == number]
            for start in range(0, len(chosen), step):
                some = chosen[start : start + step]
                shards.write(some, earlier.pixels.take(rows_of[some]))
    return Taken(known, earlier_work, complete, damaged)


def _positions(hashes: pa.Array, among: pa.ChunkedArray) -> np.ndarray:
    """Where each of `hashes` stands in `among`, int64 (n,); -1: nowhere."""
    return pc.fill_null(pc.index_in(hashes, among), -1).to_numpy().astype(np.int64)


def _sound(
    earlier: Earlier, rows: np.ndarray, expected: np.ndarray, workers: int | None
) -> np.ndarray:
    """Which of the global `rows` of `earlier` (-1: none) have the digests `expected`, bool (n,)."""
    pixels, sound = earlier.pixels, np.zeros(len(rows), bool)
    order = np.flatnonzero(rows >= 0)
    order = order[np.argsort(rows[order], kind="stable")]
    step = max(1, BYTES_AT_A_TIME // max(1, math.prod(pixels.shape)))
    parts = [order[start : start + step] for start in range(0, len(order), step)]

    def check(part: np.ndarray) -> np.ndarray:
        try:
            images = pixels.take(rows[part])
        except (OSError, UserError):  # the disk itself is damaged, or the file shrinks
            return np.zeros(len(part), bool)
        return np.array(digests(images), expected.dtype) == expected[part]

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for part, good in zip(parts, pool.map(check, parts), strict=True):
            sound[part] = good
    return sound


def _whole_shard(
    sources: Sequence[Earlier], source_of: np.ndarray, rows_of: np.ndarray, part: np.ndarray
) -> Path | None:
    """The file that consists of the pixels of the contents `part` in this order, if any does."""
    if not len(part) or (source_of[part] != source_of[part[0]]).any():
        return None
    pixels, rows = sources[source_of[part[0]]].pixels, rows_of[part]
    if (np.diff(rows) != 1).any():
        return None
    shard = int(np.searchsorted(pixels.starts, rows[0], side="right")) - 1
    ends = pixels.starts[shard : shard + 2].tolist()
    return pixels.paths[shard] if ends == [rows[0], rows[-1] + 1] else None
