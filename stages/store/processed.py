"""Processed images: fixed-size uint8 pixels in .npy shards, and the tables that name them.

A folder of processed images holds

    images-00000.npy ...   uint8 (n, height, width, channels), open with numpy.load
    index.csv              one line an image (`INDEX`), in the order of the manifest
    dataset.json           class names in label order, image shape, preprocess settings
    rejects.csv            file, reason: images that could not be used

Rows with the same file content share their pixels: `shard` and `row` say where they are.
"""

import json
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
    """All pixels of a folder of processed images, memory-mapped; rows are numbered globally.

    Global row = rows of all earlier shards (in name order) + row within the shard.
    """

    def __init__(self, folder: str | Path):
        self.paths = sorted(Path(folder).glob("images-*.npy"))
        self._shards = [np.load(path, mmap_mode="r") for path in self.paths]
        self.starts = np.cumsum([0] + [len(shard) for shard in self._shards])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def rows(self, shard_names: list[str], rows: np.ndarray) -> np.ndarray:
        """Global rows, int64 (n,), of the index columns `shard` and `row`."""
        start = {path.name: first for path, first in zip(self.paths, self.starts, strict=False)}
        return np.array([start[name] for name in shard_names], np.int64) + rows

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Copy global `rows`, in their order, to uint8 (len(rows), height, width, channels)."""
        rows = np.asarray(rows)
        out = np.empty((len(rows), *self._shards[0].shape[1:]), np.uint8)
        which = np.searchsorted(self.starts, rows, side="right") - 1
        for shard in np.unique(which):
            chosen = which == shard
            out[chosen] = self._shards[shard][rows[chosen] - self.starts[shard]]
        return out
