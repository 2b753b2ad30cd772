"""From the modes of Pillow to 8 bits a channel, nothing transparent.

Of 16 bits a channel, `sixteen_bit` says what becomes black and white:

    full    0 and 65,535, the ends of the range that the file has
    image   the darkest and the brightest pixel of each image
"""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from stages.images.formats import UnreadableImage

# So many pixels are converted at a time; whole images would take several times their memory.
PART_PIXELS = 2**20

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
    for left, top, part in _parts(image):
        part = _opaque(_eight_bits(part, black, white), background)
        part = part if part.mode == mode else part.convert(mode)
        place = pixels[top : top + part.height, left : left + part.width]
        place[:] = np.asarray(part).reshape(place.shape)
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
    grey = ((values - black) * 255 + span // 2) // span
    grey = Image.fromarray(grey.clip(0, 255).astype(np.uint8))  # beyond: what is not seen
    if (transparent := _transparent(image)) is not None:
        alpha = np.where(values == transparent, 0, 255).astype(np.uint8)
        grey = Image.merge("LA", (grey, Image.fromarray(alpha)))
    return grey


def _opaque(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """`image` as RGB, L or 1, over `background` where it is transparent."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image)
    return image if image.mode in ("L", "RGB", "1") else image.convert("RGB")
