"""Archives of images, kept as they are: nothing is ever unpacked, so nothing can escape."""

import bz2
import gzip
import hashlib
import lzma
import posixpath
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from stages.errors import UserError
from stages.progress import progress
from stages.sources.layout import (
    check_classes,
    is_hidden,
    is_image,
    read_layout,
    report_ignored,
    side_of_file,
)
from stages.store.raw import Entry, copy_file, link_or_copy, text

# An archive that grows beyond both is a bomb, not a set of images.
LARGEST_GROWTH = 200
LARGEST_HARMLESS = 2**30
LARGEST_IMAGE = 2**28

# What the libraries raise for an archive that is cut short, altered, or of a kind they do not know.
DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    UnicodeDecodeError,
    NotImplementedError,
)

# How a compressed tar begins, and what reads it.
COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}


class Member(NamedTuple):
    """An image within an archive: its path, its name there, and the hash of its content."""

    path: str
    name: str
    sha256: bytes


def archive_entries(archives: dict[str, Path]) -> list[Entry]:
    """The images of `archives` (by the names they shall have), which count as one; sorted by path.

    Of several archives, one called train.zip, val-photos.tar, ... that has no such folder within
    is wholly of that side.
    """
    entries = []
    for name, archive in archives.items():
        members = read_members(archive)
        places = read_layout([member.path for member in members], archive.name)
        prefix, side = "", ""
        if len(archives) > 1:
            prefix, side = name.split(".", 1)[0] + "/", side_of_file(name)
        for (path, member, sha256), (split, label) in zip(members, places, strict=True):
            entries.append(Entry(prefix + path, label, split or side, "", sha256, name, member))
    check_classes({entry.label for entry in entries}, ", ".join(archives))
    return sorted(entries)


def place(archive: Path, target: Path, own: bool) -> None:
    """Put `archive` at `target`: by a hard link if it is our `own`, else by a copy.

    A person's archive is never linked to: it may be written to later, or by DVC made read-only.
    """
    if own:
        link_or_copy(archive, target)
    else:
        copy_file(archive, target)


def read_members(archive: Path, wanted: Callable[[str], bool] = is_image) -> list[Member]:
    """The `wanted` files of the zip or tar (plain, gz, bz2, xz) `archive`, read and hashed.

    What kind of archive it is, its content says, not its name. Raises `UserError` for a file
    that is no archive, is damaged or encrypted, names members outside its folder or twice, has
    links for images, or grows beyond reason.
    """
    try:
        with open(archive, "rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise UserError(
            f"the archive {archive} does not exist; set download.path or download.url"
        ) from None
    except IsADirectoryError:
        raise UserError(
            f"{archive} is a folder, not an archive; use download.source: folder"
        ) from None
    try:
        return _read_members(archive, _files(archive, head), wanted)
    except (OSError, *DAMAGE) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a fault of the machine; gzip and bz2 raise an OSError without number
        reason = str(error) or type(error).__name__
        raise UserError(
            f"{archive} is damaged or of an unknown kind: {reason}; fetch it again, or unpack it "
            "yourself and use download.source: folder"
        ) from None


def _read_members(
    archive: Path, files: Iterator["_File"], wanted: Callable[[str], bool]
) -> list[Member]:
    found, ignored = {}, []
    largest = max(LARGEST_GROWTH * archive.stat().st_size, LARGEST_HARMLESS)
    with progress(None, "files", f"reading {archive.name}") as bar:
        for file in files:
            bar.update()
            if file.end > largest or (file.size > LARGEST_IMAGE and is_image(file.name)):
                raise UserError(
                    f"{archive} looks like an archive bomb: {file.name} ({file.size:,} bytes) "
                    f"makes it grow to {file.end / 2**30:,.1f} GiB; do not trust it"
                )
            path = _safe_path(file.path, archive)
            if file.kind == "folder" or is_hidden(path):
                continue
            if not wanted(path):
                ignored.append(path)
            elif file.kind == "other":
                raise UserError(
                    f"{archive}: {path} is a link or device, no file; pack it again with the "
                    "images themselves (tar -h --hard-dereference, zip without -y)"
                )
            elif path in found:
                raise UserError(f"{archive} holds {path} twice; pack it again with one of them")
            else:
                found[path] = Member(path, file.name, _hash(file.read))
    report_ignored(ignored, archive.name)
    if not found:
        raise UserError(f"{archive} holds no images")
    return list(found.values())


class _File(NamedTuple):
    """A member of any archive: its name there, and with / between folders; `read` its content.

    `end` is how far the archive has grown when this one is unpacked.
    """

    name: str
    path: str
    kind: str  # file, folder or other
    size: int
    end: int
    read: Callable[[int], bytes] | None


def _files(archive: Path, head: bytes) -> Iterator[_File]:
    if head.startswith(b"PK"):
        return _zip_files(archive)
    for magic, decompress in COMPRESSED.items():
        if head.startswith(magic):
            return _tar_files(archive, decompress)
    if head[257:262] == b"ustar":
        return _tar_files(archive, open)
    raise UserError(f"{archive} is neither a zip nor a tar archive; it starts with {head[:16]!r}")


def _zip_files(path: Path) -> Iterator[_File]:
    end = 0
    with zipfile.ZipFile(path) as archive:
        for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
            mode = stat.S_IFMT(info.external_attr >> 16)
            kind = "file" if mode in (0, stat.S_IFREG) else "other"
            name = info.filename.replace("\\", "/")  # some Windows programs write these
            end += info.file_size
            if info.flag_bits & 1:
                raise UserError(
                    f"{path}: {name} is encrypted; unpack it yourself and use "
                    "download.source: folder"
                )
            if info.is_dir():
                yield _File(info.filename, name, "folder", 0, end, None)
            else:
                with archive.open(info) as content:
                    yield _File(info.filename, name, kind, info.file_size, end, content.read)


def _tar_files(path: Path, decompress: Callable) -> Iterator[_File]:
    with decompress(path, "rb") as file:
        with tarfile.open(fileobj=file, mode="r|") as archive:
            for info in archive:
                archive.members.clear()  # tarfile remembers every header it has seen
                kind = "file" if info.isreg() else "folder" if info.isdir() else "other"
                name, end = text(info.name), info.offset_data + info.size
                read = archive.extractfile(info).read if kind == "file" else None
                yield _File(name, name, kind, info.size, end, read)
        # To tarfile, an archive cut off between two members looks whole. The decompressor
        # knows its end, and the tar has an empty block there.
        while file.read(2**20):
            pass
        if file.tell() < archive.offset + tarfile.BLOCKSIZE:
            raise EOFError("it is cut short")


def _safe_path(path: str, archive: Path) -> str:
    """`path` without needless parts; it must lie within the archive's folder on any system."""
    if re.match(r"[/\\]|[A-Za-z]:", path) or ".." in re.split(r"[/\\]", path):
        raise UserError(f"{archive} names a file outside its folder, {path}; do not trust it")
    return posixpath.normpath(path)


def _hash(read: Callable[[int], bytes]) -> bytes:
    digest = hashlib.sha256()
    while block := read(2**20):
        digest.update(block)
    return digest.digest()
