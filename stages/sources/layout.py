"""What surrounds an image says: its class, and the side of the split it was given."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from stages.errors import UserError

# Folder names (in any letter case) and values of a split column, and the side they declare.
SIDES = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "extra": "extra",
}

# What a person would call an image. Those that preprocess cannot read end in its rejects.
# fmt: off
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".heic", ".heif", ".jp2", ".jxl",
    ".dng", ".cr2", ".nef", ".arw",
)
# fmt: on

# Left by operating systems and file managers; so is whatever starts with a dot.
OS_FILES = frozenset(["__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin"])


def is_hidden(path: str) -> bool:
    """Whether a part of `path` belongs to the operating system: .DS_Store, __MACOSX, ..."""
    return any(part.startswith(".") or part.casefold() in OS_FILES for part in path.split("/"))


def is_image(path: str) -> bool:
    """Whether the name of the file `path` is an image's."""
    return path.lower().endswith(IMAGE_SUFFIXES)


def report_ignored(paths: Sequence[str], where: str) -> None:
    """Say in one line which files of `where` were passed over because they are no images."""
    if paths:
        kinds = Counter(PurePosixPath(path).suffix or PurePosixPath(path).name for path in paths)
        named = ", ".join(f"{kind} ({count})" for kind, count in kinds.most_common(5))
        print(f"{where}: passed over {len(paths):,} files that are not images: {named}")


def clean_label(name: str) -> str:
    """A class name in the one form (Unicode NFC) in which equal names are equal text."""
    return unicodedata.normalize("NFC", name.strip())


def read_layout(paths: Sequence[str], where: str) -> Iterator[tuple[str, str]]:
    """Yield (split, label) for each of `paths`, the image files of the folder or archive `where`.

    Class folders lie at the top, or under `SIDES`; all of it may lie in one wrapping folder.
    Folders within a class folder have no meaning. Raises `UserError` for any other layout.
    """
    tops = {path.split("/", 1)[0] for path in paths}
    wrapped = (
        len(tops) == 1
        and next(iter(tops)).lower() not in SIDES
        and any(path.count("/") > 1 for path in paths)
    )
    top = {path.split("/")[wrapped] for path in paths if path.count("/") > wrapped}
    deep = {path.split("/")[wrapped] for path in paths if path.count("/") > wrapped + 1}
    declared = {name for name in deep if name.lower() in SIDES}
    others = {name for name in top if name.lower() not in SIDES}
    if declared and others:
        raise UserError(
            f"{where} has {_names(others)} beside the declared sets {_names(declared)}; "
            "put every class folder under train/, val/, test/ or extra/, or none of them"
        )
    depth = wrapped + bool(declared)
    loose = [path for path in paths if path.count("/") <= depth]
    if loose:
        raise UserError(
            f"{len(loose):,} images of {where} lie in no class folder, e.g. {loose[0]}; "
            "put each into a folder named after its class, or take it away"
        )
    for path in paths:
        parts = path.split("/")
        yield (SIDES[parts[depth - 1].lower()] if declared else ""), clean_label(parts[depth])


def side_of_file(name: str) -> str:
    """The side that a file of many images declares by its `name`, or by its folder's: train.zip,
    test-00000-of-00001.parquet, val/0.parquet; empty for none.
    """
    for part in reversed(name.lower().split("/")):
        first = re.split(r"[-_.]", part, maxsplit=1)[0]
        if first in SIDES:
            return SIDES[first]
    return ""


def check_classes(labels: set[str], where: str) -> None:
    """Raise `UserError` unless there are at least two classes."""
    if len(labels) == 1:
        raise UserError(
            f"{where} has a single class, {next(iter(labels))}; a classifier needs at least two "
            "(one folder or label each)"
        )


def _names(names: set[str]) -> str:
    shown = ", ".join(f"{name}/" for name in sorted(names)[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
