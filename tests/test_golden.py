"""Decoding gives the pixels it has always given, for files of every format, mode and orientation.

The files are kept as they were encoded, since encoders change more often than decoders. After an
intended change of decoding (or a new version of a library), look at what has changed and run

    python tests/test_golden.py

which writes the digests anew.
"""

import hashlib
import json
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # for when this is run as a program

from factory import pixel_settings  # noqa: E402

from stages.images.decode import decode, decode_with_facts  # noqa: E402
from stages.parameters.pixels import PixelSettings  # noqa: E402

FOLDER = Path(__file__).parent / "golden"
DIGESTS = FOLDER / "digests.json"
FILES = sorted(path for path in FOLDER.iterdir() if path != DIGESTS)
SETTINGS = {
    "colour": pixel_settings((12, 18), background=(10, 200, 60), sixteen_bit="image"),
    "grey": pixel_settings((40, 40), "grayscale", "pad", "bilinear", (10, 200, 60)),
}
WAYS = ("stretch", "pad", "crop")
INTERPOLATIONS = ("area", "nearest", "bilinear", "bicubic", "lanczos")


def digests() -> dict[str, str]:
    found = {
        f"{path.name}, {name}": digest(path, settings)
        for path in FILES
        for name, settings in SETTINGS.items()
    }
    for size, way, interpolation in product(((28, 28), (90, 50)), WAYS, INTERPOLATIONS):
        settings = pixel_settings(size, resize=way, interpolation=interpolation)
        for path in (FOLDER / "colour.jpg", FOLDER / "colour.png"):
            found[f"{path.name}, {size[0]}x{size[1]}, {way}, {interpolation}"] = digest(
                path, settings
            )
    return found


def digest(path: Path, settings: PixelSettings) -> str:
    return hashlib.sha256(decode(path.read_bytes(), settings).tobytes()).hexdigest()[:16]


def test_no_pixel_has_changed():
    expected = json.loads(DIGESTS.read_text())
    found = digests()
    assert {what: found[what] for what in found if found[what] != expected.get(what)} == {}
    assert found.keys() == expected.keys()


# What the pictures show, which a digest does not tell: 24 x 16, of the same part of a photo.
ALIKE = [path for path in FILES if path.suffix in (".jpg", ".tif", ".webp", ".heic", ".avif")]
ALIKE = [path for path in ALIKE if path.stem.split("-")[0].split(" ")[0] in ("colour", "turned")]


@pytest.mark.parametrize("path", ALIKE, ids=[path.name for path in ALIKE])
def test_a_picture_is_the_same_in_every_format_and_turned_upright_once(path):
    # Where EXIF says how to turn them, they were stored as they are and come out turned.
    turns = {"3": (2, False), "5": (0, True), "6": (3, False), "7": (2, True), "8": (1, False)}
    expected = decode((FOLDER / "colour.png").read_bytes(), pixel_settings((16, 24))).astype(int)
    orientation = path.stem.partition("-")[2]
    if orientation:
        quarters, transpose = turns[orientation]
        expected = np.rot90(expected, quarters)
        expected = expected.transpose(1, 0, 2) if transpose else expected
    pixels = decode(path.read_bytes(), pixel_settings(expected.shape[:2]))
    assert np.abs(pixels - expected).mean() < 12


def test_heic_is_turned_by_its_own_property_and_not_by_its_exif():
    """As its standard has it; cameras write both."""
    turned, lying = ((FOLDER / f"{name}.heic").read_bytes() for name in ("turned-6", "exif only"))
    for data in (turned, lying):
        assert b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06" in data  # EXIF: orientation 6
    assert b"irot" in turned
    assert b"irot" not in lying
    small = pixel_settings((8, 8))
    assert decode_with_facts(turned, small)[1] == (16, 24, "RGB", "HEIF", 0)
    assert decode_with_facts(lying, small)[1] == (24, 16, "RGB", "HEIF", 0)
    assert np.array_equal(
        decode(lying, pixel_settings((16, 24))),
        decode((FOLDER / "colour.heic").read_bytes(), pixel_settings((16, 24))),
    )


if __name__ == "__main__":
    DIGESTS.write_text(json.dumps(digests(), indent=1) + "\n")
