"""CSV tables: written as the csv module quotes them, read as Arrow columns.

Arrow reads a million rows in a second and holds them in megabytes. Tables that people write are
read line by line, and forgiven what spreadsheets do.
"""

import csv
import io
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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

# Columns of few different texts, and of digests in hexadecimal digits, by their bytes.
REPEATED = ("label", "split", "group", "shard", "mode", "format")
DIGESTS = {"sha256": 32, "pixels": 16, "perceptual": 8}


def read_table(path: str | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The CSV file `path`, whole or only `columns`, in file order.

    Text columns are Arrow strings (an empty field is the empty string); `NUMBERS` names the
    numeric ones. Raises `FileNotFoundError`, or `pyarrow.ArrowInvalid` for a malformed file.
    """
    # One thread reads a million rows in a second; several would hold many times the file.
    read = pyarrow.csv.ReadOptions(use_threads=False)
    table = pyarrow.csv.read_csv(path, read, **_csv_options(path, columns))
    pa.default_memory_pool().release_unused()
    return table


def read_compact(path: str | Path, columns: Sequence[str]) -> pa.Table:
    """As `read_table`, for tables of millions of rows, which take a third of the memory.

    Columns of `REPEATED` are Arrow dictionaries, those of `DIGESTS` bytes. Raises `ValueError` also
    for what is no digest.
    """
    repeated = {name: pa.dictionary(pa.int32(), pa.string()) for name in REPEATED}
    with pyarrow.csv.open_csv(path, **_csv_options(path, columns, repeated)) as reader:
        types = {name: pa.binary(size) for name, size in DIGESTS.items()}
        schema = pa.schema([(f.name, types.get(f.name, f.type)) for f in reader.schema])
        batches = [_with_digests(batch, schema) for batch in reader]
    table = pa.Table.from_batches(batches, schema).unify_dictionaries()
    pa.default_memory_pool().release_unused()
    return table


def _csv_options(
    path: str | Path, columns: Sequence[str] | None, more: Mapping[str, pa.DataType] = {}
) -> dict[str, Any]:
    with open(path, encoding="utf-8", newline="") as file:
        header = next(csv.reader(file), [])
    types = {**NUMBERS, **more}
    return {
        "parse_options": pyarrow.csv.ParseOptions(newlines_in_values=True),
        "convert_options": pyarrow.csv.ConvertOptions(
            column_types={name: types.get(name, pa.string()) for name in header},
            strings_can_be_null=False,
            include_columns=list(columns) if columns is not None else None,
        ),
    }


def _with_digests(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    columns = [
        _from_hexadecimal(column, DIGESTS[name]) if name in DIGESTS else column
        for name, column in zip(schema.names, batch.columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _from_hexadecimal(texts: pa.StringArray, size: int) -> pa.FixedSizeBinaryArray:
    if not pc.all(pc.equal(pc.binary_length(texts), 2 * size)).as_py():
        raise ValueError(f"a digest is not {2 * size} hexadecimal digits")
    content = bytes.fromhex("".join(texts.to_pylist()))
    if len(content) != size * len(texts):  # white space
        raise ValueError(f"a digest is not {2 * size} hexadecimal digits")
    return pa.Array.from_buffers(pa.binary(size), len(texts), [None, pa.py_buffer(content)])


def encode(names: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Number `names` in order of appearance: int64 (n,) numbers, and the distinct names."""
    encoded = names.combine_chunks()
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode()  # by chunks it would take minutes
    numbers, distinct = encoded.indices.to_numpy().astype(np.int64), encoded.dictionary
    pa.default_memory_pool().release_unused()  # Arrow keeps several times the result
    return numbers, distinct


def words(digests: pa.ChunkedArray) -> np.ndarray:
    """`digests` of `read_compact`, 64 bits after 64 bits as numbers: uint64 (bytes / 8, n)."""
    size = digests.type.byte_width
    numbers, start = np.empty((size // 8, len(digests)), np.uint64), 0
    for chunk in digests.chunks:
        if len(chunk):
            content = memoryview(chunk.buffers()[1])[chunk.offset * size :][: len(chunk) * size]
            part = np.frombuffer(content, ">u8").reshape(len(chunk), -1)
            numbers[:, start : start + len(chunk)] = part.T
            start += len(chunk)
    return numbers


def ranks(digests: pa.ChunkedArray) -> np.ndarray:
    """Number the distinct ones of `digests` in their order: int64 (n,), from 0."""
    keys = words(digests)
    order = np.argsort(keys[0])
    # Few have the first 64 bits in common, and next to all of these the others as well.
    same = keys[0, order[1:]] == keys[0, order[:-1]]
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    order[tied] = order[tied][np.lexsort(keys[::-1, order[tied]])]
    differ = ~same
    for key in keys[1:]:
        differ |= key[order[1:]] != key[order[:-1]]
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.append(0, np.cumsum(differ))
    return numbers


def write_table(path: str | Path, columns: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write `rows` (an iterable, consumed once) under the header `columns`, whole or not at all."""
    with replace_file(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def iterate(table: pa.Table) -> Iterator[tuple]:
    """Yield the rows of `table` as tuples, with a bounded number of them in memory."""
    for batch in table.to_batches(max_chunksize=10_000):
        columns = (
            c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in batch.columns
        )
        yield from zip(*(column.to_pylist() for column in columns), strict=True)


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
