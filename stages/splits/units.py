"""Units: images that must stay together, and where the seed puts each of them."""

import re
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.errors import UserError


def group_names(paths: pa.ChunkedArray, pattern: str) -> pa.Array:
    """What each of `paths` shares with its relatives: the first group of `pattern`, or its match.

    Empty where `pattern` is not found. Raises `UserError` if it is found nowhere.
    """
    search, which = re.compile(pattern).search, 1 if re.compile(pattern).groups else 0
    names = [
        (match.group(which) or "") if (match := search(path)) else ""
        for chunk in paths.chunks
        for path in chunk.to_pylist()
    ]
    if not any(names):
        example = f", e.g. {paths[0]}" if len(paths) else ""
        raise UserError(f"split.group_by = {pattern!r} is found in none of the paths{example}")
    return pa.array(names, pa.string())


def unit_names(pixels: pa.ChunkedArray, groups: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray:
    """One name for all images that stay together: their group, or else their pixels' digest.

    Identical images of different groups are left to `leaks`: joining their groups would
    chain whole data sets together through one blank image.
    """
    grouped = pc.binary_join_element_wise("group", groups, "/")
    return pc.if_else(pc.equal(groups, ""), pixels, grouped)


def encode(names: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Number `names` in order of appearance: int64 (n,) numbers, and the distinct names."""
    if isinstance(names, pa.ChunkedArray):
        names = names.combine_chunks()
    encoded = names.dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()


def positions(names: list[str], seed: int) -> np.ndarray:
    """A place in [0, 1) for each of `names`, float64: a function of name and seed alone."""
    key = str(seed).encode()
    digests = b"".join(blake2b(name.encode(), digest_size=8, key=key).digest() for name in names)
    # 53 bits are what a float64 holds exactly, so 1.0 is never reached.
    return (np.frombuffer(digests, "<u8") >> np.uint64(11)) * 2.0**-53
