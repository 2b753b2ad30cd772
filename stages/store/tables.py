"""CSV tables: written as the csv module quotes them, read as Arrow columns.

Arrow reads a million rows in a second and holds them in megabytes.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

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
