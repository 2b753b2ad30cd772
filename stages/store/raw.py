"""Raw images: a few archives, and a manifest that names every image in them."""

import errno
import hashlib
import json
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute

from stages.errors import UserError
from stages.store.atomic import replace_file
from stages.store.tables import encode, read_table, write_table

# Of a zip, so that small members do not each cost a call to the system.
READ_AHEAD = 2**18

# One line an image, sorted by `path`. `split` is the declared side or empty, `group` ties
# related images together or is empty, `shard` is the archive of data/raw/ that holds the
# file and `member` its name there.
MANIFEST = ("id", "path", "label", "split", "group", "sha256", "shard", "member")

# Large enough for few files, small enough that a changed image moves little data.
SHARD_BYTES = 64 * 2**20


def read_manifest(raw: str | Path) -> pa.Table:
    """The manifest of the folder `raw`: text columns `MANIFEST`, one row an image."""
    return read_table(Path(raw) / "manifest.csv", MANIFEST)


def read_images(
    raw: str | Path, manifest: pa.Table, rows: np.ndarray | None = None
) -> Iterator[tuple[int, bytes]]:
    """Yield (row of `manifest`, bytes of the image file) for `rows`, or for every row.

    Comes in the order in which the archives hold the files, each row once: shard after shard,
    by place within. Memory does not depend on the size of a shard. A zip costs what is read of
    it; a tar is read from its start to the last file wanted. Independent calls may run in
    several threads or processes at once.
    """
    rows = np.arange(len(manifest)) if rows is None else np.asarray(rows)
    shard_of, shards = encode(manifest["shard"])
    for shard, name in enumerate(shards.to_pylist()):
        chosen = rows[shard_of[rows] == shard]
        if len(chosen):
            members: dict[str, list[int]] = {}
            names = manifest["member"].take(pa.array(chosen)).to_pylist()
            for member, row in zip(names, chosen.tolist(), strict=True):
                members.setdefault(member, []).append(row)
            for member, content in read_archive(Path(raw) / name, members):
                for row in members[member]:
                    yield row, content


def read_archive(path: Path, members: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of `members` of the zip or tar `path`, in the order they lie in it."""
    return (read_zip if zipfile.is_zipfile(path) else read_tar)(path, members)


def read_zip(path: Path, members: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of the zip's `members`, in the order they lie in the file.

    Parses the members' headers itself, in half the time of `ZipFile.read` on small members.
    """
    with zipfile.ZipFile(path) as archive, open(path, "rb", READ_AHEAD) as file:
        infos = [archive.NameToInfo[name] for name in members]
        for info in sorted(infos, key=lambda info: info.header_offset):
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                yield info.filename, archive.read(info)
                continue
            # The local header: 30 bytes, of which the last 4 are the lengths of what follows.
            file.seek(info.header_offset + 26)
            lengths = file.read(4)
            skip = int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
            file.seek(skip, os.SEEK_CUR)
            data = file.read(info.compress_size)
            if info.compress_type == zipfile.ZIP_DEFLATED:
                data = zlib.decompress(data, -zlib.MAX_WBITS, info.file_size)
            yield info.filename, data


def read_tar(path: Path, members: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of the tar's `members` (plain, gz, bz2 or xz), in file order."""
    left = len(members)
    with tarfile.open(path, "r|*") as archive:
        for info in archive:
            archive.members.clear()  # tarfile remembers every header it has seen
            name = text(info.name)
            if name in members:
                yield name, archive.extractfile(info).read()
                left -= 1
                if not left:
                    return


def text(name: str) -> str:
    r"""A file name as text that UTF-8 can hold: bytes that are not UTF-8 become \xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


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

    def rows():
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

    write_table(Path(raw) / "manifest.csv", MANIFEST, rows())
    return count


def pack(
    images: Iterable[RawImage],
    folder: str | Path,
    previous: str | Path,
    seen: str | Path,
    target: int = SHARD_BYTES,
) -> Iterator[Entry]:
    """Write `images`, which come sorted by path, into uncompressed zips; yield their entries.

    Where a shard ends depends on the names and sizes of its own images alone, so an image
    added, changed or removed alters one shard and leaves all others byte for byte alike (the
    content-defined chunking of rsync and backup programs). Shards come out at about `target`
    bytes, four times that at most. A shard is named after what it holds, and taken over from
    the folder `previous` if it was written there and has not been touched since, which the
    file `seen` remembers.
    """
    packer = _Packer(Path(folder), Path(previous), _read_marks(Path(seen)))
    shard: list[RawImage] = []
    size = 0
    for image in images:
        shard.append(image)
        size += image.size
        draw = int.from_bytes(hashlib.blake2b(image.path.encode(), digest_size=8).digest())
        if draw * target < image.size << 64 or size >= 4 * target:
            yield from packer.write(shard)
            shard, size = [], 0
    if shard:
        yield from packer.write(shard)
    with replace_file(seen) as new:
        new.write_text(json.dumps(packer.marks, indent=0))


def _read_marks(seen: Path) -> dict[str, str]:
    try:
        return json.loads(seen.read_text())
    except (OSError, ValueError):  # none yet, or not ours: then nothing is taken over
        return {}


@dataclass
class _Packer:
    folder: Path
    previous: Path
    known: dict[str, str]  # name of a shard: what `file_mark` said when it was written
    marks: dict[str, str] = field(default_factory=dict)

    def write(self, images: list[RawImage]) -> Iterator[Entry]:
        content = hashlib.sha256()
        for image in images:
            content.update(image.path.encode() + b"\0" + image.sha256)
        name = f"images-{content.hexdigest()[:12]}.zip"
        old, new = self.previous / name, self.folder / name
        if old.exists() and file_mark(os.stat(old)) == self.known.get(name):
            link_or_copy(old, new)
        else:
            _write_zip(images, new)
        self.marks[name] = file_mark(os.stat(new))
        for image in images:
            yield Entry(
                image.path, image.label, image.split, image.group, image.sha256, name, image.path
            )


def file_mark(status: os.stat_result) -> str:
    """What changes when a file's content does, as far as can be told without reading it."""
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ino}"


def _write_zip(images: list[RawImage], path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for image in images:
            data = image.read()
            if hashlib.sha256(data).digest() != image.sha256:
                raise UserError(f"{image.path} changed while it was read; run again")
            info = zipfile.ZipInfo(image.path)  # dated 1980-01-01
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, data)


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to the file `source`, or a copy where links do not go."""
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without links
        copy_file(source, target)


def copy_file(source: Path, target: Path) -> None:
    """Copy `source` to `target`, sharing the blocks on disk where the system can (XFS, Btrfs)."""
    with open(source, "rb") as old, open(target, "wb") as new:
        try:
            while os.copy_file_range(old.fileno(), new.fileno(), 2**30):
                pass
            return
        except (OSError, AttributeError) as error:  # between file systems, or not on Linux
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise
    shutil.copyfile(source, target)
