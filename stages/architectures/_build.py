"""Find an architecture by its file name and build it, randomly initialised or with weights from a
file, with clear errors for wrong settings."""

import contextlib
import difflib
import importlib
import inspect
import math
import pkgutil
import re
import reprlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import stages.architectures
from stages.errors import UserError
from stages.parameters.model import NAMED_WEIGHTS

AnyShape = tuple[int | None, int | None, int]  # height, width, channels

# What an impossible value of a setting may raise. An architecture's own fault, such as a name it
# does not know, keeps its traceback.
MISTAKES = (ArithmeticError, LookupError, MemoryError, RecursionError, TypeError, ValueError)


def names() -> list[str]:
    """The architectures there are: the files of this package, in alphabetical order."""
    modules = pkgutil.iter_modules(stages.architectures.__path__)
    return sorted(module.name for module in modules if not module.name.startswith("_"))


def build_model(
    name: str,
    shape: AnyShape,
    outputs: int,
    settings: dict[str, Any] | None = None,
    weights: str | None = None,
    memory: float = float("inf"),
) -> keras.Model:
    """The architecture `name` for images of `shape`, randomly initialised or from `weights`.

    Args:
        name: a file of stages/architectures, without .py.
        shape: (height, width, channels); height and width may be None for a net that takes
            images of any size.
        outputs: number of logits.
        settings: the architecture's own settings.
        weights: None, the path of a weights file (.weights.h5, .h5 or .keras), or, for
            architectures that take `weights` themselves, a name they know.
        memory: bytes that training the weights may take.

    Returns a model from images with values 0 to 255, uint8 or float (n, h, w, c), to float32
    logits (n, outputs). Raises `UserError` for an unknown name or setting, a setting with an
    impossible value, images too small for the architecture, weights that do not fit, or more
    of them than there is memory for.
    """
    build = _module(name).build
    arguments = dict(settings or {})
    own = _settings(build)
    for key, value in arguments.items():
        if key not in own:
            known = f"it has {', '.join(own)}" if own else "it has none"
            raise UserError(f"model.settings.{key} is not a setting of {name}; {known}")
        if not _is_like(value, own[key]):
            raise UserError(
                f"model.settings.{key} = {reprlib.repr(value)}: it should be {_kind(own[key])}"
            )
    takes_weights = "weights" in inspect.signature(build).parameters
    if takes_weights:
        arguments["weights"] = weights
    if weights in NAMED_WEIGHTS:
        if name not in NAMED_WEIGHTS[weights]:
            owners = " or ".join(NAMED_WEIGHTS[weights])
            raise UserError(
                f"model.weights: {weights} is for model.name: {owners}; "
                f"{name} has no weights of that name"
            )
    elif weights:
        check_file(weights)
    problem = f"model {name} cannot be built for {_describe(shape)}"
    try:
        with _limited_to(memory):
            model = build(tuple(shape), outputs, **arguments)
    except TooLarge as error:
        raise UserError(f"{problem}: {error}") from None
    except (*MISTAKES, tf.errors.OpError) as error:
        reason = _reason(shape, str(error) or type(error).__name__)
        raise UserError(f"{problem}: {reason}") from error
    if weights is not None and not takes_weights:
        load_weights(model, weights)
    return model


def adapt_model(name: str, model: keras.Model, images: np.ndarray) -> None:
    """Let the architecture take its statistics from training images, uint8 (n, h, w, c)."""
    adapt = getattr(_module(name), "adapt", None)
    if adapt:
        adapt(model, images)


def _module(name: str) -> ModuleType:
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names())}"
        raise UserError(f"model.name = {name!r}: no such file in stages/architectures; {hint}")
    return importlib.import_module(f"stages.architectures.{name}")


def _settings(build: Callable[..., keras.Model]) -> dict[str, object]:
    """The settings of an architecture and their defaults."""
    own = list(inspect.signature(build).parameters.values())[2:]
    return {each.name: each.default for each in own if each.name != "weights"}


def _is_like(value: object, default: object) -> bool:
    """Whether `value` is of the kind of `default`; any value is where there is no default."""
    if isinstance(default, (tuple, list)):
        return isinstance(value, (tuple, list)) and (
            not default or (len(value) > 0 and all(_is_like(one, default[0]) for one in value))
        )
    if isinstance(default, (bool, str)):
        return isinstance(value, type(default))
    if isinstance(default, int):
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(default, float):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return -float("inf") < value < float("inf")
    return True


def _kind(default: object) -> str:
    if isinstance(default, (tuple, list)):
        return f"a list such as {list(default)}"
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return f"{kinds[type(default)]} such as {default}"


def _reason(shape: AnyShape, message: str) -> str:
    """Keras' message, or what to do where its cause is known."""
    if shape[0] is None and "None" in message:
        return "it takes images of one size only; leave train.image_sizes empty"
    if "negative" in message:  # the size of what comes out of a convolution or a pooling
        return "they are too small for it; raise preprocess.size"
    return _clean(message)


def _describe(shape: AnyShape) -> str:
    height, width, channels = shape
    size = "images of any size" if height is None else f"images of {height}x{width}"
    return f"{size} with {channels} channel{'s' * (channels > 1)}"


# Weights: how many a net may have, and those that come from a file

TENSORS = 2500  # the largest network of keras.applications has 1,546
COPIES = 4  # of the weights in training: themselves, their gradients, two moments of Adam


class TooLarge(UserError):
    """A net that cannot be trained here."""


@contextlib.contextmanager
def _limited_to(memory: float) -> Iterator[None]:
    """Within, a net is refused before its weights take more than `memory` bytes in training.

    Keras asks for the memory of each weight as the layer is built, and the system ends a program
    that asks for too much; so the layers are watched, which there is no other way to do.
    """
    original, tensors, size = keras.Layer.add_weight, 0, 0

    def add_weight(
        layer: keras.Layer, shape: tuple[int, ...] | None = None, *args: Any, **options: Any
    ) -> keras.Variable:
        nonlocal tensors, size
        tensors += 1
        size += 4 * math.prod(shape or ()) * COPIES
        if size > memory:
            raise TooLarge(
                f"training its weights takes more than the {memory / 2**30:.1f} GiB of this "
                f"machine ({layer.name} has {shape}); make it smaller"
            )
        if tensors > TENSORS:
            raise TooLarge(f"it has more than {TENSORS} weights of layers; make it less deep")
        return original(layer, shape, *args, **options)

    keras.Layer.add_weight = add_weight
    try:
        yield
    finally:
        keras.Layer.add_weight = original


def check_file(path: str | Path) -> None:
    """Raise `UserError` unless `path` is a file of weights, by its first bytes."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"model.weights: {path} is a folder; name the file in it")
    if not path.is_file():
        raise UserError(f"model.weights: there is no file {path}")
    with open(path, "rb") as file:  # a file out of reach says so itself
        start = file.read(8)
    if start[:8] != b"\x89HDF\r\n\x1a\n" and start[:4] != b"PK\x03\x04":
        raise UserError(
            f"model.weights: {path} is damaged or no file of weights (.weights.h5, .h5, .keras)"
        )


def load_weights(model: keras.Model, path: str | Path) -> None:
    """Weights for all of `model` from a file: .weights.h5, .keras, or .h5.

    Raises `UserError` for a file that is damaged or of another net.
    """
    try:
        model.load_weights(path)
    except Exception as error:  # HDF5, zip and Keras each have many ways to say so
        reason = _clean(str(error)).partition("List of objects")[0]
        raise UserError(f"model.weights: {path} does not fit the model: {reason}") from error
    for weight in model.weights:
        if not np.isfinite(np.asarray(weight.numpy(), "float32")).all():
            raise UserError(
                f"model.weights: {path} holds values that are not finite ({weight.path})"
            )


def _clean(message: str) -> str:
    """Keras' `message` without its codes for bold."""
    return re.sub("\x1b\\[[0-9;]*m", "", message)
