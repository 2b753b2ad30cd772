"""What all sections of params.yaml have in common, and how a stage reads its own."""

import importlib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section of params.yaml: no unknown keys, no silent conversion, no change after reading.

    Numbers are finite: no setting means anything by .inf or .nan.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


AnySection = TypeVar("AnySection", bound=Section)


def read_settings(kind: type[AnySection], path: str | Path = "params.yaml") -> AnySection:
    """The section of `path` that `kind` describes: `read_settings(Split)` is the section split.

    Raises `UserError` for a mistake anywhere in the file: better now than hours later, when the
    stage comes that reads it. What checks the others is imported by name, because it can refuse
    a run but not change what comes out: no stage depends on another's settings.
    """
    whole = importlib.import_module("stages.parameters.whole")
    return getattr(whole.read_parameters(path), kind.__name__.lower())
