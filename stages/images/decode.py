"""Decode one image file: any size, mode and format in, uint8 of a fixed shape out.

Ordinary JPEGs are decoded by libjpeg-turbo (simplejpeg), every other file by Pillow. What resizes
does not depend on the format: see `stages.images.resize`.

Why JPEGs are fast: a JPEG stores each block of 8 x 8 pixels as 64 frequencies (DCT), the mean of
the block first, fine detail last. To get the image at 1/8 of its scale, the decoder takes that mean
for a pixel and leaves the other 63 alone; for 1/4 and 1/2 it takes the lowest 2 x 2 or 4 x 4
frequencies. So a photo of 4,000 pixels that shall have 224 is decoded at 500 to begin with, for a
fraction of the work, and the resizing filter does the rest.
"""

import io
import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
import PIL
import simplejpeg
from PIL import Image

from stages.images.formats import (
    UnreadableImage,
    bounded,
    check_size,
    claimed,
    formats,
    heard_libtiff,
    is_tiff,
    jpeg_memory,
    jpeg_scans,
    memory,
)
from stages.images.resize import Placement, place, reduction, resize
from stages.parameters.pixels import PixelSettings

# Reduced decoding leaves at least so many pixels for each one wanted, in each direction, so
# that the filter has the last word and what comes out differs little from full scale.
SPARE = 1.25

# EXIF orientation (tag 274): how the stored image must be turned to stand upright.
ORIENTATION = 0x0112
TURNS = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: image.transpose(1, 0, 2)[:, ::-1],
    7: lambda image: image.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda image: image.transpose(1, 0, 2)[::-1],
}

# Pillow's names of what `color` says.
MODES = {"rgb": "RGB", "grayscale": "L"}

# Most photos are decoded into memory that each thread keeps. What is given back to the system comes
# back as pages to be cleared, which takes a tenth of the time of decoding, and more.
KEPT_FROM_BYTES, KEPT_BYTES = 2**16, 2**22

# So many pixels are converted at a time; whole images would take several times their memory.
PART_PIXELS = 2**20

WHITE = 65_535


class Facts(NamedTuple):
    """The file as it is stored, before it is turned upright; `mode` is Pillow's.

    `levels`: of an image of 16 bits, the distance of its darkest and brightest pixel; else 0.
    """

    width: int
    height: int
    mode: str
    format: str
    levels: int = 0


def decode(data: bytes, settings: PixelSettings) -> np.ndarray:
    """The image file `data` as uint8 `settings.shape`. Raises `UnreadableImage`.

    Turned upright as its EXIF says, the first frame of an animation, transparency over
    `settings.background`, 16 bits a channel reduced to 8.
    """
    return decode_with_facts(data, settings)[0]


def decode_with_facts(data: bytes, settings: PixelSettings) -> tuple[np.ndarray, Facts]:
    """As `decode`, with what the file says of itself."""
    if not data:
        raise UnreadableImage("empty file")
    try:
        if data[:3] == b"\xff\xd8\xff":
            try:
                height, width, space, _ = simplejpeg.decode_jpeg_header(data)
            except ValueError:
                space = ""  # an unusual JPEG, or a broken one: Pillow knows
            if space in ("YCbCr", "Gray"):
                mode = "L" if space == "Gray" else "RGB"
                return _decode_jpeg(data, settings, width, height), Facts(
                    width, height, mode, "JPEG"
                )
        return _decode_any(data, settings)
    except MemoryError:
        raise UnreadableImage("too large for the memory of this machine") from None


def _decode_jpeg(data: bytes, settings: PixelSettings, width: int, height: int) -> np.ndarray:
    check_size(width, height)
    scans, start = jpeg_scans(data)
    orientation = _jpeg_orientation(data, start)
    placement = _place(height, width, orientation, settings)
    factor = 1 if settings.interpolation == "nearest" else reduction(placement, SPARE)
    rows, columns = -(-height // factor), -(-width // factor)
    space, channels = ("GRAY", 1) if settings.color == "grayscale" else ("RGB", 3)
    kept = kept_memory(rows * columns * channels)
    with bounded(jpeg_memory(scans, width, height, 3, factor), width, height):
        try:
            pixels = simplejpeg.decode_jpeg(
                data, space, min_height=rows, min_width=columns, buffer=kept
            )
        except ValueError as error:
            message = str(error).removeprefix("Corrupt JPEG data: ")
            if "extraneous bytes" not in message:
                kind = "truncated" if "end of JPEG" in message else "corrupt"
                raise UnreadableImage(f"{kind}: {message}") from None
        else:
            fitted = _fit(pixels, placement, factor, orientation, settings)
            if kept is not None and np.may_share_memory(fitted, kept):
                return fitted.copy()
            return fitted
    # Padding between the parts of the file: harmless, and common in some cameras.
    return _decode_any(data, settings)[0]


def kept_memory(size: int) -> np.ndarray | None:
    """Memory of this thread for `size` bytes of pixels, if it is worth while to keep it."""
    if not KEPT_FROM_BYTES <= size <= KEPT_BYTES:
        return None
    if not hasattr(_of_thread, "kept"):
        _of_thread.kept = np.empty(KEPT_BYTES, np.uint8)
    return _of_thread.kept


_of_thread = threading.local()


def _jpeg_orientation(data: bytes, end: int) -> int:
    """As its metadata say, which come before `end`."""
    if data.find(b"Exif\0", 0, end) >= 0 or data.find(b"tiff:Orientation", 0, end) >= 0:
        try:
            return _orientation(Image.open(io.BytesIO(data), formats=("JPEG",)))
        except Exception:
            return 1  # Pillow may stumble over metadata that the decoder never reads
    return 1


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1, upright, if the EXIF data are missing or corrupt."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:
        return 1
    return value if value in TURNS else 1


def _decode_any(data: bytes, settings: PixelSettings) -> tuple[np.ndarray, Facts]:
    with ExitStack() as stack:
        try:
            noise = stack.enter_context(heard_libtiff()) if is_tiff(data) else []
            image = Image.open(io.BytesIO(data), formats=formats(data))
            facts = Facts(*image.size, image.mode, str(image.format))
            stack.enter_context(bounded(memory(image, data), *image.size))
            image.load()
            orientation = _orientation(image)
            pixels, levels = _to_uint8(image, settings)
            del image  # twice the memory
        except UnreadableImage:
            raise
        except PIL.UnidentifiedImageError:
            if name := claimed(data):
                raise UnreadableImage(f"corrupt: begins as {name}, but is none") from None
            raise UnreadableImage("not an image") from None
        except MemoryError:
            raise
        except Exception as error:  # the decoders raise nearly anything on damaged files
            message = " ".join([*noise, str(error)][0].split()) or type(error).__name__
            kind = "truncated" if "truncated" in message.lower() else "corrupt"
            raise UnreadableImage(f"{kind}: {message}") from None
        placement = _place(pixels.shape[0], pixels.shape[1], orientation, settings)
        return _fit(pixels, placement, 1, orientation, settings), facts._replace(levels=levels)


# From the modes of Pillow to 8 bits a channel, nothing transparent.


def _to_uint8(image: Image.Image, settings: PixelSettings) -> tuple[np.ndarray, int]:
    """The opened `image` in `settings.color`, uint8 (height, width, channels), and its levels.

    `settings.background` shows where it is transparent. Of 16 bits a channel,
    `settings.sixteen_bit` says what becomes black and white:

        full    0 and 65,535, the ends of the range that the file has
        image   the darkest and the brightest pixel of each image

    Levels are how far these two pixels are apart; 0 for other images. Raises `UnreadableImage`.
    """
    mode = MODES[settings.color]
    if image.mode == "F":
        raise UnreadableImage("unsupported: floating-point pixels; save it with 8 or 16 bits")
    black, white, levels = 0, WHITE, 0
    if image.mode.startswith("I"):
        low, high = _extremes(image)
        if settings.sixteen_bit == "image" and low < high:
            black, white = low, high
        elif low < 0 or high > WHITE:
            raise UnreadableImage(
                "unsupported: 32 bits a channel; save it with 8 or 16, or set "
                "preprocess.sixteen_bit to image"
            )
        levels = min(high - low, WHITE)
    pixels = np.empty((image.height, image.width, settings.shape[2]), np.uint8)
    for left, top, part in _parts(image):
        part = _opaque(_eight_bits(part, black, white), settings.background)
        part = part if part.mode == mode else part.convert(mode)
        target = pixels[top : top + part.height, left : left + part.width]
        target[:] = np.asarray(part).reshape(target.shape)
    return pixels, levels


def _parts(image: Image.Image) -> Iterator[tuple[int, int, Image.Image]]:
    """Yield (left, top, part) of `image`."""
    width, height = image.size
    across = min(width, PART_PIXELS)
    down = max(1, PART_PIXELS // width)
    if across == width and down >= height:
        yield 0, 0, image
        return
    for top in range(0, height, down):
        for left in range(0, width, across):
            box = left, top, min(left + across, width), min(top + down, height)
            yield left, top, image.crop(box)


def _extremes(image: Image.Image) -> tuple[int, int]:
    """The darkest and the brightest value that is seen of an image of one channel."""
    low, high = [], []
    for _, _, part in _parts(image):
        values = np.asarray(part)
        if (transparent := _transparent(image)) is not None:
            values = values[values != transparent]
        if values.size:
            low.append(int(values.min()))
            high.append(int(values.max()))
    return min(low, default=0), max(high, default=0)


def _transparent(image: Image.Image) -> int | None:
    """The grey of 16 bits that is not seen, which PNG may name."""
    value = image.info.get("transparency")
    return value if isinstance(value, int) else None


def _eight_bits(image: Image.Image, black: int, white: int) -> Image.Image:
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    span = white - black
    levels = ((values - black) * 255 + span // 2) // span
    grey = Image.fromarray(levels.clip(0, 255).astype(np.uint8))  # beyond: what is not seen
    if (transparent := _transparent(image)) is not None:
        alpha = np.where(values == transparent, 0, 255).astype(np.uint8)
        grey = Image.merge("LA", (grey, Image.fromarray(alpha)))
    return grey


def _opaque(image: Image.Image, background: Sequence[int]) -> Image.Image:
    """`image` as RGB, L or 1, over `background` where it is transparent."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image)
    return image if image.mode in ("L", "RGB", "1") else image.convert("RGB")


# From the size of the image to that of the output.


def _place(height: int, width: int, orientation: int, settings: PixelSettings) -> Placement:
    """Where an image of `height` x `width` as stored, before it is turned, goes upright."""
    upright = (width, height) if orientation > 4 else (height, width)
    return place(*upright, (settings.size[0], settings.size[1]), settings.resize)


def _fit(
    pixels: np.ndarray,
    placement: Placement,
    factor: int,
    orientation: int,
    settings: PixelSettings,
) -> np.ndarray:
    """Resize, turn and place `pixels`, uint8 (h, w, c), which are stored reduced by `factor`."""
    # A side that `factor` does not divide ends within the last pixel of the reduced image.
    left, top, right, bottom = (edge / factor for edge in placement.box)
    resized = placement.resized
    if orientation > 4:  # turned when it is small, which costs less
        left, top, right, bottom = top, left, bottom, right
        resized = resized[1], resized[0]
    box = left, top, right, bottom
    pixels = resize(pixels, box, resized, settings.interpolation, means=factor > 1)
    if orientation != 1:
        pixels = TURNS[orientation](pixels)
    if pixels.shape == settings.shape:
        return pixels
    output = np.empty(settings.shape, np.uint8)
    output[:] = _in_mode(settings.background, MODES[settings.color])
    (y, x), (height, width) = placement.corner, pixels.shape[:2]
    output[y : y + height, x : x + width] = pixels
    return output


def _in_mode(colour: Sequence[int], mode: str) -> np.ndarray:
    """`colour` (red, green, blue) as Pillow turns it into `mode`, uint8 (channels,)."""
    return np.asarray(Image.new("RGB", (1, 1), tuple(colour)).convert(mode)).reshape(-1)


# Pillow warns of every large or slightly damaged file. Sizes are checked above; damage either
# makes the file unreadable or does not matter.
Image.MAX_IMAGE_PIXELS = None
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)
