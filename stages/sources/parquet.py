"""Images in parquet files: a column of image bytes and one of labels, as public hubs serve them."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from stages.errors import UserError
from stages.parameters.download import Columns
from stages.progress import progress
from stages.sources.layout import check_classes, clean_label, side_of_file
from stages.sources.table import check_side
from stages.store.raw import RawImage

ROWS_AT_ONCE = 64
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
    return files


def parquet_images(files: dict[str, Path], columns: Columns) -> Iterator[RawImage]:
    """The images of the parquet `files` (by a short name each), sorted by path.

    The path is the name of the file and the number of the row. Image bytes are binary, or a
    struct with a field `bytes` (Hugging Face). Labels are text, or numbers whose names the
    file's own metadata may give. A file called train..., val..., validation..., test... or
    extra..., or in such a folder, is of that side, unless a split column says otherwise. Raises
    `UserError` for files that are damaged or lack a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    stems = {name.removesuffix(".parquet"): file for name, file in files.items()}
    labels: set[str] = set()
    for stem in sorted(stems, key=lambda stem: stem + "/"):
        try:
            with pq.ParquetFile(stems[stem], buffer_size=BUFFER) as table:
                for image in _file_images(table, stems[stem], stem, columns):
                    labels.add(image.label)
                    yield image
        except pa.ArrowInvalid as error:
            raise UserError(f"{stems[stem]} is damaged or no parquet file: {error}") from None
    check_classes(labels, ", ".join(files))


def _file_images(table, file: Path, stem: str, columns: Columns) -> Iterator[RawImage]:
    schema = table.schema_arrow
    image = _image_column(schema, columns.file, file)
    split = columns.split if columns.split in schema.names else None
    if columns.split != Columns().split:  # the default may be absent
        split = _column(schema, "split", columns.split, file)
    group = columns.group and _column(schema, "group", columns.group, file)
    label = _column(schema, "label", columns.label, file)
    names = _class_names(schema, label)
    declared = side_of_file(stem)
    wanted = list({image, label, split, group} - {None})
    row = -1
    with progress(table.metadata.num_rows, "images", f"reading {file.name}") as bar:
        for batch in table.iter_batches(ROWS_AT_ONCE, columns=wanted):
            for values in batch.to_pylist():
                row += 1
                at = f"{file}, row {row}"
                content, name = values[image], values[label]
                content = content.get("bytes") if isinstance(content, dict) else content
                if content is None:
                    raise UserError(f"{at}, has no image bytes in column {image!r}")
                if name is None or (names and not 0 <= name < len(names)):
                    raise UserError(f"{at}: {name} is no label (column {label!r})")
                yield RawImage(
                    path=f"{stem}/{row:08}{_suffix(content)}",
                    label=clean_label(names[name] if names else str(name)),
                    split=check_side(values[split], at) if split and values[split] else declared,
                    group=str(values[group]) if group and values[group] is not None else "",
                    size=len(content),
                    sha256=hashlib.sha256(content).digest(),
                    read=lambda content=content: content,
                )
                bar.update()


def _image_column(schema, name: str, file: Path) -> str:
    """The column `name`, or if there is none the only one that can hold image bytes."""
    import pyarrow as pa

    def holds_bytes(kind: pa.DataType) -> bool:
        if pa.types.is_struct(kind):
            return any(field.name == "bytes" and holds_bytes(field.type) for field in kind)
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    candidates = [field.name for field in schema if holds_bytes(field.type)]
    if name in schema.names and name not in candidates:
        raise UserError(f"{file}: column {name!r} does not hold image bytes")
    if name not in schema.names and len(candidates) == 1:
        return candidates[0]
    return _column(schema, "file", name, file)


def _column(schema, key: str, name: str, file: Path) -> str:
    if name not in schema.names:
        raise UserError(
            f"{file} has no column {name!r} but {', '.join(map(repr, schema.names))}; "
            f"set download.columns.{key} in params.yaml"
        )
    return name


def _class_names(schema, label: str) -> list[str] | None:
    """Names of the numbers in the column `label`, from the metadata of Hugging Face files."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return features[label]["names"]
    except (KeyError, TypeError, ValueError):
        return None


def _suffix(content: bytes) -> str:
    return next((suffix for magic, suffix in SUFFIXES if content.startswith(magic)), "")
