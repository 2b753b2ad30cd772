"""Settings of the train stage."""

from pydantic import Field

from stages.parameters.section import Section


class Train(Section):
    seed: int = Field(0, ge=0)
    epochs: int = Field(10, ge=1)
    batch_size: int = Field(64, ge=1)
