"""Settings of augmentation: how a training image may vary from epoch to epoch."""

from typing import Literal

from pydantic import Field

from stages.parameters.section import Section


class RandAugment(Section):
    layers: int = Field(0, ge=0, le=16)  # each is a part of the compiled step
    magnitude: float = Field(0.5, ge=0, le=1)


class Augment(Section):
    rotation: float = Field(0.0, ge=0, le=180)
    width_shift: float = Field(0.0, ge=0, le=1)
    height_shift: float = Field(0.0, ge=0, le=1)
    shear: float = Field(0.0, ge=0, lt=90)
    zoom: float = Field(0.0, ge=0, lt=1)
    horizontal_flip: Literal["none", "random", "alternating"] = "none"
    vertical_flip: Literal["none", "random"] = "none"
    brightness: float = Field(0.0, ge=0, le=1)
    fill: Literal["constant", "nearest", "reflect", "wrap"] = "nearest"
    fill_value: int = Field(0, ge=0, le=255)
    crop_padding: int = Field(0, ge=0)
    cutout: int = Field(0, ge=0)
    mixup: float = Field(0.0, ge=0, le=100)
    cutmix: float = Field(0.0, ge=0, le=100)
    randaugment: RandAugment = RandAugment()
