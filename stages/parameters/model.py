"""Settings of the model: an architecture by name, and its own settings."""

from typing import Literal

from pydantic import Field

from stages.parameters.section import Section


class Model(Section):
    name: str = Field("convnet", min_length=1)
    settings: dict = {}
    weights: str | None = None
    output: Literal["softmax", "sigmoid"] = "softmax"
