"""Settings of the model: an architecture by name, and its own settings."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from stages.errors import UserError
from stages.parameters.section import Section

LARGEST = 2**31  # number
LONGEST = 1000  # list

# Weights that go by a name, and the architectures that have them; all others are a file.
NAMED_WEIGHTS = {
    "imagenet": ("backbone",),
    "bundled": ("efficientnet_lite0", "efficientnet_lite2"),
}


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
    backbone: Literal["trained", "frozen", "fine_tuned"] = "trained"
    output: Literal["softmax", "sigmoid"] = "softmax"

    @model_validator(mode="after")
    def _frozen_needs_weights(self) -> Self:
        if self.backbone != "trained" and self.weights is None:
            raise ValueError(
                f"backbone: {self.backbone} with weights: null would keep random weights, from "
                "which nothing can be learnt; set weights (bundled, imagenet, or a file), or "
                "backbone: trained"
            )
        return self

    def outputs(self, classes: int) -> int:
        """Logits of the net: one a class, or a single one for `output: sigmoid`."""
        return 1 if self.output == "sigmoid" else classes

    @property
    def weights_file(self) -> Path | None:
        """The file that the weights come from, if they do."""
        return None if self.weights in (None, *NAMED_WEIGHTS) else Path(str(self.weights))

    def check_weights(self, folder: Path) -> None:
        """Raise `UserError` for a weights file outside `folder`, the one that DVC watches."""
        if (file := self.weights_file) and file.parent != folder:
            raise UserError(
                f"model.weights: {self.weights} is not in {folder}/, whose files DVC watches: copy "
                f"it there and set model.weights: {folder}/{file.name}"
            )
