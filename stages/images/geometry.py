"""Where the pixels of an image go in the fixed-size frame: stretch, pad or crop."""

from typing import NamedTuple


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
