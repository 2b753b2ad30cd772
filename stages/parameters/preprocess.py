"""Settings of the preprocess stage: from files to fixed-size pixels."""

from typing import Annotated, Literal

from pydantic import Field

from stages.parameters.section import Section

Side = Annotated[int, Field(ge=1, le=4096)]
Level = Annotated[int, Field(ge=0, le=255)]


class Preprocess(Section):
    size: Annotated[list[Side], Field(min_length=2, max_length=2)] = [28, 28]
    color: Literal["rgb", "grayscale"] = "grayscale"
    resize: Literal["stretch", "pad", "crop"] = "stretch"
    interpolation: Literal["nearest", "bilinear", "bicubic", "area", "lanczos"] = "area"
    background: Annotated[list[Level], Field(min_length=3, max_length=3)] = [255, 255, 255]
    sixteen_bit: Literal["full", "image"] = "full"
    max_rejects: float = Field(0.01, ge=0, le=1)
    workers: int | None = Field(None, ge=1)
