"""Settings of the export stage."""

from typing import Literal

from pydantic import Field, field_validator

from stages.parameters.section import Section

Format = Literal["onnx", "litert", "litert_float16", "litert_int8"]


class Limits(Section):
    float_difference: float = Field(1e-4, ge=0)
    agreement: float = Field(0.999, ge=0, le=1)
    int8_loss: float = Field(0.005, ge=0, le=1)


class Export(Section):
    formats: list[Format] = ["litert"]
    calibration_images: int = Field(300, ge=1)
    neighbours: bool = True
    limits: Limits = Limits()

    @field_validator("formats")
    @classmethod
    def _each_once(cls, formats: list[Format]) -> list[Format]:
        if len(set(formats)) < len(formats):
            raise ValueError("a format is named twice")
        return formats
