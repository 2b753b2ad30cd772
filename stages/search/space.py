"""The space that a search explores: settings by dotted key, and the values each may take."""

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from stages.errors import UserError
from stages.parameters import Parameters

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def read_space(path: str | Path) -> "dict[str, BaseDistribution]":
    """Read a space: key -> list of choices, or a range {low, high, log, step}.

    Raises `UserError` for a file that is missing or an entry that is neither.
    """
    try:
        entries = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; it should say which settings to search") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(entries, dict) or not entries:
        raise UserError(f"{path} names no settings; a line like train.batch_size: [32, 64] does")
    return {key: _distribution(f"{path}: {key}", entry) for key, entry in entries.items()}


def _distribution(where: str, entry) -> "BaseDistribution":
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    try:
        if isinstance(entry, list):
            return CategoricalDistribution(entry)
        whole = isinstance(entry["low"], int) and isinstance(entry["high"], int)
        return (IntDistribution if whole else FloatDistribution)(**entry)
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(
            f"{where} = {entry!r} is neither a list of choices nor a range like "
            f"{{low: 0.0001, high: 0.01, log: true}} ({error})"
        ) from None


def check_keys(space: dict, parameters: Parameters, where: str | Path) -> None:
    """Raise `UserError` for a key of `space` that is no setting.

    The settings of an architecture (model.settings) are checked when the model is built.
    """
    known = _keys(parameters.model_dump())
    for key in space:
        if key not in known and not key.startswith("model.settings."):
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UserError(f"{where}: {key} is not a setting{hint}")


def look_up(values: dict, key: str):
    """The entry of nested dicts at a dotted key; None if there is none."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _keys(values: dict, prefix: str = "") -> list[str]:
    keys = []
    for name, value in values.items():
        if isinstance(value, dict):
            keys += _keys(value, f"{prefix}{name}.")
        keys.append(f"{prefix}{name}")
    return keys
