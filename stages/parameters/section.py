"""What all sections of params.yaml have in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section of params.yaml: no unknown keys, no silent conversion, no change after reading.

    Numbers are finite: no setting means anything by .inf or .nan.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
