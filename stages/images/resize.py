"""Where the pixels of an image go in the fixed-size frame, and how they are resized."""

from math import ceil, floor
from typing import NamedTuple

import numpy as np
from PIL import Image

# Where the pixels of an image go in the fixed-size frame: stretch, pad or crop.


class Placement(NamedTuple):
    """`box` (left, top, right, bottom) of the image becomes `size` (width, height) of the frame.

    `corner` (x, y) is where it goes; what it leaves free shows the background.
    """

    box: tuple[float, float, float, float]
    size: tuple[int, int]
    corner: tuple[int, int]


def place(width: int, height: int, frame: tuple[int, int], resize: str) -> Placement:
    """How an image of `width` x `height` fills `frame` (width, height).

    `resize` is stretch (all of the image, aspect lost), pad (all of it, bars at two sides) or
    crop (its centre, as much as has the frame's aspect).
    """
    across, down = frame
    if resize == "crop":
        # The side that is cut is found in whole numbers, and what is left of it is rounded once,
        # so the box never reaches outside the image, not even by what floats lose.
        if width * down > height * across:
            left = (width - across * height / down) / 2
            return Placement((left, 0, width - left, height), frame, (0, 0))
        top = (height - down * width / across) / 2
        return Placement((0, top, width, height - top), frame, (0, 0))
    box = (0, 0, width, height)
    if resize == "pad":
        scale = max(width / across, height / down)
        size = (
            min(across, max(1, round(width / scale))),
            min(down, max(1, round(height / scale))),
        )
        return Placement(box, size, ((across - size[0]) // 2, (down - size[1]) // 2))
    return Placement(box, frame, (0, 0))


def reduction(placement: Placement, spare: float) -> int:
    """The largest of 8, 4, 2, 1 by which the image may shrink while it is being decoded.

    What is left has at least `spare` times the pixels that the frame needs, in each direction.
    """
    left, top, right, bottom = placement.box
    ratio = min((right - left) / placement.size[0], (bottom - top) / placement.size[1])
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

Box = tuple[float, float, float, float]


def resize(pixels: np.ndarray, box: Box, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """Turn `box` (left, top, right, bottom) of uint8 (h, w, c) into `size` (width, height).

    The box may begin and end within a pixel. `interpolation` is area or a key of `SMOOTH`.
    """
    height, width, channels = pixels.shape
    if size == (width, height) and box == (0, 0, width, height):
        return pixels
    if interpolation == "area":
        return _by_area(pixels, box, size).reshape(*size[::-1], channels)
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    image = image.resize(size, SMOOTH[interpolation], box)
    return np.asarray(image).reshape(*size[::-1], channels)


def _by_area(pixels: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    left, top, right, bottom = box
    across, down = right - left, bottom - top
    # OpenCV takes no box, but a scale that ends within a pixel. So the size of the box is
    # exact; where it begins is rounded down to a whole pixel.
    x, y = floor(left + ROUNDING), floor(top + ROUNDING)
    pixels = pixels[y : ceil(y + down - ROUNDING), x : ceil(x + across - ROUNDING)]
    rows, columns = pixels.shape[:2]
    reductions = across / size[0], down / size[1]
    if min(reductions) < 1 < max(reductions):  # OpenCV's mean is one of reductions only
        if reductions[0] > 1:
            pixels, across = _scale(pixels, (across, rows), (size[0], rows)), size[0]
        else:
            pixels, down = _scale(pixels, (columns, down), (columns, size[1])), size[1]
    elif min(reductions) >= 1 and max(reductions) < SAMPLED:
        double = 2 * size[0], 2 * size[1]
        pixels = _scale(pixels, (across, down), double, linear=True)
        across, down = double
    return _scale(pixels, (across, down), size)


def _scale(
    pixels: np.ndarray, extent: tuple[float, float], size: tuple[int, int], linear: bool = False
) -> np.ndarray:
    """Turn the upper left `extent` (across, down) of `pixels` into `size` (width, height)."""
    import cv2  # late: it takes 0.2 s, and a run that decodes nothing needs it not

    cv2.setNumThreads(1)  # whoever calls decodes several images at a time already
    kind = cv2.INTER_LINEAR if linear else cv2.INTER_AREA
    scales = size[0] / extent[0], size[1] / extent[1]
    return cv2.resize(pixels, None, fx=scales[0], fy=scales[1], interpolation=kind)[
        : size[1], : size[0]
    ]
