"""Settings of the train stage."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from stages.parameters.section import Section

Share = Annotated[float, Field(ge=0, le=1)]
OptimizerName = Literal["adam", "adamw", "sgd", "rmsprop", "muon"]
Rate = Annotated[float, Field(gt=0, le=1e30)]  # far from float32's end; large ones diverge
Decay = Annotated[float, Field(ge=0, le=1000)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


class Group(Section):
    """Weights whose path `match` finds, and what differs for them."""

    match: str = Field(min_length=1)
    name: OptimizerName | None = None
    learning_rate: Rate | None = None
    momentum: Momentum | None = None
    beta_2: Momentum | None = None
    nesterov: bool | None = None
    weight_decay: Decay | None = None
    normalize_weights: bool | None = None
    epochs: int | None = Field(None, ge=1)

    @field_validator("match")
    @classmethod
    def _match_compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"{value!r} is not a regular expression: {error}") from None
        return value


class Optimizer(Section):
    name: OptimizerName = "adam"
    learning_rate: Rate = 0.001
    momentum: Momentum = 0.9
    beta_2: Momentum = 0.999
    nesterov: bool = True
    weight_decay: Decay = 0.0
    normalize_weights: bool = False
    groups: list[Group] = []


class Schedule(Section):
    name: Literal["constant", "linear", "cosine", "one_cycle", "step"] = "constant"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    start: Share = 0.0
    end: Share = 0.0
    step_epochs: int = Field(10, ge=1)
    step_factor: Share = 0.1

    @model_validator(mode="after")
    def _one_cycle_rises(self) -> Self:
        if self.name == "one_cycle" and not self.warmup:
            raise ValueError("name: one_cycle rises over warmup = 0 of the training; try 0.3")
        return self


class Averaging(Section):
    name: Literal["none", "ema", "mean"] = "none"
    decay: Momentum = 0.999
    start: Annotated[float, Field(ge=0, lt=1)] = 0.75


class EarlyStopping(Section):
    patience: int | None = Field(None, ge=1)
    min_delta: float = Field(0.0, ge=0, le=1000)
    start_from_epoch: int = Field(0, ge=0)


class FineTune(Section):
    frozen_epochs: int = Field(0, ge=0)
    learning_rate_factor: float = Field(0.1, gt=0, le=1000)


class ImageSize(Section):
    """Up to the share `until` of the training, images of `size` pixels a side."""

    until: float = Field(gt=0, lt=1)
    size: int = Field(ge=1)


class Debug(Section):
    data_fraction: float = Field(1.0, gt=0, le=1)
    max_steps: int | None = Field(None, ge=1)
    overfit_batch: bool = False
    tensorboard: bool = False
    profile: bool = False


class Train(Section):
    seed: int = Field(0, ge=0, lt=2**31)
    epochs: int = Field(10, ge=1, le=100_000)
    batch_size: int = Field(64, ge=1, le=2**20)
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip_norm: float | None = Field(None, ge=1e-6, le=1e6)
    class_weights: Literal["none", "balanced"] = "none"
    sampling: Literal["uniform", "balanced"] = "uniform"
    hardest: float = Field(1.0, gt=0, le=1)
    averaging: Averaging = Averaging()
    monitor: Literal["val/accuracy", "val/loss", "val/f1_macro", "last"] = "val/accuracy"
    early_stopping: EarlyStopping = EarlyStopping()
    validate_every: int = Field(1, ge=1)
    fine_tune: FineTune = FineTune()
    image_sizes: list[ImageSize] = []
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    deterministic: bool = True
    devices: int = Field(1, ge=1, le=64)
    memory_limit: float = Field(2.0, gt=0, le=1e6)
    checkpoint_minutes: float = Field(10.0, gt=0, le=1e6)
    save_epochs: bool = False
    debug: Debug = Debug()

    @model_validator(mode="after")
    def _combinations(self) -> Self:
        if self.fine_tune.frozen_epochs >= self.epochs:
            raise ValueError(
                f"fine_tune.frozen_epochs = {self.fine_tune.frozen_epochs} must be less than "
                f"epochs = {self.epochs}"
            )
        if self.devices > self.batch_size:
            raise ValueError(
                f"devices = {self.devices} share a batch of batch_size = {self.batch_size} images; "
                "there must be one for each"
            )
        if self.early_stopping.patience and self.monitor == "last":
            raise ValueError("early_stopping.patience needs a monitor other than last")
        if self.class_weights == "balanced" and self.sampling == "balanced":
            raise ValueError(
                "class_weights: balanced and sampling: balanced would each make up for the "
                "imbalance; choose one"
            )
        if self.hardest < 1 and self.sampling == "balanced":
            raise ValueError(
                f"hardest = {self.hardest} and sampling: balanced would each say which images an "
                "epoch has; choose one, or hardest with class_weights: balanced"
            )
        until = [stage.until for stage in self.image_sizes]
        if until != sorted(set(until)):
            raise ValueError(f"image_sizes: until = {until} must rise from entry to entry")
        return self
