"""The distinct files among the images of a manifest, and what is known of each."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from stages.store.tables import encode

# What index.csv says of a content besides where its pixels are.
FACTS = np.dtype(
    [
        ("pixels", "S32"),
        ("perceptual", "S16"),
        ("width", np.int32),
        ("height", np.int32),
        ("mode", "S8"),
        ("format", "S8"),
        ("levels", np.int32),
        ("bytes", np.int64),
    ]
)


@dataclass
class Contents:
    """The distinct files of a manifest, in the order of their first mention.

    `of` int (images,): the content of each image. `hashes`: SHA-256 of each content. `first`
    int (contents,): the first image with it. Then, as results: `facts` (`FACTS`), and `reasons`
    why a content could not be read.
    """

    of: np.ndarray
    hashes: pa.Array
    first: np.ndarray
    facts: np.ndarray
    reasons: dict[int, str]

    @classmethod
    def of_manifest(cls, manifest: pa.Table) -> "Contents":
        of, hashes = encode(manifest["sha256"])
        first = np.unique(of, return_index=True)[1]
        return cls(of, hashes, first, np.zeros(len(first), FACTS), {})

    @property
    def readable(self) -> np.ndarray:
        """bool (contents,)"""
        readable = np.ones(len(self.first), bool)
        readable[list(self.reasons)] = False
        return readable
