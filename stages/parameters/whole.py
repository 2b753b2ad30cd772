"""Read params.yaml; every mistake in it is one line that names key, value and what is allowed."""

import difflib
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from stages.errors import UserError
from stages.parameters.augment import Augment
from stages.parameters.download import Download
from stages.parameters.evaluate import Evaluate
from stages.parameters.export import Export
from stages.parameters.model import Model
from stages.parameters.plot import Plot
from stages.parameters.preprocess import Preprocess
from stages.parameters.section import Section
from stages.parameters.split import Split
from stages.parameters.train import Train
from stages.parameters.yaml_file import read_yaml

SHOWN = 60  # characters of a wrong value


class Parameters(Section):
    """All of params.yaml; a missing key takes its default."""

    download: Download = Download()
    preprocess: Preprocess = Preprocess()
    split: Split = Split()
    augment: Augment = Augment()
    model: Model = Model()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    export: Export = Export()
    plot: Plot = Plot()

    @property
    def softened(self) -> list[str]:
        """The settings that make labels less certain in training than in validation and test."""
        values = {
            "train.label_smoothing": self.train.label_smoothing,
            "augment.mixup": self.augment.mixup,
            "augment.cutmix": self.augment.cutmix,
        }
        return [name for name, value in values.items() if value]


def read_parameters(path: str | Path = "params.yaml") -> Parameters:
    """The settings in `path`. Raises `UserError` for a file that is missing or wrong."""
    try:
        values = read_yaml(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; write one: make recipe NAME=digits") from None
    try:
        return Parameters.model_validate(values if values is not None else {})
    except ValidationError as error:
        raise UserError(f"{path}: {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    """The first of the errors in one line: key, value, and what is allowed."""
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    key, value, kind = ".".join(location), first["input"], first["type"]
    if kind == "extra_forbidden":
        known = _keys(location[:-1])
        close = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean {close[0]}?" if close else "known keys: " + ", ".join(known)
        return f"{key} is not a setting; {hint}"
    message = first["msg"].removeprefix("Value error, ")
    if kind == "value_error":  # a combination, checked by a section: its message names the keys
        return f"{key}: {message}"
    shown = repr(value)
    shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
    return f"{key} = {shown}: {message[0].lower()}{message[1:]}"


def _keys(location: list[str]) -> list[str]:
    """Names of the settings of the section at `location`."""
    section: Any = Parameters
    for part in location:
        if not part.isdigit():  # a place in a list of sections
            section = section.model_fields[part].annotation
            section = (get_args(section) or (section,))[0]
    return list(section.model_fields)
