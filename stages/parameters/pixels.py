"""What decides the pixels of an image, whatever file it comes from."""

from typing import Annotated, Literal

from pydantic import Field

from stages.parameters.section import Section

Side = Annotated[int, Field(ge=1, le=4096)]
Level = Annotated[int, Field(ge=0, le=255)]


class PixelSettings(Section):
    """The settings of preprocess that decide what comes out of an image file.

    `size` is (height, width), as is every other size of images in this code; only at the calls of
    Pillow and cykooz-resizer, which want (width, height), is it turned round.
    """

    size: Annotated[list[Side], Field(min_length=2, max_length=2)] = [28, 28]
    color: Literal["rgb", "grayscale"] = "grayscale"
    resize: Literal["stretch", "pad", "crop"] = "stretch"
    interpolation: Literal["nearest", "bilinear", "bicubic", "area", "lanczos"] = "area"
    background: Annotated[list[Level], Field(min_length=3, max_length=3)] = [255, 255, 255]
    sixteen_bit: Literal["full", "image"] = "full"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every image."""
        height, width = self.size
        return height, width, 1 if self.color == "grayscale" else 3


class Preprocessing(PixelSettings):
    """How the pixels of a dataset were made: travels with them, and later with the model.

    `decoder` names the program that applied the settings (`stages.images.fingerprints`).
    """

    decoder: str | None = None
