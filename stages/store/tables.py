"""CSV tables: written as the csv module quotes them, read as Arrow columns.

Arrow reads a million rows in a second and holds them in megabytes. Tables that people write are
read line by line, and forgiven what spreadsheets do.
"""

import csv
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import numpy as np
import pyarrow as pa
import pyarrow.csv

from stages.errors import UserError
from stages.store.outputs import replace_file

# Columns that hold numbers, wherever they occur; every other column is text.
NUMBERS = {
    "row": pa.int64(),
    "width": pa.int64(),
    "height": pa.int64(),
    "levels": pa.int64(),
    "bytes": pa.int64(),
    "darkest": pa.int64(),
    "brightest": pa.int64(),
    "entropy": pa.int64(),
    "sharpness": pa.int64(),
    "confidence": pa.float64(),
}


def read_table(path: str | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The CSV file `path`, whole or only `columns`, in file order.

    Text columns are Arrow strings (an empty field is the empty string); `NUMBERS` names the
    numeric ones. Raises `FileNotFoundError`, or `pyarrow.ArrowInvalid` for a malformed file.
    """
    with open(path, encoding="utf-8", newline="") as file:
        header = next(csv.reader(file), [])
    table = pyarrow.csv.read_csv(
        path,
        # One thread reads a million rows in a second; several would hold many times the file.
        read_options=pyarrow.csv.ReadOptions(use_threads=False),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={name: NUMBERS.get(name, pa.string()) for name in header},
            strings_can_be_null=False,
            include_columns=list(columns) if columns is not None else None,
        ),
    )
    pa.default_memory_pool().release_unused()
    return table


def encode(names: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Number `names` in order of appearance: int64 (n,) numbers, and the distinct names."""
    encoded = names.combine_chunks().dictionary_encode()  # by chunks it would take minutes
    numbers, distinct = encoded.indices.to_numpy().astype(np.int64), encoded.dictionary
    pa.default_memory_pool().release_unused()  # Arrow keeps several times the result
    return numbers, distinct


def write_table(path: str | Path, columns: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write `rows` (an iterable, consumed once) under the header `columns`, whole or not at all."""
    with replace_file(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def iterate(table: pa.Table) -> Iterator[tuple]:
    """Yield the rows of `table` as tuples, with a bounded number of them in memory."""
    for batch in table.to_batches(max_chunksize=10_000):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


# Tables that people write

LONGEST_LINE = 2**20  # characters


def foreign_table(
    content: bytes, where: str
) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    """The header, and (line, value by column) for each row of the CSV file `content`.

    UTF-8 with or without a byte order mark; separated by commas, semicolons or tabs. Raises
    `UserError`, also while it is read, for a table that is damaged; `where` names it.
    """
    head = content[:LONGEST_LINE].decode("utf-8-sig", "replace").lstrip("\r\n").split("\n", 1)[0]
    separator = max(",;\t", key=head.count)
    text = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="")
    reader = csv.DictReader(_lines(text, where), delimiter=separator, strict=True)

    @contextmanager
    def reading() -> Iterator[None]:
        try:
            yield
        except UnicodeDecodeError:
            line = _undecodable_line(content)
            raise UserError(
                f"{where}, line {line}, is not UTF-8; save the table as UTF-8"
            ) from None
        except csv.Error as error:
            raise UserError(f"{where}, after line {reader.line_num}: {error}") from None

    def rows() -> Iterator[tuple[int, dict[str, str]]]:
        with reading():
            for values in reader:
                line = reader.line_num
                if None in values or None in values.values():
                    raise UserError(
                        f"{where}, line {line}, has another number of fields than the header"
                    )
                yield line, values

    with reading():
        header = list(reader.fieldnames or [])
    return header, rows()


def _lines(text: TextIO, where: str) -> Iterator[str]:
    for number in itertools.count(1):
        line = text.readline(LONGEST_LINE)
        if not line:
            return
        if len(line) == LONGEST_LINE:
            raise UserError(f"{where}, line {number}, is too long for a line of a table")
        yield line


def _undecodable_line(content: bytes) -> int:
    try:
        content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return content[: error.start].count(b"\n") + 1
    return 0
