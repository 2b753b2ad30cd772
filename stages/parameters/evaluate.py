"""Settings of the evaluate stage."""

from typing import Literal

from pydantic import Field

from stages.parameters.section import Section


class Evaluate(Section):
    batch_size: int = Field(256, ge=1)
    top_k: int = Field(3, ge=1)
    tta: Literal["none", "flip", "flip_shift"] = "none"
    coverage: float = Field(0.9, gt=0, lt=1)
    unlike: float = Field(0.01, gt=0, lt=1)
    grad_cam: int = Field(12, ge=0)
    suspects: int = Field(1000, ge=0)
