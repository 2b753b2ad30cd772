"""Images that a CSV table names: file, label, and if it likes split and group."""

import csv
import io
import posixpath
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from stages.errors import UserError
from stages.parameters.download import Columns
from stages.progress import progress
from stages.sources.archive import read_members
from stages.sources.folder import folder_image, known_hashes
from stages.sources.layout import SIDES, check_classes, clean_label
from stages.store.raw import Entry, RawImage, read_archive


class Row(NamedTuple):
    """A line of the table; `path` is relative to the folder that the table lies in."""

    path: str
    label: str
    split: str
    group: str
    line: int


def table_images(
    folder: str | Path, table: str, columns: Columns, seen: str | Path
) -> Iterator[RawImage]:
    """The images that the CSV `table` in `folder` names, sorted by path.

    `seen` remembers hashes, as in `folder_images`. Raises `UserError` for a table that is
    missing or wrong, and for files that it names and that are not there.
    """
    folder = Path(folder)
    try:
        content = (folder / table).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder / table} does not exist; download.path and download.table in params.yaml "
            "name the folder and the table in it"
        ) from None
    where = str(folder / table)
    rows = read_rows(content, columns, where)
    base = folder / posixpath.dirname(table)
    _check_missing((row for row in rows if not (base / row.path).is_file()), where)
    with known_hashes(seen) as hashes, progress(len(rows), "images", "reading") as bar:
        for row in rows:
            yield folder_image(base, row.path, row.path, row.label, row.split, row.group, hashes)
            bar.update()


def table_entries(archives: dict[str, Path], table: str, columns: Columns) -> list[Entry]:
    """The images that the CSV `table` names in the same archive; entries sorted by path.

    `archives` is that one archive, by the name it shall have.
    """
    [(shard, archive)] = archives.items()
    where = f"{table} in {archive.name}"
    members = {member.path: member for member in read_members(archive, lambda path: True)}
    if table not in members:
        raise UserError(f"{archive} holds no {table}; download.table names the table in it")
    _, content = next(read_archive(archive, [members[table].name]))
    rows = read_rows(content, columns, where)
    base = posixpath.dirname(table)
    paths = [posixpath.join(base, row.path) for row in rows]
    found = [members.get(path) for path in paths]
    _check_missing((row for row, m in zip(rows, found, strict=True) if m is None), where)
    return [
        Entry(member.path, row.label, row.split, row.group, member.sha256, shard, member.name)
        for row, member in zip(rows, found, strict=True)
    ]


def read_rows(content: bytes, columns: Columns, where: str) -> list[Row]:
    """The lines of the CSV file `content`, sorted by path; a line that comes twice counts once.

    UTF-8 with or without a byte order mark; separated by commas, semicolons or tabs. Columns
    other than `columns` have no meaning here. Raises `UserError` for a table that is wrong.
    """
    try:
        lines = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{where}, line {line}, is not UTF-8; save the table as UTF-8") from None
    header = lines.splitlines()[0] if lines.strip() else ""
    separator = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(lines, newline=""), delimiter=separator, strict=True)
    found: dict[str, Row] = {}
    doubles = 0
    try:
        _check_columns(reader.fieldnames or [], columns, where)
        for values in reader:
            row = _row(values, columns, reader.line_num, where)
            known = found.setdefault(row.path, row)
            if known[:-1] != row[:-1]:
                raise UserError(
                    f"{where} says of {row.path} in line {known.line} "
                    f"{', '.join(filter(None, known[1:-1]))} and in line {row.line} "
                    f"{', '.join(filter(None, row[1:-1]))}; remove one of the lines"
                )
            doubles += known is not row
    except csv.Error as error:
        raise UserError(f"{where}, after line {reader.line_num}: {error}") from None
    if doubles:
        print(f"{where}: {doubles:,} lines come twice and count once")
    if not found:
        raise UserError(f"{where} names no images")
    check_classes({row.label for row in found.values()}, where)
    return sorted(found.values())


def check_side(value: str, where: str) -> str:
    """The side that `value` of a split column declares; empty for none."""
    try:
        return SIDES[value.strip().lower()] if value.strip() else ""
    except KeyError:
        raise UserError(f"{where}: split {value!r}; use {', '.join(SIDES)} or nothing") from None


def _check_columns(header: Iterable[str], columns: Columns, where: str) -> None:
    header = list(header)
    wanted = {"file": columns.file, "label": columns.label}
    if columns.group is not None:
        wanted["group"] = columns.group
    if columns.split != Columns().split:  # the default may be absent
        wanted["split"] = columns.split
    for key, name in wanted.items():
        if name not in header:
            raise UserError(
                f"{where} has no column {name!r} but {', '.join(map(repr, header)) or 'none'}; "
                f"set download.columns.{key} in params.yaml"
            )


def _row(values: dict, columns: Columns, line: int, where: str) -> Row:
    at = f"{where}, line {line}"
    if None in values or None in values.values():
        raise UserError(f"{at}, has another number of fields than the header")
    path, label = values[columns.file].strip(), clean_label(values[columns.label])
    if not path or not label:
        raise UserError(f"{at}, lacks {'its file' if not path else 'a label'}")
    path = posixpath.normpath(path.replace("\\", "/"))
    if path.startswith(("/", "../")) or path in ("..", "."):
        raise UserError(f"{at}: {path} is not within the folder of the table")
    split = check_side(values.get(columns.split, ""), at)
    group = values[columns.group].strip() if columns.group is not None else ""
    return Row(path, label, split, group, line)


def _check_missing(rows: Iterable[Row], where: str) -> None:
    missing = list(rows)
    if missing:
        first = missing[0]
        raise UserError(
            f"{where} names {len(missing):,} files that are not there, the first being "
            f"{first.path} in line {first.line}; put them there or remove their lines"
        )
