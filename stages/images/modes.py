"""From the modes of Pillow to 8 bits a channel, nothing transparent.

Of 16 bits a channel, `sixteen_bit` says what becomes black and white:

    full    0 and 65,535, the ends of the range that the file has
    image   the darkest and the brightest pixel of each image
"""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from stages.images.unreadable import UnreadableImage

# So many pixels are converted at a time; whole images would take several times their memory.
BAND_PIXELS = 2**20

WHITE = 65_535


def to_uint8(
    image: Image.Image, mode: str, background: tuple[int, int, int], sixteen_bit: str
) -> tuple[np.ndarray, int]:
    """`image` in `mode`, L or RGB, with `background` where it is transparent, and its levels.

    uint8 (height, width, channels). Levels: of 16 bits a channel, how far the darkest and the
    brightest pixel are apart; else 0. Raises `UnreadableImage`.
    """
    if image.mode == "F":
        raise UnreadableImage("unsupported: floating-point pixels; save it with 8 or 16 bits")
    black, white, levels = 0, WHITE, 0
    if image.mode.startswith("I"):
        low, high = _extremes(image)
        if sixteen_bit == "image" and low < high:
            black, white = low, high
        elif low < 0 or high > WHITE:
            raise UnreadableImage(
                "unsupported: 32 bits a channel; save it with 8 or 16, or set "
                "preprocess.sixteen_bit to image"
            )
        levels = min(high - low, WHITE)
    pixels = np.empty((image.height, image.width, 1 if mode == "L" else 3), np.uint8)
    for top, band in _bands(image):
        band = _opaque(_eight_bits(band, black, white), background)
        band = band if band.mode == mode else band.convert(mode)
        pixels[top : top + band.height] = np.asarray(band).reshape(-1, *pixels.shape[1:])
    return pixels, levels


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield (top, band) of `image` from top to bottom."""
    width, height = image.size
    rows = max(1, BAND_PIXELS // width)
    if rows >= height:
        yield 0, image
        return
    for top in range(0, height, rows):
        yield top, image.crop((0, top, width, min(top + rows, height)))


def _extremes(image: Image.Image) -> tuple[int, int]:
    low, high = [], []
    for _, band in _bands(image):
        values = np.asarray(band)
        low.append(int(values.min()))
        high.append(int(values.max()))
    return min(low), max(high)


def _eight_bits(image: Image.Image, black: int, white: int) -> Image.Image:
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    span = white - black
    grey = Image.fromarray((((values - black) * 255 + span // 2) // span).astype(np.uint8))
    transparent = image.info.get("transparency")  # PNG: a grey that is not seen
    if isinstance(transparent, int):
        alpha = np.where(values == transparent, 0, 255).astype(np.uint8)
        grey = Image.merge("LA", (grey, Image.fromarray(alpha)))
    return grey


def _opaque(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """`image` as RGB, L or 1, over `background` where it is transparent."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image)
    return image if image.mode in ("L", "RGB", "1") else image.convert("RGB")
