"""Images of a folder: listed in a fixed order, hashed once, packed into a few archives."""

import csv
import functools
import hashlib
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from stages.errors import UserError
from stages.progress import progress
from stages.sources.layout import (
    LARGEST_IMAGE,
    check_classes,
    check_image_size,
    is_hidden,
    is_image,
    read_layout,
    report_ignored,
)
from stages.store.names import printable
from stages.store.outputs import replace_file
from stages.store.raw import RawImage, file_mark

# A file changed less than this before it was read may change again without a new time stamp.
CLOCK_STEP_NS = 2_000_000_000


def folder_images(
    folder: str | Path, seen: str | Path, label_pattern: str | None = None
) -> Iterator[RawImage]:
    """The images of `folder`, whose layout is `read_layout`'s, sorted by path.

    `seen` is a file of ours that remembers the hashes of files which have not changed since.
    Raises `UserError` for a folder that is missing, empty, of one class or otherwise laid out.
    """
    folder = Path(folder)
    images = laid_out(list_files(folder), str(folder), label_pattern)
    with known_hashes(seen) as hashes, progress(len(images), "images", "reading") as bar:
        for name, split, label in images:
            yield folder_image(folder, name, label, split, "", hashes)
            bar.update()


def laid_out(
    files: Iterable[str], where: str, label_pattern: str | None
) -> list[tuple[str, str, str]]:
    """Name, side and class of the images among `files`, all of the folder `where`; by path.

    The layout is `read_layout`'s. Raises `UserError` for none, for one class, or another layout.
    """
    names: list[str] = []
    ignored: list[str] = []
    for name in files:
        (names if is_image(name) else ignored).append(name)
    report_ignored([printable(name) for name in ignored], where)
    if not names:
        raise UserError(
            f"{where} holds no images; put them there in one folder a class, e.g. "
            f"{where}/cat/1.jpg, or choose another download.source in params.yaml"
        )
    names.sort(key=printable)
    layout = list(read_layout(names, where, label_pattern))
    check_classes({label for _, label in layout}, where)
    return [(name, *said) for name, said in zip(names, layout, strict=True)]


def folder_image(
    folder: Path, name: str, label: str, split: str, group: str, hashes: "Hashes"
) -> RawImage:
    """The file `name` of `folder` as an image to pack."""
    file, path = os.path.join(folder, name), printable(name)
    size, digest = hashes.size_and_sha256(path, file)
    return RawImage(path, label, split, group, size, digest, functools.partial(_read, file))


def _read(file: str) -> bytes:
    with _reading(file) as content:
        return content.read(LARGEST_IMAGE + 1)


@contextmanager
def _reading(file: str) -> Iterator[BufferedReader]:
    """The open image `file`; what the system has against it is a `UserError` that names it."""
    try:
        with open(file, "rb") as content:
            yield content
    except FileNotFoundError:
        raise UserError(
            f"{printable(file)} was taken away while the images were read; run again"
        ) from None
    except OSError as error:
        raise UserError(f"{printable(file)} cannot be read: {error.strerror}") from None


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
    try:
        with os.scandir(folder) as listing:
            for entry in listing:
                if not is_hidden(entry.name):
                    is_folder = _is(entry.is_dir)
                    entries.append((entry.name + "/" if is_folder else entry.name, entry))
    except OSError as error:
        raise UserError(f"{printable(str(folder))} cannot be read: {error.strerror}") from None
    for name, entry in sorted(entries, key=lambda item: item[0]):
        if name.endswith("/"):
            real = os.path.realpath(entry.path)
            if real not in above:  # else a link to a folder that it lies in
                yield from _list(Path(entry.path), prefix + name, above | {real})
        elif _is(entry.is_file):
            yield prefix + name
        else:
            raise UserError(
                f"{printable(entry.path)} is a broken link or no regular file; take it away"
            )


def _is(asked: Callable[[], bool]) -> bool:
    try:
        return asked()
    except OSError:  # links in a circle, for one
        return False


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
        yield Hashes(_remembered(old), csv.writer(new, lineterminator="\n").writerow)


def _remembered(lines: Iterable[str]) -> Iterator[list[str]]:
    """Path, mark and hash of the `lines` that are as they were written."""
    try:
        for line in csv.reader(lines):
            if len(line) == 4 and line[3] == _check(*line[:3]):
                yield line[:3]
    except (csv.Error, UnicodeDecodeError):  # not what we wrote: files are read anew
        return


def _check(path: str, mark: str, digest: str) -> str:
    return f"{zlib.crc32(f'{path},{mark},{digest}'.encode()):08x}"


class Hashes:
    """SHA-256 of files, asked for in the order of their paths.

    A file is read anew unless its size, times of change and inode are as they were. Memory stays
    flat: the lines of the last run and of this one are merged as they pass.
    """

    def __init__(self, old: Iterator[list[str]], write: Callable[[Sequence[str]], object]):
        self._lines, self._write = old, write
        self._line = next(old, None)

    def size_and_sha256(self, path: str, file: str) -> tuple[int, bytes]:
        """Size and SHA-256 of `file`, which is known as `path`."""
        while self._line and self._line[0] < path:
            self._line = next(self._lines, None)
        try:
            status = os.stat(file)
        except OSError:
            with _reading(file):  # says why
                raise
        check_image_size(status.st_size, printable(file))
        mark = file_mark(status)
        if self._line and self._line[:2] == [path, mark]:
            digest = bytes.fromhex(self._line[2])
        else:
            with _reading(file) as content:
                digest = hashlib.file_digest(content, "sha256").digest()
        if max(status.st_mtime_ns, status.st_ctime_ns) + CLOCK_STEP_NS < time.time_ns():
            self._write((path, mark, digest.hex(), _check(path, mark, digest.hex())))
        return status.st_size, digest
