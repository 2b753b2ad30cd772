"""Short names: for an image's exact pixels, for what it looks like, and for what decoded it."""

import hashlib
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np

# Grey levels. With 0, of MNIST digits saved again as JPEG of quality 90 next to none kept two
# hashes within two bits of each other; with 4, all do.
MARGIN = 4


def digests(images: np.ndarray) -> list[str]:
    """32 hex digits for each of uint8 (n, height, width, channels), alike only for like pixels."""
    return [hashlib.sha256(image).hexdigest()[:32] for image in images]


def perceptual_hashes(images: np.ndarray) -> list[str]:
    """16 hex digits for each of uint8 (n, height, width, channels): the difference hash.

    A bit says whether a cell of an 8 x 9 grid is darker than its right neighbour by more than
    `MARGIN`, so images that differ by compression, scale or brightness differ in few bits
    (N. Krawetz, "Kind of Like That", 2013; there without a margin, so that noise decides the
    bits of flat areas). A cell is the mean of 4 x 4 samples, all channels together.
    """
    count, height, width, channels = images.shape
    rows = (np.arange(32) * 2 + 1) * height // 64
    bands = images[:, rows].reshape(count, 8, 4, width * channels).sum(2, dtype=np.float32)
    # Whole numbers below 2**24 are exact in float32, in whatever order a library adds them.
    cells = bands.reshape(count * 8, -1) @ _cell_weights(width, channels)
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


# The name of what turns files into pixels: its source and the libraries it uses.


# What decides pixels, fingerprints and facts of an image.
SOURCES = ("decode", "fingerprints", "formats", "resize")
LIBRARIES = {
    "Pillow": "pillow",
    "pillow-heif": "pillow-heif",
    "simplejpeg": "simplejpeg",
    "OpenCV": "opencv-python-headless",
}


def name_decoder(folder: Path = Path(__file__).parent) -> str:
    """Results of a decoder of another name are not reused."""
    digest = hashlib.sha256()
    for name in SOURCES:
        # Git may give the lines of a text other ends.
        digest.update((folder / f"{name}.py").read_bytes().replace(b"\r\n", b"\n"))
    libraries = ", ".join(f"{name} {version(package)}" for name, package in LIBRARIES.items())
    return f"{digest.hexdigest()[:12]} ({libraries})"


DECODER = name_decoder()
