"""Units: images that must stay together, and where the seed puts each of them."""

import re
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.errors import UserError
from stages.splits.near_duplicates import join


def group_names(paths: pa.ChunkedArray, pattern: str) -> pa.ChunkedArray:
    """What each of `paths` shares with its relatives: the first group of `pattern`, or its match.

    Empty where `pattern` is not found. Raises `UserError` if it is found nowhere.
    """
    search, which = re.compile(pattern).search, 1 if re.compile(pattern).groups else 0
    names = pa.chunked_array(
        [
            [(match[which] or "") if (match := search(path)) else "" for path in chunk.to_pylist()]
            for chunk in paths.chunks
        ],
        pa.string(),
    )
    if pc.all(pc.equal(names, "")).as_py():
        example = f", e.g. {paths[0]}" if len(paths) else ""
        raise UserError(f"split.group_by = {pattern!r} is found in none of the paths{example}")
    return names


def unit_names(files: pa.ChunkedArray, groups: pa.ChunkedArray) -> pa.ChunkedArray:
    """One name for all images that stay together: their group, or else their file's digest.

    The file and not its pixels, so that images keep their side when they are processed in
    another size or colour, and results before and after can be compared. Identical images of
    different groups are left to `leaks`: joining them would chain whole data sets together
    through one blank image.
    """
    alone = pc.equal(groups, "")
    if pc.all(alone).as_py():
        return files
    return pc.if_else(alone, files, pc.binary_join_element_wise("group", groups, "/"))


def first_twins(files: pa.ChunkedArray, pixels: np.ndarray) -> pa.ChunkedArray:
    """For each image the smallest of `files`, digests, among those with its `pixels`, numbers."""
    rank = pc.rank(files.combine_chunks()).to_numpy()
    order = np.lexsort((rank, pixels))
    first = order[np.searchsorted(pixels[order], np.arange(pixels.max(initial=-1) + 1))]
    return files.take(pa.array(first[pixels]))


def connected(units: np.ndarray, relatives: np.ndarray) -> np.ndarray:
    """Numbers that images share which share a unit or a relative, and theirs in turn.

    `units` and `relatives` int64 (n,) from 0; so is the result.
    """
    numbers = np.unique(relatives, return_inverse=True)[1] + units.max(initial=-1) + 1
    sets = join(np.arange(numbers.max(initial=-1) + 1), units, numbers)
    return np.unique(sets[units], return_inverse=True)[1]


def smallest_names(names: pa.Array, units: np.ndarray, sets: np.ndarray) -> pa.Array:
    """For each number in `sets` int64 (n,) the first in the alphabet of its units' `names`."""
    rank = pc.rank(names).to_numpy()[units]
    order = np.lexsort((rank, sets))
    first = order[np.searchsorted(sets[order], np.arange(sets.max(initial=-1) + 1))]
    return names.take(pa.array(units[first]))


def positions(names: pa.Array, seed: int) -> np.ndarray:
    """A place in [0, 1) for each of `names`, float64 (n,): a function of name and seed alone."""
    key = str(seed).encode()
    numbers = np.empty(len(names), np.uint64)
    for start in range(0, len(names), 10_000):
        digests = [
            blake2b(name.encode(), digest_size=8, key=key).digest()
            for name in names[start : start + 10_000].to_pylist()
        ]
        numbers[start : start + 10_000] = np.frombuffer(b"".join(digests), "<u8")
    # 53 bits are what a float64 holds exactly, so 1.0 is never reached.
    return (numbers >> np.uint64(11)) * 2.0**-53
