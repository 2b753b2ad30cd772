"""The whole result at a glance: one small picture for a README or a pull request."""

from pathlib import Path

from PIL import Image

WIDTH = 1000  # pixels
GAP = 10


def overview(rows: list[list[Path]]) -> Image.Image:
    """The picture files in rows; those of a row get one height, each row the same width.

    Files that do not exist are left out: a model without epochs has no learning curves.
    """
    found = [[path for path in row if path.exists()] for row in rows]
    strips = [_strip([Image.open(path).convert("RGB") for path in row]) for row in found if row]
    canvas = Image.new("RGB", (WIDTH, sum(strip.height + GAP for strip in strips) - GAP), "white")
    top = 0
    for strip in strips:
        canvas.paste(strip, (0, top))
        top += strip.height + GAP
    return canvas


def _strip(pictures: list[Image.Image]) -> Image.Image:
    room = WIDTH - GAP * (len(pictures) - 1)
    height = round(room / sum(picture.width / picture.height for picture in pictures))
    strip = Image.new("RGB", (WIDTH, height), "white")
    left = 0
    for picture in pictures:
        width = round(height * picture.width / picture.height)
        strip.paste(picture.resize((width, height), Image.Resampling.LANCZOS), (left, 0))
        left += width + GAP
    return strip
