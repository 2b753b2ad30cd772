"""Decode one image file: any size, mode and format in, uint8 of a fixed shape out.

Ordinary JPEGs are decoded by libjpeg-turbo (simplejpeg), at 1/2, 1/4 or 1/8 of their scale
where that is enough: the inverse DCT then yields the average of 2x2, 4x4 or 8x8 pixels for
a fraction of the work. Every other file is decoded by Pillow. What resizes does not depend on
the format: see `stages.images.resize`.
"""

import io
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
import PIL
import simplejpeg
from PIL import Image

from stages.images.geometry import Placement, place, reduction
from stages.images.resize import resize

# Names what turns files into pixels and fingerprints: results of another decoder are not reused,
# so the number goes up with every change of either.
DECODER = (
    f"3 (Pillow {PIL.__version__}, simplejpeg {simplejpeg.__version__}, "
    f"OpenCV {version('opencv-python-headless')})"
)

FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

# A file may claim any size; more pixels than this are taken for a decompression bomb.
MAX_PIXELS = 180_000_000

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


class UnreadableImage(Exception):
    """Why a file cannot be used, in the form `kind: details` or just `kind`."""


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
    `interpolation` as in `stages.images.resize`; `background` (red, green, blue).
    """

    size: tuple[int, int]
    color: str = "rgb"
    resize: str = "stretch"
    interpolation: str = "area"
    background: tuple[int, int, int] = (255, 255, 255)

    @classmethod
    def of(cls, settings: dict) -> "Recipe":
        """From `preprocess` of dataset.json or of a model's pipeline.json."""
        return cls(
            size=tuple(settings["size"]),
            color=settings["color"],
            resize=settings["resize"],
            interpolation=settings["interpolation"],
            background=tuple(settings["background"]),
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
    if data[:3] == b"\xff\xd8\xff":
        try:
            height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        except ValueError:
            space = ""  # an unusual JPEG, or a broken one: Pillow knows
        if space in ("YCbCr", "Gray"):
            mode = "L" if space == "Gray" else "RGB"
            return _decode_jpeg(data, recipe, width, height), Facts(width, height, mode, "JPEG")
    return _decode_any(data, recipe)


def _decode_jpeg(data: bytes, recipe: Recipe, width: int, height: int) -> np.ndarray:
    _check_size(width, height)
    orientation = _jpeg_orientation(data)
    placement = _place(width, height, orientation, recipe)
    factor = 1 if recipe.interpolation == "nearest" else reduction(placement, SPARE)
    try:
        pixels = simplejpeg.decode_jpeg(
            data,
            "GRAY" if recipe.color == "grayscale" else "RGB",
            min_height=-(-height // factor),
            min_width=-(-width // factor),
        )
    except ValueError as error:
        message = str(error).removeprefix("Corrupt JPEG data: ")
        if "extraneous bytes" in message:
            # Padding between the parts of the file: harmless, and common in some cameras.
            return _decode_any(data, recipe)[0]
        kind = "truncated" if "end of JPEG" in message else "corrupt"
        raise UnreadableImage(f"{kind}: {message}") from None
    return _fit(pixels, placement, factor, orientation, recipe)


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
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        facts = Facts(*image.size, image.mode, image.format)
        _check_size(*image.size)
        image.load()
        orientation = _orientation(image)
        image = _flatten(image, recipe)
    except UnreadableImage:
        raise
    except PIL.UnidentifiedImageError:
        raise UnreadableImage("not an image") from None
    except Image.DecompressionBombError:
        raise UnreadableImage("decompression bomb") from None
    except MemoryError:
        raise UnreadableImage("too large for the memory of this machine") from None
    except Exception as error:  # the decoders raise nearly anything on damaged files
        message = " ".join(str(error).split()) or type(error).__name__
        kind = "truncated" if "truncated" in message.lower() else "corrupt"
        raise UnreadableImage(f"{kind}: {message}") from None
    placement = _place(*image.size, orientation, recipe)
    pixels = np.asarray(image, np.uint8).reshape(*image.size[::-1], recipe.shape[2])
    return _fit(pixels, placement, 1, orientation, recipe), facts


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnreadableImage(f"decompression bomb: {width} x {height} pixels")
    if not width or not height:
        raise UnreadableImage("corrupt: no pixels")


def _flatten(image: Image.Image, recipe: Recipe) -> Image.Image:
    """`image` in the mode of `recipe`: 8 bits a channel, nothing transparent."""
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise UnreadableImage("unsupported: 32 bits a channel; save it with 8 or 16")
        image = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise UnreadableImage("unsupported: floating-point pixels; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, (*recipe.background, 255))
        image = Image.alpha_composite(background, image)
    elif image.mode not in ("L", "RGB", "1"):
        image = image.convert("RGB")
    return image if image.mode == recipe.mode else image.convert(recipe.mode)


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
