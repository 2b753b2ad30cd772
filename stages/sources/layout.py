"""What surrounds an image says: its class, and the side of the split it was given."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from stages.errors import UserError
from stages.store.names import printable, read_label

# Folder names (in any letter case) and values of a split column, and the side they declare.
SIDE_NAMES = {
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
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".gif", ".webp",
    ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".avifs",
    ".heic", ".heics", ".heif", ".heifs", ".hif", ".jp2", ".j2k", ".jpx", ".jxl",
    ".tga", ".icb", ".vda", ".vst", ".psd", ".dds", ".pcx",
    ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf",
)
# fmt: on
# Larger files are no photos, but damage or an attack on memory.
LARGEST_IMAGE = 2**28

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
        named = ", ".join(f"{printable(kind)} ({count})" for kind, count in kinds.most_common(5))
        print(f"{where}: passed over {len(paths):,} files that are not images: {named}")


def read_layout(
    paths: Sequence[str], where: str, label_pattern: str | None = None
) -> Iterator[tuple[str, str]]:
    """Yield (split, label) for each of `paths`, the image files of the folder or archive `where`.

    Class folders lie at the top, or under `SIDE_NAMES`; all of it may lie in one wrapping folder.
    Folders within a class folder have no meaning. With `label_pattern`, the first group of that
    regular expression (or its whole match) in the path is the class, and class folders have no
    meaning. Raises `UserError` for any other layout.
    """
    by_folder = label_pattern is None
    tops = {path.split("/", 1)[0] for path in paths}
    wrapped = (
        len(tops) == 1
        and next(iter(tops)).lower() not in SIDE_NAMES
        and any(path.count("/") > 1 for path in paths)
    )
    top = {path.split("/")[wrapped] for path in paths if path.count("/") > wrapped}
    # A class may be called train; where folders name no classes, train/ is a side.
    deep = {path.split("/")[wrapped] for path in paths if path.count("/") > wrapped + by_folder}
    declared = {name for name in deep if name.lower() in SIDE_NAMES}
    others = {name for name in top if name.lower() not in SIDE_NAMES}
    if declared and others:
        raise UserError(
            f"{where} has {_names(others)} beside the declared sets {_names(declared)}; "
            "put every class folder under train/, val/, test/ or extra/, or none of them"
        )
    depth = wrapped + bool(declared)
    loose = [path for path in paths if path.count("/") < depth + by_folder]
    if loose:
        raise UserError(
            f"{len(loose):,} images of {where} lie in no class folder, e.g. "
            f"{printable(loose[0])}; put each into a folder named after its class, take it away, "
            "or set download.label_pattern if file names say the class"
            if by_folder
            else f"{len(loose):,} images of {where} lie in none of the declared sets "
            f"{_names(declared)}, e.g. {printable(loose[0])}; move or remove them"
        )
    if label_pattern is None:
        labels = [path.split("/")[depth] for path in paths]
    else:
        labels = _match_labels(paths, where, label_pattern)
    for path, label in zip(paths, labels, strict=True):
        side = SIDE_NAMES[path.split("/")[depth - 1].lower()] if declared else ""
        yield side, read_label(label, where)


def _match_labels(paths: Sequence[str], where: str, label_pattern: str) -> list[str]:
    pattern = re.compile(label_pattern)
    matches = [pattern.search(path) for path in paths]
    labels = [(match and match[min(1, pattern.groups)]) or "" for match in matches]
    without = [path for path, label in zip(paths, labels, strict=True) if not label]
    if without:
        raise UserError(
            f"download.label_pattern {label_pattern!r} finds no class in the names of "
            f"{len(without):,} images of {where}, e.g. {printable(without[0])}; change the "
            "pattern, or take them away"
        )
    return labels


def side_of_file(name: str) -> str:
    """The side that a file of many images declares by its `name`, or by its folder's: train.zip,
    test-00000-of-00001.parquet, val/0.parquet; empty for none.
    """
    for part in reversed(name.lower().split("/")):
        first = re.split(r"[-_.]", part, maxsplit=1)[0]
        if first in SIDE_NAMES:
            return SIDE_NAMES[first]
    return ""


def check_classes(labels: set[str], where: str) -> None:
    """Raise `UserError` unless there are at least two classes."""
    if len(labels) == 1:
        raise UserError(
            f"{where} has a single class, {next(iter(labels))}; a classifier needs at least two "
            "(one folder or label each)"
        )


def check_image_size(size: int, where: str) -> None:
    """Raise `UserError` for an image file (named by `where`) of more bytes than any photo."""
    if size > LARGEST_IMAGE:
        raise UserError(
            f"{where} has {size:,} bytes, but no image has more than {LARGEST_IMAGE:,}; "
            "take it away"
        )


def _names(names: set[str]) -> str:
    shown = ", ".join(f"{printable(name)}/" for name in sorted(names)[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
