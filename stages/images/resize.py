"""Where the pixels of an image go in the fixed-size output, and how they are resized."""

import os
from functools import lru_cache
from math import ceil, floor
from typing import NamedTuple

import numpy as np
from PIL import Image

try:
    import cykooz_resizer as fast
except ImportError:  # there is none for this kind of machine
    fast = None

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


@lru_cache(maxsize=1024)
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


@lru_cache(maxsize=1024)
def reduction(placement: Placement, spare: float) -> int:
    """The largest of 8, 4, 2, 1 by which the image may shrink while it is being decoded.

    What is left has at least `spare` times the pixels that the output needs, in each direction.
    """
    left, top, right, bottom = placement.box
    height, width = placement.resized
    ratio = min((right - left) / width, (bottom - top) / height)
    return next((factor for factor in (8, 4, 2) if factor * spare <= ratio), 1)


# Resize uint8 pixels. Every way of reducing takes all source pixels into account, so that fine
# patterns become grey and do not turn into other patterns:
#
#     area        the mean of the source pixels whose centres an output pixel covers (box filter);
#                 enlarging repeats pixels and blends only where an output pixel lies across the
#                 edge of two
#     bilinear, bicubic, lanczos
#                 smoother weights, of what lies around as well: 2, 4 and 6 times as wide
#     nearest     one source pixel each; for drawings with few colours, enlarged
#
# The filters are Pillow's, computed by fast_image_resize (written in Rust; cykooz-resizer), whose
# vector instructions take a fraction of the time. It gives the same bytes with each set of them.


class Filter(NamedTuple):
    """What cykooz-resizer and Pillow call a filter; to how many pixels from the middle it reaches.

    Pixels of the output where it reduces, of the source where it enlarges.
    """

    fast: str
    pillow: Image.Resampling
    reach: float


FILTERS = {
    "area": Filter("box", Image.Resampling.BOX, 0.5),
    "bilinear": Filter("bilinear", Image.Resampling.BILINEAR, 1),
    "bicubic": Filter("catmull_rom", Image.Resampling.BICUBIC, 2),
    "lanczos": Filter("lanczos3", Image.Resampling.LANCZOS, 3),
}

# cykooz-resizer 4.0.1 takes the first and the last column that these need from the first and the
# last output pixel. Where such a pixel lies on the centre of a source pixel, all its other weights
# are 0, and its neighbours read beyond the memory. That cannot be if the box has all columns.
CUT_BY_PILLOW = {"bicubic", "lanczos"}

# Images are resized in parts, as cykooz-resizer copies what it is given: copies of this size stay
# in the cache of a core, and in memory that the process keeps. Those of whole photos of 500 x 375
# were given back to the system and taken anew each time, which cost as much as the resizing.
PART_BYTES = 2**19

# The box filter counts whole pixels. Below this reduction, in either direction, it would take some
# alone and the mean of others; the weights of the bilinear filter are nearer to the area covered.
FEW = 1.5

# More than the error of computing where an edge lies, far less than a pixel.
ROUNDING = 1e-6

# Read when cykooz-resizer is first used: no threads of its own, as the caller decodes several
# images at a time already.
os.environ.setdefault("RAYON_NUM_THREADS", "1")


def resize(
    pixels: np.ndarray, box: Box, size: Size, interpolation: str, means: bool = False
) -> np.ndarray:
    """Resize `box` (left, top, right, bottom) of uint8 (h, w, c) to `size` (height, width).

    c is 1 or 3. The box may begin and end within a pixel. `interpolation` is nearest or a key of
    `FILTERS`. If `pixels` are `means` of the pixels of a larger image already, area divides them
    where an output pixel begins or ends, as that would divide the larger image. What comes out may
    be `pixels`, or read-only.
    """
    rows, columns = pixels.shape[:2]
    if size == (rows, columns) and box == (0, 0, columns, rows):
        return pixels
    if interpolation == "nearest":
        return resize_with_pillow(pixels, box, size, Image.Resampling.NEAREST)
    if interpolation != "area":
        return _filter(pixels, box, size, interpolation)
    left, top, right, bottom = box
    height, width = size
    ratio = min((bottom - top) / height, (right - left) / width)
    if 1 <= ratio < FEW:
        return _filter(pixels, box, size, "bilinear")
    if means and ratio >= FEW:  # parts of them, by interpolation
        multiple = max(2, int(ratio))
        finer = height * multiple, width * multiple
        pixels, box = _filter(pixels, box, finer, "bilinear"), (0, 0, finer[1], finer[0])
        return _filter(pixels, box, size, "area")
    down = (top, bottom, height) if bottom - top > height else (0, rows, rows)
    across = (left, right, width) if right - left > width else (0, columns, columns)
    if down[2] < rows or across[2] < columns:
        reduced_box = across[0], down[0], across[1], down[1]
        pixels = _filter(pixels, reduced_box, (down[2], across[2]), "area")
    if right - left <= width:
        pixels = _enlarge(pixels.swapaxes(0, 1), left, right, width).swapaxes(0, 1)
    if bottom - top <= height:
        pixels = _enlarge(pixels, top, bottom, height)
    return pixels


def resize_with_pillow(
    pixels: np.ndarray, box: Box, size: Size, resampling: Image.Resampling
) -> np.ndarray:
    """As `resize`, by Pillow: the same to a fraction of a level."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    return np.asarray(image.resize(size[::-1], resampling, box)).reshape(*size, -1)


def _filter(pixels: np.ndarray, box: Box, size: Size, name: str) -> np.ndarray:
    (rows, columns, channels), width = pixels.shape, size[1]
    cut = (box[0], box[2]) != (0, columns)
    if fast is None or (cut and name in CUT_BY_PILLOW):
        return resize_with_pillow(pixels, box, size, FILTERS[name].pillow)
    kind = fast.PixelType.U8 if channels == 1 else fast.PixelType.U8x3
    resizer = fast.Resizer()
    output = []
    count = min(size[0], ceil(pixels.nbytes / PART_BYTES))
    for part in _parts(rows, box, size, name, count):
        source = pixels[part.first : part.last]
        target = fast.ImageData(width, part.height, kind)
        resizer.resize(
            fast.ImageData(columns, len(source), kind, source.tobytes()), target, part.options
        )
        resized = np.frombuffer(target.get_buffer(), np.uint8)
        output.append(resized.reshape(part.height, width, channels))
    return output[0] if len(output) == 1 else np.concatenate(output)


class Part(NamedTuple):
    """Rows `first` to `last` of the source give `height` rows, with these `options`."""

    first: int
    last: int
    height: int
    options: "fast.ResizeOptions"


# Making options takes 7 % of the time of resizing, and photos of one camera share them.
@lru_cache(maxsize=256)
def _parts(rows: int, box: Box, size: Size, name: str, count: int) -> list[Part]:
    """How an image of `rows` is resized in `count` parts; else the arguments of `_filter`."""
    left, top, right, bottom = box
    height = size[0]
    algorithm = fast.ResizeAlg.convolution(fast.FilterType[FILTERS[name].fast])
    scale = (bottom - top) / height
    reach = FILTERS[name].reach * max(scale, 1)
    parts = []
    for part in range(count):
        start, stop = height * part // count, height * (part + 1) // count
        upper, lower = top + start * scale, bottom if stop == height else top + stop * scale
        first, last = max(0, floor(upper - reach)), min(rows, ceil(lower + reach))
        crop = fast.CropBox(left, upper - first, right - left, lower - upper)
        options = fast.ResizeOptions(algorithm, crop_box=crop)
        parts.append(Part(first, last, stop - start, options))
    return parts


def _enlarge(pixels: np.ndarray, start: float, stop: float, count: int) -> np.ndarray:
    """The means of rows `start` to `stop` over `count` equal parts, none longer than a row."""
    if (start, stop, count) == (0, len(pixels), len(pixels)):
        return pixels
    rows, blended, shares = _covered(start, stop, count)
    pixels = np.ascontiguousarray(pixels)
    output = pixels.take(rows, axis=0)
    upper, lower = pixels[rows[blended]], pixels[rows[blended] + 1]
    output[blended] = (upper * shares + lower * (256 - shares) + 128) >> 8
    return output


@lru_cache(maxsize=256)
def _covered(start: float, stop: float, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """In which row each part of `_enlarge` begins; which parts reach into the next; and with how
    many 256ths they are in the first, uint16 (n, 1, 1).
    """
    step = (stop - start) / count
    edges = start + np.arange(count) * step
    rows = np.floor(edges + ROUNDING).astype(np.intp)
    shares = np.rint((rows + 1 - edges) / step * 256)
    blended = np.flatnonzero(shares < 256)
    return rows, blended, shares[blended, None, None].astype(np.uint16)
