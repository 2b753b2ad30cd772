"""From the bytes of an image file to fixed-size uint8 pixels."""

from stages.images.decode import Facts, Recipe, decode, decode_with_facts
from stages.images.unreadable import UnreadableImage
from stages.images.version import DECODER

__all__ = ["DECODER", "Facts", "Recipe", "UnreadableImage", "decode", "decode_with_facts"]
