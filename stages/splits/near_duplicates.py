"""Images that are the same picture: re-encoded, rescaled, brightened.

To compare each image with each other takes 5 billion comparisons for 100,000 images. So it is done
in three steps, each of which passes on few pairs to the next, which costs more:

1. Every image has a perceptual hash of 64 bits (`stages.images.fingerprints`), of which a copy has
   nearly all. Pairs with at most `HASH_BITS` different bits are found by sorting (`_candidates`).
2. Of these, an 8 x 8 thumbnail shows which pairs cannot be close enough (`_Comparison`).
3. The pixels decide: copies correlate by more than 1 - `DISTANCE`. On MNIST and CIFAR-10 those
   saved again as JPEG of quality 75, or enlarged and shrunk back, do; next to no two different
   images do.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from stages.splits import RANK
from stages.store.outputs import made_by
from stages.store.processed import Pixels
from stages.workers import cluster, each

HASH_BITS = 2
DISTANCE = 0.01

# How sorting finds hashes that are nearly the same: cut into three bands, two hashes that differ in
# two bits still have one whole band in common (two differences cannot spoil three bands: the
# pigeonhole principle, as in locality-sensitive hashing). Sorted by a band, images that share it
# stand side by side. Bit i belongs to band i % 3, because neighbouring bits of the hash describe
# neighbouring parts of the picture and often go together: a band of these would tell less.
BANDS = [np.uint64(sum(1 << bit for bit in range(band, 64, 3))) for band in range(3)]

# Among many that share a band the same is done once more, with the bits that are not in it: each of
# its parts holds every third of these. So the work grows less than with the square of the number.
PARTS = [
    [np.uint64(sum(1 << bit for bit in others[part::3])) for part in range(3)]
    for band in range(3)
    for others in [[bit for bit in range(64) if bit % 3 != band]]
]
MANY = 100  # fewer are compared as fast one by one

# A band that more images share tells nothing (blank or flat pictures) and is not followed:
# the work stays linear in the number of images. `unchecked` counts what that leaves out.
CROWDED = 5000

# Small enough to count for little beside TensorFlow's or Arrow's own memory.
PAIRS_AT_A_TIME = 50_000
BYTES_AT_A_TIME = 4 * 2**20

# What a machine of a cluster gets at once: about a second's work.
PORTIONS_A_TASK = 20

# A thumbnail is so many blocks of pixels high and wide.
BLOCKS = 8


def near_duplicates(
    hashes: np.ndarray, rank: np.ndarray, read: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Pair each image with its nearest copy among those of a lower `rank`.

    `hashes` uint64 (n,); `rank` int (n,) is how far the side of an image is held back
    (`splits.RANK`), or another number by which images that are not to be compared are equal,
    negative for those that take no part. `read` gives the pixels of the images whose numbers int64
    (m,) it gets, uint8 (m, h, w, c). Returns int64 (k, 2) pairs (image, its copy of lower rank) and
    their distances float64 (k,), 1 - correlation of the pixels, sorted by distance.
    """
    compare = _Comparison(len(hashes), read)
    nearest, distance = np.full(len(hashes), -1, np.int64), np.full(len(hashes), np.inf)
    for left, right in _candidates(hashes, rank):
        higher = np.where(rank[left] > rank[right], left, right)
        limit = np.minimum(distance[higher], DISTANCE)
        pairs, distances = compare.similar(higher, left + right - higher, limit)
        # With the nearest found so far; of equally near ones the first image counts.
        seen = np.unique(pairs[:, 0])
        seen = seen[nearest[seen] >= 0]
        image = np.concatenate([pairs[:, 0], seen])
        copy = np.concatenate([pairs[:, 1], nearest[seen]])
        far = np.concatenate([distances, distance[seen]])
        order = np.lexsort((copy, far, image))
        best = order[np.diff(image[order], prepend=-1) != 0]
        nearest[image[best]], distance[image[best]] = copy[best], far[best]
    found = np.flatnonzero(nearest >= 0)
    order = found[np.argsort(distance[found], kind="stable")]
    return np.stack([order, nearest[order]], axis=1), distance[order]


def components(hashes: np.ndarray, read: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Number the images such that near-duplicates, and theirs in turn, share one: int64 (n,).

    The number is that of the first image of each component. Arguments as `near_duplicates`
    has them.
    """
    compare = _Comparison(len(hashes), read)
    first = np.arange(len(hashes))
    for left, right in _candidates(hashes, np.arange(len(hashes))):
        apart = first[left] != first[right]  # joined by others already: not worth the reading
        left, right = left[apart], right[apart]
        pairs, _ = compare.similar(left, right, np.full(len(left), DISTANCE))
        first = join(first, pairs[:, 0], pairs[:, 1])
    return first


def join(first: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """`first` int64 (n,), the first member of each item's set, once `left` and `right` (m,) are
    joined pair by pair."""
    while len(left):
        low = np.minimum(first[left], first[right])
        high = np.maximum(first[left], first[right])
        apart = low < high
        left, right = left[apart], right[apart]
        first = first.copy()
        np.minimum.at(first, high[apart], low[apart])
        while (first != (shorter := first[first])).any():
            first = shorter
    return first


def unchecked(hashes: np.ndarray, sides: np.ndarray) -> int:
    """How many images share every band with so many that `near_duplicates` did not follow any."""
    used = hashes[RANK[sides] >= 0]
    return int(np.logical_and.reduce([_sharing(used, band) > CROWDED for band in BANDS]).sum())


def _sharing(hashes: np.ndarray, band: np.uint64) -> np.ndarray:
    """With how many of `hashes`, itself included, each shares `band`: int64 (n,)."""
    keys = hashes & band
    order = np.argsort(keys)
    bounds = np.flatnonzero(np.diff(keys[order])) + 1
    sizes = np.diff(bounds, prepend=0, append=len(keys))
    sharing = np.empty(len(keys), np.int64)
    sharing[order] = np.repeat(sizes, sizes)
    return sharing


def _candidates(hashes: np.ndarray, rank: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield int64 arrays (left, right) of images of different rank whose hashes are close."""
    usable = np.flatnonzero(rank >= 0)
    lefts, rights, waiting = [], [], 0
    for left, right in _pairs(hashes[usable], rank[usable]):
        lefts.append(usable[left])
        rights.append(usable[right])
        waiting += len(left)
        if waiting > PAIRS_AT_A_TIME:
            yield np.concatenate(lefts), np.concatenate(rights)
            lefts, rights, waiting = [], [], 0
    if waiting:
        yield np.concatenate(lefts), np.concatenate(rights)


def _pairs(hashes: np.ndarray, rank: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for number, band in enumerate(BANDS):
        sharing = _sharing(hashes, band)
        few = np.flatnonzero(sharing <= min(MANY, CROWDED))
        many = np.flatnonzero((sharing > MANY) & (sharing <= CROWDED))
        # A pair that agrees in an earlier band or part was found there.
        earlier = BANDS[:number]
        yield from _close(hashes, rank, few, band, earlier)
        for k, part in enumerate(PARTS[number]):
            yield from _close(hashes, rank, many, band | part, earlier + PARTS[number][:k])


def _close(
    hashes: np.ndarray, rank: np.ndarray, images: np.ndarray, key: np.uint64, other: list[np.uint64]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of `images` int64 (m,) that have the bits `key` in common, and all bits of none of
    `other`.

    Sort by the key, then compare every image with the next one, the one after that, and so on, as
    long as any image has the key in common with the one at that `offset`.
    """
    images = images[np.argsort(hashes[images] & key)]
    sorted_hashes, sorted_rank = hashes[images], rank[images]
    keys = sorted_hashes & key
    at, offset = np.arange(len(images)), 0
    while len(at):
        offset += 1
        at = at[: np.searchsorted(at, len(images) - offset)]
        at = at[keys[at] == keys[at + offset]]
        differing = sorted_hashes[at] ^ sorted_hashes[at + offset]
        close = np.flatnonzero(np.bitwise_count(differing) <= HASH_BITS)
        left, differing = at[close], differing[close]
        right = left + offset
        wanted = sorted_rank[left] != sorted_rank[right]
        for bits in other:
            wanted &= (differing & bits) != 0
        yield images[left[wanted]], images[right[wanted]]


@dataclass(frozen=True)
class StoredPixels:
    """Reads images by their numbers, int64 (n,): those at the global `rows` of them in `pixels`.

    To say so in two parts lets the machines of a cluster read for themselves.
    """

    pixels: Pixels
    rows: Callable[[np.ndarray], np.ndarray]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return _take(self.pixels, self.rows(images))


def _take(pixels: Pixels, rows: np.ndarray) -> np.ndarray:
    with made_by("preprocess", pixels.folder):
        return pixels.take(rows)


class _Comparison:
    """Distances of pixels, with a cheap lower bound that spares most of the reading.

    Take the pixels of an image as a vector, subtract its mean and divide by its length: brightness
    and contrast are gone, and the dot product a.b of two images is their correlation. As both have
    length 1, |a - b|^2 = 2 - 2 a.b, so 1 - correlation is half the squared distance of the vectors.

    The bound: sum the vector over 8 x 8 blocks of pixels, each divided by the root of its number of
    pixels. That is an orthogonal projection (onto pictures that are constant in each block), and a
    projection never makes a difference longer. So images whose thumbnails are too far apart are too
    far apart themselves, and need not be read again; the thumbnails all fit in memory.

    Pixels are read and compared by the workers of a cluster, if there is one.
    """

    def __init__(self, count: int, read: Callable[[np.ndarray], np.ndarray]):
        self._read = read
        self._known = np.zeros(count, bool)
        self._blocks = np.zeros((count, BLOCKS**2), np.float16)

    def similar(
        self, left: np.ndarray, right: np.ndarray, limit: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of the pairs `left`, `right` int64 (m,) those within `limit` (m,), and how far."""
        images = np.unique(np.concatenate([left, right]))
        images = images[~self._known[images]]
        for start, blocks in self._portions(_thumbnails, images):
            some = images[start : start + len(blocks)]
            self._blocks[some], self._known[some] = blocks, True
        bound = np.empty(len(left))
        for start in range(0, len(left), PAIRS_AT_A_TIME):
            part = slice(start, start + PAIRS_AT_A_TIME)
            difference = self._blocks[left[part]].astype(np.float32) - self._blocks[right[part]]
            bound[part] = np.einsum("ij,ij->i", difference, difference) / 2
        possible = bound <= limit * 1.02 + 1e-5  # float16 rounds
        pairs = np.stack([left[possible], right[possible]], axis=1)
        distances = np.empty(len(pairs))
        for start, some in self._portions(_distances, *pairs.T):
            distances[start : start + len(some)] = some
        close = distances <= limit[possible]
        return pairs[close], distances[close].clip(0)

    def _portions(
        self, work: Callable[..., np.ndarray], *images: np.ndarray
    ) -> Iterator[tuple[int, np.ndarray]]:
        """`work` of the pixels of `images` int64 (n,), a portion at a time: (its start, it)."""
        count = len(images[0])
        if not count:
            return
        size = max(1, BYTES_AT_A_TIME // (4 * self._read(np.zeros(1, np.int64)).size))
        if cluster() and isinstance(self._read, StoredPixels):
            step, rows = size * PORTIONS_A_TASK, self._read.rows
            tasks = (
                (start, [rows(column[start : start + step]) for column in images])
                for start in range(0, count, step)
            )
            yield from each(
                partial(_of_stored, work=work, pixels=self._read.pixels, size=size), tasks
            )
            return
        for start in range(0, count, size):
            yield start, work(*(self._read(column[start : start + size]) for column in images))


def _of_stored(
    task: tuple[int, list[np.ndarray]], work: Callable[..., np.ndarray], pixels: Pixels, size: int
) -> tuple[int, np.ndarray]:
    """As `_Comparison._portions`: as many at a time, so that the same sums round alike."""
    first, columns = task
    parts = [
        work(*(_take(pixels, rows[start : start + size]) for rows in columns))
        for start in range(0, len(columns[0]), size)
    ]
    return first, np.concatenate(parts)


def _thumbnails(images: np.ndarray) -> np.ndarray:
    """uint8 (n, h, w, c) to float16 (n, BLOCKS * BLOCKS)."""
    return _shrink(_vectors(images)).astype(np.float16)


def _distances(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """1 - correlation of each of `images` with its counterpart, float32 (n,)."""
    a, b = (_vectors(some).reshape(len(some), -1) for some in (images, others))
    return 1 - np.einsum("ij,ij->i", a, b)


def _vectors(images: np.ndarray) -> np.ndarray:
    """Pixels of `images` as float32 (n, h, w, c) of mean 0 and length 1 an image.

    A picture without contrast becomes NaN, and is similar to none.
    """
    values = images.astype(np.float32)
    values -= values.mean(axis=(1, 2, 3), keepdims=True)
    length = np.sqrt(np.square(values).sum(axis=(1, 2, 3), keepdims=True))
    length[length < np.sqrt(values[0].size)] = np.nan  # under one grey level
    values /= length
    return values


def _shrink(vectors: np.ndarray) -> np.ndarray:
    """Float (n, h, w, c) to float (n, BLOCKS * BLOCKS) by an orthogonal projection."""
    for axis in (1, 2):
        size = vectors.shape[axis]
        edges = np.unique(np.arange(BLOCKS) * size // BLOCKS)
        widths = np.diff(edges, append=size)
        shape = [-1 if a == axis else 1 for a in range(4)]
        vectors = np.add.reduceat(vectors, edges, axis=axis) / np.sqrt(widths).reshape(shape)
    flat = vectors.sum(axis=3).reshape(len(vectors), -1) / np.sqrt(vectors.shape[3])
    out = np.zeros((len(flat), BLOCKS**2), flat.dtype)
    out[:, : flat.shape[1]] = flat
    return out
