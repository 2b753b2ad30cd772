"""Decode one image file: any size, mode and format in, uint8 of a fixed shape out.

Ordinary JPEGs are decoded by libjpeg-turbo (simplejpeg), at 1/2, 1/4 or 1/8 of their scale
where that is enough: the inverse DCT then yields the average of 2x2, 4x4 or 8x8 pixels for
a fraction of the work. Every other file is decoded by Pillow. What resizes does not depend on
the format: see `stages.images.resize`.
"""

import io
import logging
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
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
    memory,
)
from stages.images.modes import to_uint8
from stages.images.resize import Placement, place, reduction, resize

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

# Where in a JPEG its metadata lies.
JPEG_HEAD = 2**18


class Facts(NamedTuple):
    """The file as it is stored, before it is turned upright; `mode` is Pillow's.

    `levels`: of an image of 16 bits, the distance of its darkest and brightest pixel; else 0.
    """

    width: int
    height: int
    mode: str
    format: str
    levels: int = 0


@dataclass(frozen=True)
class Recipe:
    """The settings of preprocess that decide what the pixels look like.

    `size` (height, width); `color` rgb | grayscale; `resize` stretch | pad | crop;
    `interpolation` as in `stages.images.resize`; `background` (red, green, blue);
    `sixteen_bit` as in `stages.images.modes`.
    """

    size: tuple[int, int]
    color: str = "rgb"
    resize: str = "stretch"
    interpolation: str = "area"
    background: tuple[int, int, int] = (255, 255, 255)
    sixteen_bit: str = "full"

    @classmethod
    def of(cls, settings: dict) -> "Recipe":
        """From `preprocess` of dataset.json or of a model's pipeline.json."""
        return cls(
            size=tuple(settings["size"]),
            color=settings["color"],
            resize=settings["resize"],
            interpolation=settings["interpolation"],
            background=tuple(settings["background"]),
            # A model may be older than the setting.
            sixteen_bit=settings.get("sixteen_bit", "full"),
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every decoded image."""
        return (*self.size, 1 if self.color == "grayscale" else 3)

    @property
    def mode(self) -> str:
        return "L" if self.color == "grayscale" else "RGB"


def decode(data: bytes, recipe: Recipe) -> np.ndarray:
    """The image file `data` as uint8 `recipe.shape`. Raises `UnreadableImage`.

    Turned upright as its EXIF says, the first frame of an animation, transparency over
    `recipe.background`, 16 bits a channel reduced to 8.
    """
    return decode_with_facts(data, recipe)[0]


def decode_with_facts(data: bytes, recipe: Recipe) -> tuple[np.ndarray, Facts]:
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
                return _decode_jpeg(data, recipe, width, height), Facts(width, height, mode, "JPEG")
        return _decode_any(data, recipe)
    except MemoryError:
        raise UnreadableImage("too large for the memory of this machine") from None


def _decode_jpeg(data: bytes, recipe: Recipe, width: int, height: int) -> np.ndarray:
    check_size(width, height)
    orientation = _jpeg_orientation(data)
    placement = _place(width, height, orientation, recipe)
    factor = 1 if recipe.interpolation == "nearest" else reduction(placement, SPARE)
    with bounded(jpeg_memory(data, width, height, 3, factor), width, height):
        try:
            pixels = simplejpeg.decode_jpeg(
                data,
                "GRAY" if recipe.color == "grayscale" else "RGB",
                min_height=-(-height // factor),
                min_width=-(-width // factor),
            )
        except ValueError as error:
            message = str(error).removeprefix("Corrupt JPEG data: ")
            if "extraneous bytes" not in message:
                kind = "truncated" if "end of JPEG" in message else "corrupt"
                raise UnreadableImage(f"{kind}: {message}") from None
        else:
            return _fit(pixels, placement, factor, orientation, recipe)
    # Padding between the parts of the file: harmless, and common in some cameras.
    return _decode_any(data, recipe)[0]


def _jpeg_orientation(data: bytes) -> int:
    if any(data.find(name, 0, JPEG_HEAD) >= 0 for name in (b"Exif\0", b"tiff:Orientation")):
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


def _decode_any(data: bytes, recipe: Recipe) -> tuple[np.ndarray, Facts]:
    with ExitStack() as stack:
        try:
            noise = stack.enter_context(heard_libtiff()) if is_tiff(data) else []
            image = Image.open(io.BytesIO(data), formats=formats(data))
            facts = Facts(*image.size, image.mode, image.format)
            stack.enter_context(bounded(memory(image, data), *image.size))
            image.load()
            orientation = _orientation(image)
            pixels, levels = to_uint8(image, recipe.mode, recipe.background, recipe.sixteen_bit)
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
        placement = _place(*pixels.shape[1::-1], orientation, recipe)
        return _fit(pixels, placement, 1, orientation, recipe), facts._replace(levels=levels)


def _place(width: int, height: int, orientation: int, recipe: Recipe) -> Placement:
    """Where an image of `width` x `height` as stored, before it is turned, goes upright."""
    upright = (height, width) if orientation > 4 else (width, height)
    return place(*upright, recipe.size[::-1], recipe.resize)


def _fit(
    pixels: np.ndarray, placement: Placement, factor: int, orientation: int, recipe: Recipe
) -> np.ndarray:
    """Resize, turn and place `pixels`, uint8 (h, w, c), which are stored reduced by `factor`."""
    # A side that `factor` does not divide ends within the last pixel of the reduced image.
    left, top, right, bottom = (edge / factor for edge in placement.box)
    size = placement.size
    if orientation > 4:  # turned when it is small, which costs less
        left, top, right, bottom, size = top, left, bottom, right, size[::-1]
    pixels = resize(pixels, (left, top, right, bottom), size, recipe.interpolation)
    if orientation != 1:
        pixels = TURNS[orientation](pixels)
    if pixels.shape == recipe.shape:
        return pixels
    # Pillow knows how a colour becomes grey.
    background = Image.new("RGB", (1, 1), recipe.background).convert(recipe.mode)
    framed = np.empty(recipe.shape, np.uint8)
    framed[:] = background.getpixel((0, 0))
    (x, y), (height, width) = placement.corner, pixels.shape[:2]
    framed[y : y + height, x : x + width] = pixels
    return framed


# Pillow warns of every large or slightly damaged file. Sizes are checked above; damage either
# makes the file unreadable or does not matter.
Image.MAX_IMAGE_PIXELS = None
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)
