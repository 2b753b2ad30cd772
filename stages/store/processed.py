"""Processed images: fixed-size uint8 pixels in .npy shards, and the tables that name them.

A folder of processed images holds

    images-00000.npy ...   uint8 (n, height, width, channels), open with numpy.load
    index.csv              one line an image, in the order of the manifest
    dataset.json           class names in label order, image shape, preprocess settings, and
                           checksums of the tables
    rejects.csv            file, reason: images that could not be used

Rows with the same file content share their pixels: `shard` and `row` say where they are.

Why .npy: a shard opens with one line anywhere, rows are found by multiplication, and reading
them costs what copying costs.
"""

import io
import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from stages.errors import UserError
from stages.files import DATASET, INDEX, REJECTS
from stages.parameters.pixels import Preprocessing
from stages.store.blobs import SHARD_BYTES, file_sha256, link_or_copy

TABLES = (INDEX, REJECTS)

# What to do about data that are missing or not as they were written.
REPAIR = "the preprocess stage makes it anew: dvc repro preprocess"

# Length of the header of every shard. 128 holds any shape, and NumPy aligns to 64.
HEADER_BYTES = 128

COPY_BYTES = 4 * 2**20


class Dataset(BaseModel):
    """What dataset.json says: `classes` in label order, `shape` (height, width, channels), and
    with what settings the pixels were made.

    `corrections` counts the labels that people mended, by what was done.

    By `tables`, the SHA-256 of the tables beside it, what is reused is known to be what was
    written; index.csv has a digest of every image.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    classes: list[str]
    shape: tuple[int, int, int]
    preprocess: Preprocessing
    tables: dict[str, str] = {}
    corrections: dict[str, int] = {}

    def save(self, folder: Path) -> None:
        text = json.dumps(self.model_dump(), indent=2, ensure_ascii=False)
        (folder / DATASET).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, check_tables: bool = True) -> "Dataset":
        """Raises `UserError` if there is none, or if it or (if checked) a table is damaged."""
        path = Path(folder) / DATASET
        try:
            dataset = cls.model_validate_json(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{path} is missing; {REPAIR}") from None
        except ValidationError:
            raise UserError(f"{path} is damaged; {REPAIR}") from None
        if check_tables and dataset.tables and (damaged := dataset.damaged_tables(path.parent)):
            raise UserError(f"{path.with_name(damaged[0])} is damaged or missing; {REPAIR}")
        return dataset

    def damaged_tables(self, folder: Path) -> list[str]:
        """Names of the tables in `folder` that are not as they were written."""
        return [name for name in TABLES if not self._is_as_written(folder / name)]

    def _is_as_written(self, table: Path) -> bool:
        try:
            return file_sha256(table) == self.tables.get(table.name)
        except OSError:
            return False


def digest_tables(folder: Path) -> dict[str, str]:
    """SHA-256 of the tables in `folder`, as `Dataset.tables` has them."""
    return {name: file_sha256(folder / name) for name in TABLES}


class Pixels:
    """All pixels of a folder of processed images; rows are numbered globally.

    Global row = rows of all earlier shards (in name order) + row within the shard. Reads what
    is asked for and keeps nothing, so memory does not grow with the folder; several threads
    may read at once.
    """

    def __init__(
        self,
        folder: str | Path,
        shape: tuple[int, int, int] | None = None,
        skip_damaged: bool = False,
    ):
        """`shape` (height, width, channels) is that of every shard; None: that of the first.

        A shard that cannot be as it was written is a `UserError`, or is left out.
        """
        self.folder, self.paths, counts = Path(folder), [], []
        for path in sorted(self.folder.glob("images-*.npy")):
            try:
                count, found = _read_header(path)
                if shape and found != tuple(shape):
                    raise ValueError(f"images of {found} instead of {tuple(shape)}")
            except (OSError, ValueError) as error:
                if skip_damaged:
                    continue
                raise UserError(f"{path} is damaged ({error}); {REPAIR}") from None
            shape = found
            self.paths.append(path)
            counts.append(count)
        self.shape = shape or (0, 0, 0)
        self.starts = np.cumsum([0, *counts])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def rows(self, shard_names: Sequence[str], rows: np.ndarray) -> np.ndarray:
        """Global rows, int64 (n,), of the index columns `shard` and `row`.

        Raises `UserError` if there are no such rows.
        """
        found = self.find(shard_names, rows)
        if (found < 0).any():
            at = int(np.argmin(found))
            raise UserError(
                f"{self.folder}/index.csv is damaged: {shard_names[at]} has no row {rows[at]}; "
                f"{REPAIR}"
            )
        return found

    def find(self, shard_names: Sequence[str], rows: np.ndarray) -> np.ndarray:
        """As `rows`, but -1 where there is no such row."""
        number = {path.name: shard for shard, path in enumerate(self.paths)}
        shard = np.array([number.get(name, -1) for name in shard_names], np.int64)
        rows = np.nan_to_num(rows, nan=-1).astype(np.int64)  # NaN: an empty field
        first, count = np.append(self.starts[:-1], 0), np.append(np.diff(self.starts), 0)
        return np.where((rows >= 0) & (rows < count[shard]), first[shard] + rows, -1)

    def take(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Copy global `rows`, in their order, to uint8 (len(rows), height, width, channels).

        `out`, if given, is a contiguous array of that shape, which is filled and returned.
        """
        rows = np.asarray(rows, np.int64)
        if out is None:
            out = np.empty((len(rows), *self.shape), np.uint8)
        bytes_each = math.prod(self.shape)
        flat = out.reshape(-1).data
        which = np.searchsorted(self.starts, rows, side="right") - 1
        for shard in np.unique(which).tolist():
            at = np.flatnonzero(which == shard)
            local = rows[at] - self.starts[shard]
            with open(self.paths[shard], "rb", buffering=0) as file:
                for first, last in _runs(at, local):
                    start, stop = int(at[first]) * bytes_each, (int(at[last]) + 1) * bytes_each
                    offset = _offset(int(local[first]), self.shape)
                    while start < stop:
                        read = os.preadv(file.fileno(), [flat[start:stop]], offset)
                        if not read:
                            raise UserError(f"{self.paths[shard]} is cut short; {REPAIR}")
                        start, offset = start + read, offset + read
        return out


@dataclass(frozen=True)
class Shards:
    """New shards, which several threads or processes may fill at once, each row written once.

    Shard k of `folder` holds the global rows `starts[k]` to `starts[k + 1]`, of `shape`
    (height, width, channels).
    """

    folder: Path
    shape: tuple[int, int, int]
    starts: np.ndarray

    def path(self, shard: int) -> Path:
        return self.folder / shard_name(shard)

    def create(self, shard: int) -> None:
        """Make the file of `shard`, all zeros."""
        rows = int(self.starts[shard + 1] - self.starts[shard])
        with open(self.path(shard), "xb") as file:
            file.write(_header(rows, self.shape))
            file.truncate(_offset(rows, self.shape))

    def link(self, shard: int, same: Path) -> None:
        """Let the file `same`, which is not going to change, be the file of `shard`."""
        link_or_copy(same, self.path(shard))

    def publish(self, folder: Path) -> None:
        """Let the shards, which are not going to change, appear in `folder` as well."""
        final = replace(self, folder=folder)
        for shard in range(len(self.starts) - 1):
            if self.path(shard).exists():
                final.link(shard, self.path(shard))

    def write(self, rows: np.ndarray, images: np.ndarray) -> None:
        """Put `images`, uint8 (n, *shape), in the global `rows`, ascending."""
        flat = np.ascontiguousarray(images).reshape(-1).data
        which = np.searchsorted(self.starts, rows, side="right") - 1
        for shard in np.unique(which).tolist():
            at = np.flatnonzero(which == shard)
            local = rows[at] - self.starts[shard]
            with open(self.path(shard), "r+b", buffering=0) as file:
                for first, last in _runs(at, local):
                    file.seek(_offset(int(local[first]), self.shape))
                    left = flat[int(at[first]) * self._bytes_each :]
                    left = left[: (last - first + 1) * self._bytes_each]
                    while left:
                        left = left[file.write(left) :]

    def drop(self, rows: np.ndarray) -> None:
        """Close the gaps at the global `rows`, ascending; a shard left empty is removed."""
        which = np.searchsorted(self.starts, rows, side="right") - 1
        for shard in np.unique(which).tolist():
            gaps = rows[which == shard] - self.starts[shard]
            count = int(self.starts[shard + 1] - self.starts[shard])
            if len(gaps) == count:
                self.path(shard).unlink()
                continue
            with open(self.path(shard), "r+b") as file:
                ends = [*gaps[1:].tolist(), count]
                for number, (gap, end) in enumerate(zip(gaps.tolist(), ends, strict=True)):
                    self._move(file, gap + 1, end, gap - number)
                file.truncate(_offset(count - len(gaps), self.shape))
                file.seek(0)
                file.write(_header(count - len(gaps), self.shape))

    def _move(self, file: BinaryIO, first: int, last: int, to: int) -> None:
        source, stop, target = (_offset(row, self.shape) for row in (first, last, to))
        while source < stop:
            file.seek(source)
            block = file.read(min(COPY_BYTES, stop - source))
            file.seek(target)
            file.write(block)
            source, target = source + len(block), target + len(block)

    @property
    def _bytes_each(self) -> int:
        return math.prod(self.shape)


def shard_name(shard: int) -> str:
    return f"images-{shard:05}.npy"


def shard_starts(
    hashes: Iterable[str], shape: tuple[int, int, int], target: int = SHARD_BYTES
) -> np.ndarray:
    """First rows of the shards, and the end, for images with these SHA-256 `hashes` (hex).

    A shard ends after an image whose own hash says so, on average after `target` bytes and at
    the latest after four times as many: an image more or less changes one or two shards, and all
    others are taken over (`stages.store.raw.pack` tells how this works).
    """
    expected = max(1, target // math.prod(shape))
    starts, row = [0], 0
    for row, name in enumerate(hashes, 1):
        # The first 64 bits of the hash are a number drawn evenly from 0 to 2**64: it lies below
        # 2**64 / expected for one image in `expected`.
        if int(name[:16], 16) * expected < 2**64 or row - starts[-1] >= 4 * expected:
            starts.append(row)
    if starts[-1] != row:
        starts.append(row)
    return np.array(starts, np.int64)


def natural_order(name: str) -> tuple:
    """Sort key of class names that puts 2 before 10."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if number % 2 else (0, part) for number, part in enumerate(parts)], name


def _runs(*columns: np.ndarray) -> list[tuple[int, int]]:
    """(first, last) positions of the stretches in which all `columns` count up by one."""
    breaks = np.zeros(len(columns[0]) - 1, bool)
    for column in columns:
        breaks |= np.diff(column) != 1
    ends = np.flatnonzero(breaks)
    return list(zip([0, *(ends + 1).tolist()], [*ends.tolist(), len(columns[0]) - 1], strict=True))


def _offset(row: int, shape: tuple[int, int, int]) -> int:
    """Where `row` begins in the file of a shard; of the number of rows, where the file ends."""
    return HEADER_BYTES + row * math.prod(shape)


def _header(rows: int, shape: tuple[int, int, int]) -> bytes:
    header = io.BytesIO()
    fields = {"descr": "|u1", "fortran_order": False, "shape": (rows, *shape)}
    np.lib.format.write_array_header_1_0(header, fields)
    assert header.tell() == HEADER_BYTES
    return header.getvalue()


def _read_header(path: Path) -> tuple[int, tuple[int, int, int]]:
    """How many images the shard `path` holds, and their shape (height, width, channels).

    Raises `ValueError` unless header and size are as written.
    """
    with open(path, "rb") as file:
        header, size = file.read(HEADER_BYTES), os.fstat(file.fileno()).st_size
    match = re.search(rb"'shape': \((\d{1,9}), (\d{1,5}), (\d{1,5}), (\d)\)", header)
    count, height, width, channels = map(int, match.groups()) if match else (0, 0, 0, 0)
    shape = height, width, channels
    if not match or header != _header(count, shape):
        raise ValueError("its header has changed")
    if size != (expected := _offset(count, shape)):
        raise ValueError(f"{size:,} bytes instead of {expected:,}")
    return count, shape
