"""Images of a folder: listed in a fixed order, hashed once, packed into a few archives."""

import csv
import functools
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from stages.errors import UserError
from stages.progress import progress
from stages.sources.layout import (
    check_classes,
    is_hidden,
    is_image,
    read_layout,
    report_ignored,
)
from stages.store.atomic import replace_file
from stages.store.raw import RawImage, file_mark, text

# A file changed less than this before it was read may change again without a new time stamp.
CLOCK_STEP_NS = 2_000_000_000


def folder_images(folder: str | Path, seen: str | Path) -> Iterator[RawImage]:
    """The images of `folder`, whose layout is `read_layout`'s, sorted by path.

    `seen` is a file of ours that remembers the hashes of files which have not changed since.
    Raises `UserError` for a folder that is missing, empty, of one class or otherwise laid out.
    """
    folder = Path(folder)
    names, ignored = [], []
    for name in list_files(folder):
        (names if is_image(name) else ignored).append(name)
    report_ignored([text(name) for name in ignored], str(folder))
    if not names:
        raise UserError(
            f"{folder} holds no images; put them there in one folder a class, e.g. "
            f"{folder}/cat/1.jpg, or choose another download.source in params.yaml"
        )
    names.sort(key=text)
    paths = [text(name) for name in names]
    places = list(read_layout(paths, str(folder)))
    check_classes({label for _, label in places}, str(folder))
    with known_hashes(seen) as hashes, progress(len(names), "images", "reading") as bar:
        for name, path, (split, label) in zip(names, paths, places, strict=True):
            yield folder_image(folder, name, path, label, split, "", hashes)
            bar.update()


def folder_image(
    folder: Path, name: str, path: str, label: str, split: str, group: str, hashes: "Hashes"
) -> RawImage:
    """The file `name` of `folder` as an image to pack."""
    file = os.path.join(folder, name)
    size, digest = hashes.of(path, file)
    return RawImage(path, label, split, group, size, digest, functools.partial(_read, file))


def _read(file: str) -> bytes:
    with open(file, "rb") as content:
        return content.read()


def list_files(folder: Path) -> Iterator[str]:
    """Names of all files under `folder`, relative to it, in the order of the whole name.

    Links are followed; hidden files and those of operating systems are left out.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}; download.path in params.yaml names the images' folder")
    yield from _list(folder, "", frozenset([os.path.realpath(folder)]))


def _list(folder: Path, prefix: str, above: frozenset[str]) -> Iterator[str]:
    # A folder sorts as its name and a slash, so that whole names come out sorted.
    entries = []
    for entry in os.scandir(folder):
        if not is_hidden(entry.name):
            entries.append((entry.name + "/" if entry.is_dir() else entry.name, entry))
    for name, entry in sorted(entries, key=lambda item: item[0]):
        if entry.is_dir():
            real = os.path.realpath(entry.path)
            if real not in above:  # else a link to a folder that it lies in
                yield from _list(Path(entry.path), prefix + name, above | {real})
        elif entry.is_file():
            yield prefix + name
        else:
            raise UserError(f"{entry.path} is a broken link or no regular file; take it away")


@contextmanager
def known_hashes(seen: str | Path) -> Iterator["Hashes"]:
    """Hashes remembered from run to run in the file `seen`, which a failed run leaves as it was."""
    seen = Path(seen)
    seen.parent.mkdir(parents=True, exist_ok=True)
    seen.touch()
    with (
        open(seen, encoding="utf-8", newline="") as old,
        replace_file(seen) as temporary,
        open(temporary, "w", encoding="utf-8", newline="") as new,
    ):
        yield Hashes(csv.reader(old), csv.writer(new, lineterminator="\n").writerow)


class Hashes:
    """SHA-256 of files, asked for in the order of their paths.

    A file is read anew unless its size, time of change and inode are as they were. Memory stays
    flat: the lines of the last run and of this one are merged as they pass.
    """

    def __init__(self, old: Iterator[list[str]], write: Callable[[Sequence[str]], object]):
        self._lines, self._write = old, write
        self._line = next(old, None)

    def of(self, path: str, file: str | Path) -> tuple[int, bytes]:
        """Size and SHA-256 of `file`, which is known as `path`."""
        status = os.stat(file)
        mark = file_mark(status)
        while self._line and self._line[0] < path:
            self._line = next(self._lines, None)
        if self._line and self._line[:2] == [path, mark]:
            digest = bytes.fromhex(self._line[2])
        else:
            with open(file, "rb") as content:
                digest = hashlib.file_digest(content, "sha256").digest()
        if status.st_mtime_ns + CLOCK_STEP_NS < time.time_ns():
            self._write((path, mark, digest.hex()))
        return status.st_size, digest
