"""Raw images: a few archives, and a manifest that names every image in them."""

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute

from stages.errors import UserError
from stages.files import MANIFEST, MANIFEST_COLUMNS
from stages.store.archives import read_archive
from stages.store.blobs import SHARD_BYTES, checksum, link_or_copy
from stages.store.outputs import replace_file
from stages.store.tables import encode, read_table, write_table

# Images of a shard, however small they are: whoever reads some of a zip reads the names of all.
MEMBERS = 2**14

REMEDY = "run dvc checkout --force data/raw, or dvc repro --single-item --force download"


def read_manifest(raw: str | Path) -> pa.Table:
    """The manifest of the folder `raw`: text columns `MANIFEST_COLUMNS`, one row an image."""
    return read_table(Path(raw) / MANIFEST, MANIFEST_COLUMNS)


def read_images(
    raw: str | Path, manifest: pa.Table, rows: np.ndarray | None = None
) -> Iterator[tuple[int, bytes]]:
    """Yield (row of `manifest`, bytes of the image file) for `rows`, or for every row.

    Comes in the order in which the archives hold the files, each row once: shard after shard,
    by place within. Memory does not depend on the size of a shard. A zip costs what is read of
    it; a tar is read from its start to the last file wanted. Independent calls may run in
    several threads or processes at once. Raises `UserError` for an archive that is missing or
    damaged. A tar has no checksum of its contents: the caller compares the hash of each
    image, which several workers can do at once.
    """
    rows = np.arange(len(manifest)) if rows is None else np.asarray(rows)
    shard_of, shards = encode(manifest["shard"])
    for shard, name in enumerate(shards.to_pylist()):
        chosen = rows[shard_of[rows] == shard]
        if len(chosen):
            members: dict[str, list[int]] = {}
            names = manifest["member"].take(pa.array(chosen)).to_pylist()
            for row, member in zip(chosen.tolist(), names, strict=True):
                members.setdefault(member, []).append(row)
            for member, content in _read_shard(Path(raw) / name, members):
                for row in members[member]:
                    yield row, content


def _read_shard(path: Path, members: Collection[str]) -> Iterator[tuple[str, bytes]]:
    try:
        yield from read_archive(path, members, REMEDY)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {REMEDY}") from None


@dataclass(frozen=True, slots=True)
class RawImage:
    """An image file about to be packed; `read` gives its `size` bytes, whose hash is `sha256`."""

    path: str
    label: str
    split: str
    group: str
    size: int
    sha256: bytes
    read: Callable[[], bytes]


class Listed(Protocol):
    """An image of which `path` and size in bytes are known."""

    @property
    def path(self) -> str: ...

    @property
    def size(self) -> int: ...


AnyImage = TypeVar("AnyImage", bound=Listed)


class Entry(NamedTuple):
    """What the manifest says of an image, but for its id."""

    path: str
    label: str
    split: str
    group: str
    sha256: bytes
    shard: str
    member: str


def write_manifest(raw: str | Path, entries: Iterable[Entry]) -> int:
    """Write the manifest of `entries`, which come sorted by path; return their number.

    The id of an image is the start of its hash, so that it survives renaming; copies of the
    same file are told apart by a number. Raises `UserError` if a path comes twice.
    """
    copies: dict[bytes, int] = {}
    count = 0

    def rows() -> Iterator[tuple[str, ...]]:
        nonlocal count
        last = None
        for path, label, split, group, digest, shard, member in entries:
            if path == last:
                raise UserError(f"two images have the same path {path}; rename one of them")
            copy = copies[digest[:8]] = copies.get(digest[:8], 0) + 1
            name = digest[:8].hex() + (f"-{copy}" if copy > 1 else "")
            yield name, path, label, split, group, digest.hex(), shard, member
            last = path
            count += 1

    write_table(Path(raw) / MANIFEST, MANIFEST_COLUMNS, rows())
    return count


def cut(images: Iterable[AnyImage], target: int = SHARD_BYTES) -> Iterator[list[AnyImage]]:
    """The shards of `images`, which come sorted by path.

    If shards were cut after every so many images, one more at the front would move the ends of all
    shards behind it, and every file would have to be written, hashed and sent again. Here each
    image decides by itself whether a shard ends after it: a hash of its path, a number drawn evenly
    from 0 to 2**64, has to lie below a limit in proportion to its size. An image added, changed or
    removed so alters its own shard and leaves all others byte for byte alike. (Backup programs
    call this content-defined chunking.) Shards come out at about `target` bytes, as the limits add
    up to one hit in so many, and are cut at four times that where luck fails. Of tiny images a
    shard has fewer bytes: about `MEMBERS`.
    """
    shard: list[AnyImage] = []
    size = 0
    for image in images:
        shard.append(image)
        counts = max(image.size, target // MEMBERS)
        size += counts
        draw = int.from_bytes(hashlib.blake2b(image.path.encode(), digest_size=8).digest())
        # draw / 2**64 < counts / target, in whole numbers: the chance to end a shard.
        if draw * target < counts << 64 or size >= 4 * target:
            yield shard
            shard, size = [], 0
    if shard:
        yield shard


def shard_name(images: Iterable[tuple[str, bytes]]) -> str:
    """What a shard is called: after path and SHA-256 of its `images`."""
    content = hashlib.sha256()
    for path, digest in images:
        content.update(path.encode() + b"\0" + digest)
    return f"images-{content.hexdigest()[:12]}.zip"


def pack(
    images: Iterable[RawImage],
    folder: str | Path,
    previous: str | Path,
    seen: str | Path,
    target: int = SHARD_BYTES,
) -> Iterator[Entry]:
    """Write `images`, which come sorted by path, into uncompressed zips; yield their entries.

    A shard is named after what it holds, and taken over from the folder `previous` if it was
    written there and its bytes still give the checksum that the file `seen` remembers.
    """
    with ThreadPoolExecutor(1) as pool:
        packer = _Packer(Path(folder), Path(previous), _read_checksums(Path(seen)), pool)
        for shard in cut(images, target):
            yield from packer.write(shard)
        packer.finish()
        checksums = {name: check.result() for name, check in packer.checksums.items()}
    with replace_file(seen) as new:
        new.write_text(json.dumps(checksums, indent=0))


def _read_checksums(seen: Path) -> dict[str, int]:
    try:
        checksums = json.loads(seen.read_bytes())
    except (OSError, ValueError, RecursionError):  # none yet, or not ours: nothing is taken over
        return {}
    return checksums if isinstance(checksums, dict) else {}


@dataclass
class _Packer:
    """Puts shards into `folder`.

    Reading them for their checksums is as much work as listing the images, and done beside it:
    the check of an old shard goes on while the images of the next are gathered.
    """

    folder: Path
    previous: Path
    known: dict[str, int]  # name of a shard: its checksum when it was written
    pool: Executor
    checksums: dict[str, Future] = field(default_factory=dict)
    checking: tuple[list[RawImage], str] | None = None

    def write(self, images: list[RawImage]) -> Iterator[Entry]:
        name = shard_name((image.path, image.sha256) for image in images)
        self.finish()
        if name in self.known and (self.previous / name).is_file():
            self.checksums[name] = self.pool.submit(checksum, self.previous / name)
            self.checking = images, name
        else:
            self._write(images, name)
        for image in images:
            yield Entry(
                image.path, image.label, image.split, image.group, image.sha256, name, image.path
            )

    def finish(self) -> None:
        """Take over the shard that is being checked, or write it anew if it is damaged."""
        if self.checking:
            images, name = self.checking
            self.checking = None
            if self.checksums[name].result() == self.known[name]:
                link_or_copy(self.previous / name, self.folder / name)
            else:
                self._write(images, name)

    def _write(self, images: list[RawImage], name: str) -> None:
        write_zip(_unchanged(images), self.folder / name)
        self.checksums[name] = self.pool.submit(checksum, self.folder / name)


def file_mark(status: os.stat_result) -> str:
    """What changes when a file's content does, as far as can be told without reading it.

    A program can set the size and the time of change back, but not the time at which the system
    last saw the file change (ctime).
    """
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_ino}"


class ChangedImage(UserError):
    """An image is not what it was when it was listed."""


def _unchanged(images: list[RawImage]) -> Iterator[tuple[str, bytes]]:
    for image in images:
        data = image.read()
        if hashlib.sha256(data).digest() != image.sha256:
            raise ChangedImage(f"{image.path} changed while it was read; run again")
        yield image.path, data


def write_zip(files: Iterable[tuple[str, bytes]], path: Path) -> None:
    """Write `files`, names and contents, into the uncompressed zip `path`: the same bytes on any
    machine at any time."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files:
            info = zipfile.ZipInfo(name)  # dated 1980-01-01
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, content)
