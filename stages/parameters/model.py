"""Settings of the model: an architecture by name, and its own settings."""

from pydantic import Field

from stages.parameters.section import Section


class Model(Section):
    name: str = Field("convnet", min_length=1)
    settings: dict = {}
    weights: str | None = None
