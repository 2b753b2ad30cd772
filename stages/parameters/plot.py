"""Settings of the plot stage."""

from pydantic import Field

from stages.parameters.section import Section


class Plot(Section):
    samples: int = Field(25, ge=1)
    mistakes: int = Field(25, ge=1)
    page_megabytes: float = Field(15.0, ge=1)
