"""From the bytes of an image file to fixed-size uint8 pixels."""

from stages.images.decode import DECODER, Facts, Recipe, UnreadableImage, decode, decode_with_facts

__all__ = ["DECODER", "Facts", "Recipe", "UnreadableImage", "decode", "decode_with_facts"]
