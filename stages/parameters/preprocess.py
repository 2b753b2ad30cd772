"""Settings of the preprocess stage: from files to fixed-size pixels."""

from pydantic import Field

from stages.parameters.pixels import PixelSettings


class Preprocess(PixelSettings):
    max_rejects: float = Field(0.01, ge=0, le=1)
    workers: int | None = Field(None, ge=1)
