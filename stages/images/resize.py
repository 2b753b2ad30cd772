"""Where the pixels of an image go in the fixed-size output, and how they are resized."""

from math import ceil, floor
from typing import NamedTuple

import numpy as np
from PIL import Image

# Where the pixels of an image go: stretch, pad or crop.

Box = tuple[float, float, float, float]  # left, top, right, bottom
Size = tuple[int, int]  # height, width


class Placement(NamedTuple):
    """`box` (left, top, right, bottom) of the image is resized to `resized` (height, width).

    `corner` (y, x) is where that goes in the output; what it leaves free shows the background.
    """

    box: Box
    resized: Size
    corner: tuple[int, int]


def place(height: int, width: int, size: Size, resize: str) -> Placement:
    """How an image of `height` x `width` fills an output of `size` (height, width).

    `resize` is stretch (all of the image, aspect lost), pad (all of it, bars at two sides) or
    crop (its centre, as much as has the output's aspect).
    """
    down, across = size
    if resize == "crop":
        # The side that is cut is found in whole numbers, and what is left of it is rounded once,
        # so the box never reaches outside the image, not even by what floats lose.
        if width * down > height * across:
            left = (width - across * height / down) / 2
            return Placement((left, 0, width - left, height), size, (0, 0))
        top = (height - down * width / across) / 2
        return Placement((0, top, width, height - top), size, (0, 0))
    box = (0, 0, width, height)
    if resize == "pad":
        scale = max(width / across, height / down)
        resized = (
            min(down, max(1, round(height / scale))),
            min(across, max(1, round(width / scale))),
        )
        return Placement(box, resized, ((down - resized[0]) // 2, (across - resized[1]) // 2))
    return Placement(box, size, (0, 0))


def reduction(placement: Placement, spare: float) -> int:
    """The largest of 8, 4, 2, 1 by which the image may shrink while it is being decoded.

    What is left has at least `spare` times the pixels that the output needs, in each direction.
    """
    left, top, right, bottom = placement.box
    height, width = placement.resized
    ratio = min((right - left) / width, (bottom - top) / height)
    return next((factor for factor in (8, 4, 2) if factor * spare <= ratio), 1)


# Resize uint8 pixels: by area with OpenCV, smoothly with Pillow.
#
# Every way of reducing takes all source pixels into account, so that fine patterns become grey
# and do not turn into other patterns:
#
#     area        the mean of the source pixels that an output pixel covers; enlarging repeats
#                 pixels and blends only where an output pixel lies across the edge of two
#     bilinear, bicubic, lanczos
#                 Pillow's, whose filters grow with the reduction (OpenCV's do not: they alias)
#     nearest     one source pixel each; for drawings with few colours, enlarged


SMOOTH = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

# Below this reduction the mean over an area is taken of 2 x 2 points within it: a third of the
# work of the exact mean, and on photos about a level (of 255) from it.
SAMPLED = 3

# More than the error of computing where an edge lies, far less than a pixel.
ROUNDING = 1e-6


def resize(pixels: np.ndarray, box: Box, size: Size, interpolation: str) -> np.ndarray:
    """Resize `box` (left, top, right, bottom) of uint8 (h, w, c) to `size` (height, width).

    The box may begin and end within a pixel. `interpolation` is area or a key of `SMOOTH`.
    """
    height, width, channels = pixels.shape
    if size == (height, width) and box == (0, 0, width, height):
        return pixels
    if interpolation == "area":
        return _by_area(pixels, box, size).reshape(*size, channels)
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    image = image.resize(size[::-1], SMOOTH[interpolation], box)
    return np.asarray(image).reshape(*size, channels)


def _by_area(pixels: np.ndarray, box: Box, size: Size) -> np.ndarray:
    left, top, right, bottom = box
    height, width = size
    down, across = bottom - top, right - left
    # OpenCV takes no box, but a scale that ends within a pixel. So the size of the box is
    # exact; where it begins is rounded down to a whole pixel.
    y, x = floor(top + ROUNDING), floor(left + ROUNDING)
    pixels = pixels[y : ceil(y + down - ROUNDING), x : ceil(x + across - ROUNDING)]
    rows, columns = pixels.shape[:2]
    reductions = down / height, across / width
    if min(reductions) < 1 < max(reductions):  # OpenCV's mean is one of reductions only
        if reductions[1] > 1:
            pixels, across = _scale(pixels, (rows, across), (rows, width)), width
        else:
            pixels, down = _scale(pixels, (down, columns), (height, columns)), height
    elif min(reductions) >= 1 and max(reductions) < SAMPLED:
        double = 2 * height, 2 * width
        pixels = _scale(pixels, (down, across), double, linear=True)
        down, across = double
    return _scale(pixels, (down, across), size)


def _scale(
    pixels: np.ndarray, extent: tuple[float, float], size: Size, linear: bool = False
) -> np.ndarray:
    """Resize the upper left `extent` (height, width) of `pixels` to `size` (height, width)."""
    import cv2  # here, as it takes 0.2 s that a run without new images does not need

    cv2.setNumThreads(1)  # the caller decodes several images at a time already
    kind = cv2.INTER_LINEAR if linear else cv2.INTER_AREA
    y, x = size[0] / extent[0], size[1] / extent[1]
    return cv2.resize(pixels, None, fx=x, fy=y, interpolation=kind)[: size[0], : size[1]]
