"""Processed images: fixed-size uint8 pixels in .npy shards, and the tables that name them.

A folder of processed images holds

    images-00000.npy ...   uint8 (n, height, width, channels), open with numpy.load
    index.csv              one line an image (`INDEX`), in the order of the manifest
    dataset.json           class names in label order, image shape, preprocess settings
    rejects.csv            file, reason: images that could not be used

Rows with the same file content share their pixels: `shard` and `row` say where they are.

Why .npy: a shard opens with one line anywhere, rows are found by multiplication, and reading
them costs what copying costs.
"""

import io
import json
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

INDEX = (
    "id",
    "path",
    "label",
    "split",
    "group",
    "sha256",
    "shard",
    "row",
    "pixels",
    "perceptual",
    "width",
    "height",
    "mode",
    "format",
    "bytes",
)

# Large enough for few files, small enough that a changed image moves little data.
SHARD_BYTES = 64 * 2**20

# Length of the header of every shard. 128 holds any shape, and NumPy aligns to 64.
HEADER_BYTES = 128

COPY_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Dataset:
    """What dataset.json says: `classes` in label order, `shape` (height, width, channels)."""

    classes: list[str]
    shape: tuple[int, int, int]
    preprocess: dict

    def save(self, folder: Path) -> None:
        text = json.dumps(self.__dict__, indent=2, ensure_ascii=False)
        (folder / "dataset.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> "Dataset":
        fields = json.loads((Path(folder) / "dataset.json").read_text(encoding="utf-8"))
        return cls(fields["classes"], tuple(fields["shape"]), fields["preprocess"])


class Pixels:
    """All pixels of a folder of processed images; rows are numbered globally.

    Global row = rows of all earlier shards (in name order) + row within the shard. Reads what
    is asked for and keeps nothing, so memory does not grow with the folder; several threads
    may read at once.
    """

    def __init__(self, folder: str | Path):
        self.paths = sorted(Path(folder).glob("images-*.npy"))
        headers = [_read_header(path) for path in self.paths]
        self.shape = headers[0][0][1:] if headers else (0, 0, 0)
        self.starts = np.cumsum([0] + [shape[0] for shape, _ in headers])
        self._offsets = [offset for _, offset in headers]

    def __len__(self) -> int:
        return int(self.starts[-1])

    def rows(self, shard_names: Sequence[str], rows: np.ndarray) -> np.ndarray:
        """Global rows, int64 (n,), of the index columns `shard` and `row`."""
        start = {path.name: first for path, first in zip(self.paths, self.starts, strict=False)}
        return np.array([start[name] for name in shard_names], np.int64) + rows

    def take(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Copy global `rows`, in their order, to uint8 (len(rows), height, width, channels).

        `out`, if given, is a contiguous array of that shape, which is filled and returned.
        """
        rows = np.asarray(rows, np.int64)
        if out is None:
            out = np.empty((len(rows), *self.shape), np.uint8)
        bytes_each = int(np.prod(self.shape))
        flat = memoryview(out.reshape(-1))
        which = np.searchsorted(self.starts, rows, side="right") - 1
        for shard in np.unique(which).tolist():
            at = np.flatnonzero(which == shard)
            local = rows[at] - self.starts[shard]
            with open(self.paths[shard], "rb", buffering=0) as file:
                for first, last in _runs(at, local):
                    start, stop = int(at[first]) * bytes_each, (int(at[last]) + 1) * bytes_each
                    offset = self._offsets[shard] + int(local[first]) * bytes_each
                    while start < stop:
                        read = os.preadv(file.fileno(), [flat[start:stop]], offset)
                        if not read:
                            raise OSError(f"{self.paths[shard]} is shorter than its header says")
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
        return self.folder / f"images-{shard:05}.npy"

    def create(self, shard: int) -> None:
        """Make the file of `shard`, all zeros."""
        rows = int(self.starts[shard + 1] - self.starts[shard])
        with open(self.path(shard), "xb") as file:
            file.write(_header(rows, self.shape))
            file.truncate(HEADER_BYTES + rows * self._bytes_each)

    def link(self, shard: int, same: Path) -> None:
        """Let the file `same`, which is not going to change, be the file of `shard`."""
        try:
            os.link(same.resolve(), self.path(shard))
        except OSError:  # a file system without hard links
            shutil.copyfile(same, self.path(shard))

    def write(self, rows: np.ndarray, images: np.ndarray) -> None:
        """Put `images`, uint8 (n, *shape), in the global `rows`, ascending."""
        flat = memoryview(np.ascontiguousarray(images).reshape(-1))
        which = np.searchsorted(self.starts, rows, side="right") - 1
        for shard in np.unique(which).tolist():
            at = np.flatnonzero(which == shard)
            local = rows[at] - self.starts[shard]
            with open(self.path(shard), "r+b", buffering=0) as file:
                for first, last in _runs(at, local):
                    file.seek(HEADER_BYTES + int(local[first]) * self._bytes_each)
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
                file.truncate(HEADER_BYTES + (count - len(gaps)) * self._bytes_each)
                file.seek(0)
                file.write(_header(count - len(gaps), self.shape))

    def _move(self, file, first: int, last: int, to: int) -> None:
        source, stop, target = (HEADER_BYTES + row * self._bytes_each for row in (first, last, to))
        while source < stop:
            file.seek(source)
            block = file.read(min(COPY_BYTES, stop - source))
            file.seek(target)
            file.write(block)
            source, target = source + len(block), target + len(block)

    @property
    def _bytes_each(self) -> int:
        return int(np.prod(self.shape))


def shard_starts(
    hashes: Iterable[str], shape: tuple[int, int, int], target: int = SHARD_BYTES
) -> np.ndarray:
    """First rows of the shards, and the end, for images with these SHA-256 `hashes` (hex).

    A shard ends after an image whose own hash says so, on average after `target` bytes and at
    the latest after four times as many, so an image more or less changes one or two shards.
    """
    expected = max(1, target // int(np.prod(shape)))
    starts, row = [0], 0
    for row, name in enumerate(hashes, 1):
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


def _header(rows: int, shape: tuple[int, int, int]) -> bytes:
    header = io.BytesIO()
    fields = {"descr": "|u1", "fortran_order": False, "shape": (rows, *shape)}
    np.lib.format.write_array_header_1_0(header, fields)
    assert header.tell() == HEADER_BYTES
    return header.getvalue()


def _read_header(path: Path) -> tuple[tuple[int, ...], int]:
    """Shape of the array in the .npy file `path`, and where its values begin."""
    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype != np.uint8 or len(shape) != 4:
            raise ValueError(f"{path} does not hold images")
        return shape, file.tell()
