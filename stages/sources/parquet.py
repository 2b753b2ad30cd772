"""Images in parquet files: a column of image bytes and one of labels, as public hubs serve them."""

import functools
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.errors import UserError
from stages.parameters.download import Columns
from stages.progress import progress
from stages.sources.layout import check_classes, check_image_size, side_of_file
from stages.sources.table import check_side
from stages.store.names import printable, read_label
from stages.store.raw import RawImage

ROWS_AT_ONCE = 64
MEMORY = 2**26  # bytes that these rows may take
# A file that unpacks beyond both is a bomb.
LARGEST_GROWTH = 200
LARGEST_HARMLESS = 2**28
LONGEST_NAME = 255  # characters that are kept of the end of an image's own path
BUFFER = 2**20  # bytes; without one, whole row groups come into memory

SUFFIXES = (
    (b"\xff\xd8", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
    (b"RIFF", ".webp"),
)


def parquet_files(path: str | Path) -> list[Path]:
    """`path` itself, or the parquet files in and under the folder `path`, sorted."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; set download.path or download.url")
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path} holds no .parquet files; set download.path or download.url")
    for file in files:
        if not file.is_file():
            raise UserError(f"{printable(str(file))} is a broken link or no regular file")
    return files


def parquet_images(files: dict[str, Path], columns: Columns) -> Iterator[RawImage]:
    """The images of the parquet `files` (by a short name each), sorted by path.

    The path is the name of the file, the number of the row and, where the image is a struct with
    a field `path` (Hugging Face), that path. Image bytes are binary, or a struct with a field
    `bytes`. Labels are text, or numbers whose names the file's own metadata may give. A file
    called train..., val..., validation..., test... or extra..., or in such a folder, is of that
    side, unless a split column says otherwise. Raises `UserError` for files that are damaged or
    lack a column.
    """
    stems: dict[str, Path] = {}
    for name, file in files.items():
        stem = printable(name.removesuffix(".parquet"))
        if stem in stems:
            raise UserError(f"{stems[stem]} and {file} have the same name; rename one of them")
        stems[stem] = file
    labels: set[str] = set()
    for stem in sorted(stems, key=lambda stem: stem + "/"):
        for image in _file_images(stems[stem], stem, columns):
            labels.add(image.label)
            yield image
    check_classes(labels, ", ".join(map(printable, files)))


def _file_images(file: Path, stem: str, columns: Columns) -> Iterator[RawImage]:
    import pyarrow.parquet as pq

    with _damage_as_user_error(file):
        table = pq.ParquetFile(file, buffer_size=BUFFER, page_checksum_verification=True)
        schema, count = table.schema_arrow, table.metadata.num_rows
        image = _image_column(schema, columns.file, file)
        split = group = None
        if columns.split in schema.names or columns.split != Columns().split:
            split = _column(schema, "split", columns.split, file)  # the default may be absent
        if columns.group:
            group = _column(schema, "group", columns.group, file)
        label = _column(schema, "label", columns.label, file)
        names = _class_names(schema, label)
    with table:
        declared = side_of_file(stem)
        wanted = list(dict.fromkeys(filter(None, [image, label, split, group])))
        row = -1
        with progress(count, "images", f"reading {printable(file.name)}") as bar:
            for row, values in enumerate(_rows(table, wanted, file)):
                at = f"{printable(str(file))}, row {row}"
                content, name = _content(values[image], image, at)
                path = f"{stem}/{row:08}/{name}" if name else f"{stem}/{row:08}{_suffix(content)}"
                side = values[split] if split else None
                yield RawImage(
                    path=path,
                    label=_label(values[label], names, label, at),
                    split=check_side(str(side), at) if side else declared,
                    group=_group(values[group]) if group else "",
                    size=len(content),
                    sha256=hashlib.sha256(content).digest(),
                    read=functools.partial(bytes, content),  # no copy: they are bytes already
                )
                bar.update()
        if row + 1 != count:
            raise UserError(f"{file} is damaged: it has {row + 1:,} rows and declares {count:,}")


def _rows(table: Any, wanted: list[str], file: Path) -> Iterator[dict[str, Any]]:
    """The rows of the columns `wanted`, few at a time, so that large cells do not fill memory."""
    with _damage_as_user_error(file):
        rows, largest = ROWS_AT_ONCE, max(LARGEST_HARMLESS, LARGEST_GROWTH * file.stat().st_size)
        for number in range(table.metadata.num_row_groups):
            # Not by column: Arrow ends the process where what a damaged file says of one is odd.
            size = table.metadata.row_group(number).total_byte_size
            if size > largest:
                raise UserError(
                    f"{printable(str(file))} looks like a bomb: it unpacks to {size:,} bytes; do "
                    "not trust it"
                )
            # One large value of a dictionary can stand for many.
            rows = max(1, min(rows, MEMORY // max(size, 1)))
        batches = table.iter_batches(rows, columns=wanted)
    while True:
        with _damage_as_user_error(file):
            batch = next(batches, None)
            values = None if batch is None else batch.to_pylist()
        if values is None:
            return
        yield from values


@contextmanager
def _damage_as_user_error(file: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Arrow has one for each way in which a file can be wrong
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        reason = str(error) or type(error).__name__
        raise UserError(
            f"{printable(str(file))} is damaged or no parquet file: {printable(reason)[:500]}; "
            "fetch it again"
        ) from None


def _content(cell: Any, column: str, at: str) -> tuple[bytes, str]:
    """The bytes of the image in `cell`, and its name if it has one."""
    name = ""
    if isinstance(cell, dict):
        name, cell = _safe_name(cell.get("path")), cell.get("bytes")
    if cell is None:
        raise UserError(f"{at}, has no image bytes in column {column!r}")
    check_image_size(len(cell), at)
    return cell, name


def _safe_name(path: object) -> str:
    """The path that a file gives an image, as one that leads downwards only."""
    if not isinstance(path, str):
        return ""
    parts = [part for part in re.split(r"[/\\]", path) if part not in ("", ".", "..")]
    return printable("/".join(parts))[-LONGEST_NAME:].lstrip("/")


def _label(value: Any, names: list[str] | None, column: str, at: str) -> str:
    number = isinstance(value, int) and not isinstance(value, bool)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    known = number and 0 <= value < len(names) if names else isinstance(value, str | int | float)
    if not known or value != value:  # not a number
        shown = printable(str(value))[:100]
        raise UserError(f"{at}: {shown} is no label (column {column!r})")
    return read_label(names[value] if names else str(value), at)


def _group(value: object) -> str:
    return "" if value is None else printable(str(value))


def _image_column(schema: Any, name: str, file: Path) -> str:
    """The column `name`, or if there is none the only one that can hold image bytes."""
    import pyarrow as pa

    def holds_bytes(kind: pa.DataType) -> bool:
        if pa.types.is_struct(kind):
            return any(field.name == "bytes" and is_bytes(field.type) for field in kind)
        return is_bytes(kind)

    def is_bytes(kind: pa.DataType) -> bool:
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    candidates = [field.name for field in schema if holds_bytes(field.type)]
    if name in schema.names and name not in candidates:
        raise UserError(f"{file}: column {name!r} does not hold image bytes")
    if name not in schema.names and len(candidates) == 1:
        return candidates[0]
    return _column(schema, "file", name, file)


def _column(schema: Any, key: str, name: str, file: Path) -> str:
    if schema.names.count(name) != 1:
        problem = f"{schema.names.count(name)} columns" if name in schema.names else "no column"
        raise UserError(
            f"{file} has {problem} {name!r} but {', '.join(map(repr, schema.names))[:1000]}; "
            f"set download.columns.{key} in params.yaml"
        )
    return name


def _class_names(schema: Any, label: str) -> list[str] | None:
    """Names of the numbers in the column `label`, from the metadata of Hugging Face files."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return names or None


def _suffix(content: bytes) -> str:
    return next((suffix for magic, suffix in SUFFIXES if content.startswith(magic)), "")
