"""Settings of the split stage: which images train, which choose, which judge."""

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from stages.parameters.section import Section


class Split(Section):
    method: Literal["stratified", "hash"] = "stratified"
    seed: int = Field(0, ge=0, lt=2**63)
    val: float = Field(0.1, ge=0, lt=1)
    test: float = Field(0.2, gt=0, lt=1)
    group_by: str | None = Field(None, min_length=1)
    near_duplicates: Literal["report", "together"] = "report"

    @field_validator("group_by")
    @classmethod
    def _a_regular_expression(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
        return pattern

    @model_validator(mode="after")
    def _something_left_to_train_on(self) -> Self:
        if self.val + self.test >= 1:
            raise ValueError(f"val + test = {self.val + self.test:g} leaves no images to train on")
        return self
