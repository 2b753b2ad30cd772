"""Archives of images, kept as they are: nothing is ever unpacked, so nothing can escape."""

import hashlib
import os
import posixpath
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from stages.errors import UserError
from stages.progress import progress
from stages.sources.layout import (
    LARGEST_IMAGE,
    check_classes,
    is_hidden,
    is_image,
    read_layout,
    report_ignored,
    side_of_file,
)
from stages.store.archives import damage_as_user_error, iterate_members
from stages.store.blobs import copy_file, link_or_copy
from stages.store.names import printable
from stages.store.raw import Entry

# An archive that grows beyond both is a bomb, not a set of images.
LARGEST_GROWTH = 200
LARGEST_HARMLESS = 2**30


class HashedMember(NamedTuple):
    """A file within an archive: its path and its name there, both printable, the hash and size
    of its content, and its path as it really is, which may name the class."""

    path: str
    name: str
    sha256: bytes
    size: int
    real: str


def archive_entries(archives: dict[str, Path], label_pattern: str | None = None) -> list[Entry]:
    """The images of `archives` (by the names they shall have), which count as one; sorted by path.

    Of several archives, one called train.zip, val-photos.tar, ... that has no such folder within
    is wholly of that side.
    """
    entries = []
    for name, archive in archives.items():
        members = read_members(archive)
        paths = [member.real for member in members]
        layout = read_layout(paths, archive.name, label_pattern)
        prefix, side = "", ""
        if len(archives) > 1:
            prefix, side = name.split(".", 1)[0] + "/", side_of_file(name)
        for member, (split, label) in zip(members, layout, strict=True):
            path, split = prefix + member.path, split or side
            entries.append(Entry(path, label, split, "", member.sha256, name, member.name))
    check_classes({entry.label for entry in entries}, ", ".join(archives))
    return sorted(entries)


def put_archive(archive: Path, target: Path, own: bool) -> None:
    """Put `archive` at `target`: by a hard link if it is our `own`, else by a copy.

    A person's archive is never linked to: it may be written to later, or by DVC made read-only.
    """
    if own:
        link_or_copy(archive, target)
    else:
        copy_file(archive, target)


def read_members(archive: Path, wanted: Callable[[str], bool] = is_image) -> list[HashedMember]:
    """The `wanted` files of the zip or tar (plain, gz, bz2, xz) `archive`, read and hashed.

    Its content says what kind of archive it is, not its name. Raises `UserError` for a file
    that is no archive, is damaged or encrypted, names members outside its folder or twice, has
    links for images, or grows beyond reason.
    """
    if os.path.isdir(archive):
        raise UserError(f"{archive} is a folder, not an archive; use download.source: folder")
    if not os.path.exists(archive):
        raise UserError(f"the archive {archive} does not exist; set download.path or download.url")
    if not os.path.isfile(archive):
        raise UserError(f"{archive} is no regular file; set download.path to an archive")
    remedy = "fetch it again, or unpack it yourself and use download.source: folder"
    with damage_as_user_error(archive, remedy):
        return _read_members(archive, wanted)


def _read_members(archive: Path, wanted: Callable[[str], bool]) -> list[HashedMember]:
    found: dict[str, HashedMember] = {}
    ignored: list[str] = []
    largest = max(LARGEST_GROWTH * archive.stat().st_size, LARGEST_HARMLESS)
    with progress(None, "files", f"reading {archive.name}") as bar:
        for member in iterate_members(archive):
            bar.update()
            if member.end > largest or (member.size > LARGEST_IMAGE and is_image(member.name)):
                raise UserError(
                    f"{archive} looks like an archive bomb: {member.name} ({member.size:,} bytes) "
                    f"makes it grow to {member.end / 2**30:,.1f} GiB; do not trust it"
                )
            path = _safe_path(member.path, archive)
            shown = printable(path)
            if member.kind == "folder" or is_hidden(path):
                continue
            if not wanted(path):
                ignored.append(shown)
            elif member.kind == "encrypted":
                raise UserError(
                    f"{archive}: {shown} is encrypted; unpack it yourself and use "
                    "download.source: folder"
                )
            elif member.kind == "other":
                raise UserError(
                    f"{archive}: {shown} is a link or device, no file; pack it again with the "
                    "images themselves (tar -h --hard-dereference, zip without -y)"
                )
            elif shown in found:
                raise UserError(f"{archive} holds {shown} twice; pack it again with one of them")
            else:
                digest = _hash(member.blocks())
                found[shown] = HashedMember(shown, member.name, digest, member.size, path)
    report_ignored(ignored, archive.name)
    if not found:
        raise UserError(f"{archive} holds no images")
    return list(found.values())


def _safe_path(path: str, archive: Path) -> str:
    """`path` without needless parts; it must lie within the archive's folder on any system."""
    if re.match(r"[/\\]|[A-Za-z]:", path) or ".." in re.split(r"[/\\]", path):
        raise UserError(
            f"{archive} names a file outside its folder, {printable(path)}; do not trust it"
        )
    return posixpath.normpath(path)


def _hash(blocks: Iterable[bytes]) -> bytes:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.digest()
