"""Features: what a frozen network makes of each image, beside its pixels and shard for shard.

A folder of features holds

    features.json            whose they are: `Embedding`, or null where no stage wants any
    classifier.keras         the whole net with its backbone's weights, to be completed with those
                             of a last layer (`stages.store.model.fitted`); where model.backbone is
                             frozen
    features-00000.npz ...   for the shard of pixels of the same number: `pixels` S32 (n,), the
                             digests of the pixels; `plain`, float32 (n, d), their features; and
                             `mirrored`, those of the mirror images, where they are wanted

Why .npz: it is a zip, whose members carry a CRC that is checked whenever they are read.
"""

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from stages.store.blobs import file_sha256
from stages.store.outputs import replace_file

if TYPE_CHECKING:
    from stages.parameters.model import Model

EMBEDDING, CLASSIFIER = "features.json", "classifier.keras"
PLAIN, MIRRORED = "plain", "mirrored"
DIGESTS = "pixels"


class Embedding(BaseModel):
    """`key` tells networks apart: a digest of layers and weights. `views` names what was seen of
    an image: `PLAIN`, perhaps `MIRRORED`. `width` numbers are the features of one.

    `network` is what the network was built by (`network_of`); with its last layer it has so many
    `parameters`.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    key: str
    views: list[str]
    width: int
    network: dict[str, Any] = {}
    parameters: int = 0


def network_of(model: "Model") -> dict[str, Any]:
    """The settings of a network and the digest of the file that its weights come from, if any."""
    file = model.weights_file
    return model.model_dump() | {"sha256": file and file_sha256(file)}


def write_embedding(folder: Path, embedding: Embedding | None) -> None:
    text = json.dumps(embedding.model_dump() if embedding else None, indent=2)
    (folder / EMBEDDING).write_text(text + "\n", encoding="utf-8")


def read_embedding(folder: Path) -> Embedding | None:
    """Raises `FileNotFoundError`, or `ValueError` for a file that is damaged."""
    text = (folder / EMBEDDING).read_text(encoding="utf-8")
    return None if json.loads(text) is None else Embedding.model_validate_json(text)


def shard_path(folder: Path, shard: int) -> Path:
    return folder / f"features-{shard:05}.npz"


def write_shard(path: Path, digests: np.ndarray, features: dict[str, np.ndarray]) -> None:
    """`digests` S32 (n,); `features` float32 (n, d) by view. The same ones give the same bytes."""
    with replace_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **{DIGESTS: digests}, **features)


def read_member(path: Path, name: str) -> np.ndarray:
    """The array `name` of a shard. Raises `ValueError` if the file is not as it was written."""
    try:
        with np.load(path, allow_pickle=False) as shard:
            return shard[name]
    except FileNotFoundError:
        raise
    except Exception as error:  # NumPy, zipfile and zlib each have many ways to say so
        raise ValueError(f"{path} is damaged ({error})") from None


class Features:
    """The features in `folder`, as `view`, of images at global rows of pixels.

    `starts` are the first rows of the shards, and the end. Holds the shard that was read last.
    Raises `FileNotFoundError` or `ValueError` if they are not there.
    """

    def __init__(self, folder: Path, starts: np.ndarray, view: str = PLAIN):
        embedding = read_embedding(folder)
        if embedding is None:
            raise ValueError(f"{folder / EMBEDDING} names no network")
        self.width = embedding.width
        self._folder, self._starts, self._view = folder, starts, view
        self._number, self._shard = -1, np.empty((0, self.width), np.float32)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """float32 (n, d) at the global `rows`. In ascending order each shard is read once."""
        out = np.empty((len(rows), self.width), np.float32)
        which = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(which).tolist():
            at = np.flatnonzero(which == number)
            out[at] = self._read(number)[rows[at] - self._starts[number]]
        return out

    def _read(self, number: int) -> np.ndarray:
        if number != self._number:
            path = shard_path(self._folder, number)
            shard = read_member(path, self._view)
            if shard.shape != (self._starts[number + 1] - self._starts[number], self.width):
                raise ValueError(f"{path} is about other images")
            self._number, self._shard = number, shard
        return self._shard


class Known:
    """Features that earlier runs, finished or not, left in `folders`: by digest of the pixels."""

    def __init__(self, folders: list[Path], views: list[str]):
        self.damaged: list[Path] = []
        self._views = views
        self._paths: list[Path] = []
        self._where: dict[bytes, tuple[int, int]] = {}
        for folder in folders:
            for path in sorted(folder.glob("features-*.npz")):
                self._add(path)

    def _add(self, path: Path) -> None:
        try:
            digests = read_member(path, DIGESTS)
            with zipfile.ZipFile(path) as members:
                names = {name.removesuffix(".npy") for name in members.namelist()}
        except ValueError:
            self.damaged.append(path)
            return
        if names >= set(self._views):
            self._paths.append(path)
            number = len(self._paths) - 1
            for row, digest in enumerate(digests.tolist()):
                self._where.setdefault(digest, (number, row))

    def of(self, digests: np.ndarray) -> "Known":
        """What is known of these images alone, to be sent to where it is wanted."""
        part = Known([], self._views)
        places = {digest: self._where.get(digest) for digest in digests.tolist()}
        found = {digest: place for digest, place in places.items() if place}
        files = sorted({number for number, _ in found.values()})
        part._paths = [self._paths[number] for number in files]
        number_of = {number: at for at, number in enumerate(files)}
        part._where = {digest: (number_of[file], row) for digest, (file, row) in found.items()}
        return part

    def has(self, digests: np.ndarray) -> np.ndarray:
        """bool (n,)"""
        return np.array([digest in self._where for digest in digests.tolist()], bool)

    def take(self, digests: np.ndarray, features: dict[str, np.ndarray]) -> np.ndarray:
        """Fill in the rows of `features`, float32 (n, d) by view, that are known; bool (n,) which.

        Of a file that turns out to be damaged, nothing is taken.
        """
        known = np.zeros(len(digests), bool)
        places = [self._where.get(digest, (-1, -1)) for digest in digests.tolist()]
        files, rows = np.array(places, np.int64).reshape(-1, 2).T
        for number in np.unique(files[files >= 0]).tolist():
            at = np.flatnonzero(files == number)
            path = self._paths[number]
            try:
                found = {view: read_member(path, view)[rows[at]] for view in self._views}
                for view, values in found.items():
                    features[view][at] = values
            except (ValueError, IndexError):
                self.damaged.append(path)
                continue
            known[at] = True
        return known
