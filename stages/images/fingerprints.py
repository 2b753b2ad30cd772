"""Short names: for an image's exact pixels, for what it looks like, and for what decoded it.
Also in a few numbers how bright, how rich and how sharp an image is."""

import hashlib
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import xxhash

# Grey levels. With 0, of MNIST digits saved again as JPEG of quality 90 next to none kept two
# hashes within two bits of each other; with 4, all do.
MARGIN = 4


def digests(images: np.ndarray) -> list[str]:
    """32 hex digits for each of uint8 (n, height, width, channels), alike only for like pixels.

    XXH3, whose 128 bits hold against chance as those of SHA-256 do, at the speed of reading the
    memory. Not against somebody who looks for two images of one digest: they would be taken for
    copies of each other.
    """
    return [xxhash.xxh3_128_hexdigest(image) for image in np.ascontiguousarray(images)]


def perceptual_hashes(images: np.ndarray) -> list[str]:
    """16 hex digits for each of uint8 (n, height, width, channels): the difference hash.

    A bit says whether a cell of an 8 x 9 grid is darker than its right neighbour by more than
    `MARGIN`, so images that differ by compression, scale or brightness differ in few bits
    (N. Krawetz, "Kind of Like That", 2013; there without a margin, so that noise decides the
    bits of flat areas). A cell is the mean of 4 x 4 samples, all channels together.
    """
    count, height, width, channels = images.shape
    rows = (np.arange(32) * 2 + 1) * height // 64
    bands = images[:, rows].reshape(count, 8, 4, width * channels).sum(2, dtype=np.uint16)
    # Whole numbers below 2**24 are exact in float32, in whatever order a library adds them.
    cells = bands.reshape(count * 8, -1).astype(np.float32) @ _cell_weights(width, channels)
    brighter = cells[:, 1:] - cells[:, :-1] > MARGIN * 16 * channels
    bits = np.packbits(brighter, axis=1)
    return [row.tobytes().hex() for row in bits.reshape(count, 8)]


@lru_cache(maxsize=4)
def _cell_weights(width: int, channels: int) -> np.ndarray:
    """How often each value of a row of an image counts in each of 9 cells: (values, 9)."""
    columns = (np.arange(36) * 2 + 1) * width // 72
    weights = np.zeros((width, channels, 9), np.float32)
    for sample, column in enumerate(columns.tolist()):
        weights[column, :, sample // 4] += 1
    return weights.reshape(-1, 9)


# What tells dark, bright, flat, empty and blurred images (`stages.splits.oddities`). Some of the
# pixels tell it as well as all of them would, so that a photo costs a third of its digest.

SAMPLES = 32  # rows and columns that are looked at for brightness
GREYS = 64  # bins of 4 levels
SCANNED_ROWS = 16  # that are looked at for edges

APPEARANCE = ("darkest", "brightest", "entropy", "sharpness")


def appearances(images: np.ndarray) -> dict[str, np.ndarray]:
    """Whole numbers (n,) by name, `APPEARANCE`, for uint8 (n, height, width, channels).

    `darkest` and `brightest`: the levels, 0 to 255, below and above which lies 1 % of the image.
    `entropy` of its grey levels, in 1/100 bit: 0 for one colour, 600 for all levels equally often.
    `sharpness`: mean square of the Laplacian (J. Pech-Pacheco et al., "Diatom autofocusing in
    brightfield microscopy", 2000), small where edges are soft.
    """
    counts = _grey_histograms(images)
    upto, total = counts.cumsum(axis=1), counts[0].sum()
    width = 256 // GREYS
    return {
        "darkest": (upto * 100 <= total).sum(axis=1) * width,
        "brightest": ((total - upto) * 100 > total).sum(axis=1) * width + width - 1,
        "entropy": _micro_bits(int(total))[counts].sum(axis=1) // 10_000,
        "sharpness": _mean_square_laplacian(images).astype(np.int64),
    }


def _grey_histograms(images: np.ndarray) -> np.ndarray:
    """How often each of `GREYS` bins of grey occurs in a grid of samples, int64 (n, GREYS)."""
    height, width, channels = images.shape[1:]
    samples = images
    if height > SAMPLES:
        samples = samples[:, _evenly(SAMPLES, height)]
    if width > SAMPLES:
        samples = samples[:, :, _evenly(SAMPLES, width)]
    grey = samples[..., 0]
    if channels == 3:  # a quarter, a half, a quarter: near enough to what the eye weighs
        grey = (grey >> 2) + (samples[..., 1] >> 1) + (samples[..., 2] >> 2)
    bins = (grey // (256 // GREYS)).reshape(len(images), -1)
    bins = bins + np.arange(len(images))[:, None] * GREYS
    return np.bincount(bins.ravel(), minlength=len(images) * GREYS).reshape(-1, GREYS)


@lru_cache(maxsize=4)
def _micro_bits(total: int) -> np.ndarray:
    """What a grey that occurs k of `total` times adds to the entropy, int64 (total + 1,).

    Whole millionths of a bit, whose sum does not depend on the order.
    """
    share = np.arange(1, total + 1) / total
    return np.concatenate([[0], np.rint(-share * np.log2(share) * 1e6)]).astype(np.int64)


def _mean_square_laplacian(images: np.ndarray) -> np.ndarray:
    """Of the middle channel, over `SCANNED_ROWS` rows without the edges, float64 (n,)."""
    count, height, width, channels = images.shape
    if min(height, width) < 3:
        return np.zeros(count)
    image = images[..., channels // 2]
    rows = 1 + _evenly(min(height - 2, SCANNED_ROWS), height - 2)
    middle = image[:, rows].astype(np.int16)
    laplacian = 4 * middle[:, :, 1:-1] - middle[:, :, :-2] - middle[:, :, 2:]
    laplacian -= image[:, rows - 1, 1:-1]
    laplacian -= image[:, rows + 1, 1:-1]
    # Whole numbers below 2**53 are exact in float64, in whatever order a library adds them.
    flat = laplacian.reshape(count, -1).astype(np.float64)
    return np.einsum("ij,ij->i", flat, flat) / flat.shape[1]


def _evenly(count: int, length: int) -> np.ndarray:
    """`count` places evenly within 0 to `length` - 1."""
    return (np.arange(count) * 2 + 1) * length // (2 * count)


# The name of what turns files into pixels: its source and the libraries it uses.


# What decides pixels, fingerprints and facts of an image.
SOURCES = ("decode", "fingerprints", "formats", "resize")
LIBRARIES = {
    "Pillow": "pillow",
    "pillow-heif": "pillow-heif",
    "simplejpeg": "simplejpeg",
    "resizer": "cykooz-resizer",
}


def name_decoder(folder: Path = Path(__file__).parent) -> str:
    """Results of a decoder of another name are not reused."""
    digest = hashlib.sha256()
    for name in SOURCES:
        # Git may give the lines of a text other ends.
        digest.update((folder / f"{name}.py").read_bytes().replace(b"\r\n", b"\n"))
    libraries = ", ".join(f"{name} {_version(package)}" for name, package in LIBRARIES.items())
    return f"{digest.hexdigest()[:12]} ({libraries})"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # one that this kind of machine does without
        return "none"


DECODER = name_decoder()
