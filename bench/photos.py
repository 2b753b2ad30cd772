"""Many different photos on disk in little time: a few real pictures, each with many names."""

import io
import struct
from importlib.resources import files
from pathlib import Path

import numpy as np


def write_photos(folder: Path, count: int, classes: int = 10, size=(500, 375)) -> list[Path]:
    """Write `count` JPEGs of `size` (width, height) into `classes` folders of `folder`.

    Twenty pictures cut from the two photos that come with scikit-learn; a numbered comment in
    the file makes each copy a file of its own, which costs as much to decode as the picture.
    """
    from PIL import Image

    sources = [
        Image.open(files("sklearn") / f"datasets/images/{name}")
        for name in ("china.jpg", "flower.jpg")
    ]
    random = np.random.default_rng(0)
    pictures = []
    for number in range(20):
        source = sources[number % 2]
        left, top = random.integers(0, 140), random.integers(0, 52)
        cut = source.resize(size, box=(left, top, left + 500, top + 375))
        buffer = io.BytesIO()
        cut.save(buffer, "JPEG", quality=90)
        pictures.append(buffer.getvalue())
    paths = [folder / f"class{n % classes}" / f"{n:07}.jpg" for n in range(count)]
    for parent in {path.parent for path in paths}:
        parent.mkdir(parents=True)
    for number, path in enumerate(paths):
        path.write_bytes(numbered(pictures[number % len(pictures)], number))
    return paths


def numbered(jpeg: bytes, number: int) -> bytes:
    """`jpeg` with a comment of 8 bytes after its first marker."""
    return jpeg[:2] + b"\xff\xfe" + struct.pack(">HQ", 10, number) + jpeg[2:]
