"""Settings of the model: an architecture by name, and its own settings."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from stages.parameters.section import Section

LARGEST = 2**31  # number
LONGEST = 1000  # list


def _plain(value: object, key: str = "") -> object:
    """`value` if it is made of what YAML and JSON share, of a size that a net can have."""
    if isinstance(value, dict):
        for name, one in value.items():
            _plain(one, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        if len(value) > LONGEST:
            raise ValueError(f"{key} has {len(value)} entries; {LONGEST} are the most")
        for one in value:
            _plain(one, key)
    elif isinstance(value, (int, float)):
        if not -LARGEST <= value <= LARGEST:
            raise ValueError(f"{key} = {value!r:.30} is no number that a net can use")
    elif value is not None and not isinstance(value, str):
        raise ValueError(f"{key} = {value!r} should be a number, a text, true, false or a list")
    return value


class Model(Section):
    name: str = Field("convnet", min_length=1)
    settings: Annotated[dict[str, object], BeforeValidator(_plain)] = {}
    weights: str | None = Field(None, min_length=1)
    output: Literal["softmax", "sigmoid"] = "softmax"
