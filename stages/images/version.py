"""The name of what turns files into pixels: its source and the libraries it uses."""

import hashlib
from importlib.metadata import version
from pathlib import Path

# What decides pixels, fingerprints and facts of an image.
SOURCES = (
    *("decode", "fingerprints", "formats", "geometry", "limits", "modes", "resize"),
    "unreadable",
)
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
