"""Many different photos on disk in little time."""

import io
import struct
from importlib.resources import files
from pathlib import Path

import numpy as np


def write_photos(folder: Path, count: int, classes: int = 10, size=(200, 150)) -> list[Path]:
    """Write `count` JPEGs of `size` (width, height) into `classes` folders of `folder`.

    Each is cut at a place of its own from one of the two photos that come with scikit-learn, so
    that no two files have the same pixels.
    """
    from PIL import Image

    sources = [
        Image.open(files("sklearn") / f"datasets/images/{name}").convert("RGB")
        for name in ("china.jpg", "flower.jpg")
    ]
    width, height = (min(source.size[side] for source in sources) - size[side] for side in (0, 1))
    places = width * height
    assert count <= 2 * places, f"only {2 * places:,} different photos can be cut"
    order = np.random.default_rng(0).permutation(2 * places)[:count]
    paths = [folder / f"class{n % classes}" / f"{n:07}.jpg" for n in range(count)]
    for parent in {path.parent for path in paths}:
        parent.mkdir(parents=True)
    for path, place in zip(paths, order.tolist(), strict=True):
        source, place = divmod(place, places)
        top, left = divmod(place, width)
        buffer = io.BytesIO()
        cut = sources[source].crop((left, top, left + size[0], top + size[1]))
        cut.save(buffer, "JPEG", quality=90)
        path.write_bytes(buffer.getvalue())
    return paths


def numbered(jpeg: bytes, number: int) -> bytes:
    """`jpeg` with a comment of 8 bytes after its first marker: another file, the same picture."""
    return jpeg[:2] + b"\xff\xfe" + struct.pack(">HQ", 10, number) + jpeg[2:]
