"""Images that come as arrays of pixels, written as PNG so that they are images like any others."""

import hashlib
import io
from collections.abc import Iterable, Iterator

import numpy as np

from stages.store.raw import RawImage


def array_image(pixels: np.ndarray, path: str, label: str, split: str = "") -> RawImage:
    """`pixels`, uint8 (h, w) or (h, w, 3), as a PNG file called `path`."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    content = file.getvalue()
    digest = hashlib.sha256(content).digest()
    return RawImage(path, label, split, "", len(content), digest, lambda: content)


def array_images(
    images: np.ndarray, labels: Iterable[int], names: list[str], split: str = ""
) -> Iterator[RawImage]:
    """One image a row of `images`, uint8 (n, h, w[, 3]), sorted by path.

    Paths are [split/]class/number.png, the number being the row.
    """
    labels = np.asarray(labels)
    prefix = f"{split}/" if split else ""
    folders = [name.replace("/", "-") for name in names]
    for label in sorted(range(len(names)), key=lambda number: folders[number] + "/"):
        for row in np.flatnonzero(labels == label).tolist():
            path = f"{prefix}{folders[label]}/{row:05}.png"
            yield array_image(images[row], path, names[label], split)


def digits_images() -> Iterator[RawImage]:
    """The 1,797 scans of handwritten digits (8x8, 17 grey levels) that come with scikit-learn.

    E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI 1998.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return array_images(grey, digits.target, [str(digit) for digit in range(10)])
