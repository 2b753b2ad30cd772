"""Images that a CSV table names: file, label, and if it likes split and group."""

import os
import posixpath
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from stages.errors import UserError
from stages.parameters.download import Columns
from stages.progress import progress
from stages.sources.archive import read_members
from stages.sources.folder import folder_image, known_hashes
from stages.sources.layout import SIDE_NAMES, check_classes, check_image_size
from stages.store.archives import read_archive
from stages.store.names import printable, read_label
from stages.store.raw import Entry, RawImage
from stages.store.tables import foreign_table

# Larger ones are no tables of labels: five million lines are smaller.
LARGEST_TABLE = 2**28


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
    file = folder / table
    if not os.path.isfile(file):
        raise UserError(
            f"{file} does not exist; download.path and download.table in params.yaml "
            "name the folder and the table in it"
        )
    _check_size(os.path.getsize(file), str(file))
    base = Path(os.path.normpath(folder / posixpath.dirname(table)))
    rows = read_rows(file.read_bytes(), columns, str(file), base)
    _check_missing((row for row in rows if not os.path.isfile(base / row.path)), str(file))
    with known_hashes(seen) as hashes, progress(len(rows), "images", "reading") as bar:
        for row in rows:
            yield folder_image(base, row.path, row.label, row.split, row.group, hashes)
            bar.update()


def table_entries(archives: dict[str, Path], table: str, columns: Columns) -> list[Entry]:
    """The images that the CSV `table` names in the same archive; entries sorted by path.

    `archives` is that one archive, by the name it shall have.
    """
    [(shard, archive)] = archives.items()
    where = f"{table} in {archive.name}"
    members = {member.real: member for member in read_members(archive, lambda path: True)}
    table = posixpath.normpath(table)
    if table not in members:
        raise UserError(f"{archive} holds no {table}; download.table names the table in it")
    _check_size(members[table].size, where)
    _, content = next(read_archive(archive, [members[table].name]))
    rows = read_rows(content, columns, where)
    base = posixpath.dirname(table)
    paths = [posixpath.join(base, row.path) for row in rows]
    _check_missing((row for row, p in zip(rows, paths, strict=True) if p not in members), where)
    found = [members[path] for path in paths]
    for member in found:
        check_image_size(member.size, f"{archive}: {member.path}")
    entries = [
        Entry(
            member.path,
            row.label,
            row.split,
            row.group,
            member.sha256,
            shard,
            member.name,
        )
        for row, member in zip(rows, found, strict=True)
    ]
    return sorted(entries)


def read_rows(
    content: bytes, columns: Columns, where: str, folder: Path | None = None
) -> list[Row]:
    """The lines of the CSV file `content`, sorted by path; a line that comes twice counts once.

    Columns other than `columns` have no meaning here. Absolute paths may lead into `folder`, that
    of the table. Raises `UserError` for a table that is wrong.
    """
    header, lines = foreign_table(content, where)
    _check_columns(header, columns, where)
    tops = _absolute(folder)
    found: dict[str, Row] = {}
    doubles = 0
    for line, values in lines:
        row = _row(values, columns, line, where, tops)
        known = found.setdefault(row.path, row)
        if known[:-1] != row[:-1]:
            raise UserError(
                f"{where} says of {printable(row.path)} in line {known.line} "
                f"{', '.join(filter(None, known[1:-1]))} and in line {row.line} "
                f"{', '.join(filter(None, row[1:-1]))}; remove one of the lines"
            )
        doubles += known is not row
    if doubles:
        print(f"{where}: {doubles:,} lines come twice and count once")
    if not found:
        raise UserError(f"{where} names no images")
    check_classes({row.label for row in found.values()}, where)
    return sorted(found.values(), key=lambda row: printable(row.path))


def _absolute(folder: Path | None) -> list[str]:
    """How an absolute path into `folder` may begin: by its own name, or by where links lead."""
    if folder is None:
        return []
    absolute = [os.path.abspath(folder), os.path.realpath(folder)]
    return [path.replace("\\", "/").rstrip("/") + "/" for path in absolute]


def _check_size(size: int, where: str) -> None:
    if size > LARGEST_TABLE:
        raise UserError(
            f"{where} has {size:,} bytes, but no table of labels has more than {LARGEST_TABLE:,}"
        )


def check_side(value: str, where: str) -> str:
    """The side that `value` of a split column declares; empty for none."""
    try:
        return SIDE_NAMES[value.strip().lower()] if value.strip() else ""
    except KeyError:
        raise UserError(
            f"{where}: split {value[:100]!r}; use {', '.join(SIDE_NAMES)} or nothing"
        ) from None


def _check_columns(header: Iterable[str], columns: Columns, where: str) -> None:
    header = list(header)
    wanted = {"file": columns.file, "label": columns.label}
    if columns.group is not None:
        wanted["group"] = columns.group
    if columns.split != Columns().split:  # the default may be absent
        wanted["split"] = columns.split
    for key, name in wanted.items():
        if header.count(name) != 1:
            problem = f"{header.count(name)} columns" if name in header else "no column"
            named = ", ".join(map(repr, header)) or "none"
            raise UserError(
                f"{where} has {problem} {name!r} but {named[:1000]}; "
                f"set download.columns.{key} in params.yaml"
            )


def _row(values: dict, columns: Columns, line: int, where: str, tops: list[str]) -> Row:
    at = f"{where}, line {line}"
    path, label = values[columns.file].strip(), values[columns.label].strip()
    if not path or not label:
        raise UserError(f"{at}, lacks {'its file' if not path else 'a label'}")
    path = posixpath.normpath(path.replace("\\", "/"))
    path = next((path.removeprefix(top) for top in tops if path.startswith(top)), path)
    if path.startswith(("/", "../")) or path in ("..", "."):
        raise UserError(f"{at}: {printable(path)} is not within the folder of the table")
    split = check_side(values.get(columns.split, ""), at)
    group = printable(values[columns.group].strip()) if columns.group is not None else ""
    return Row(path, read_label(label, at), split, group, line)


def _check_missing(rows: Iterable[Row], where: str) -> None:
    missing = list(rows)
    if missing:
        first = missing[0]
        raise UserError(
            f"{where} names {len(missing):,} files that are not there, the first being "
            f"{printable(first.path)} in line {first.line}; put them there or remove their lines"
        )
