"""Find an architecture by its file name and build it, with clear errors for wrong settings."""

import difflib
import importlib
import inspect
import pkgutil
import reprlib

import keras
import tensorflow as tf

import stages.architectures
from stages.architectures._weights import TooLarge, check_file, clean, limited, load_weights
from stages.errors import UserError

# What an impossible value of a setting may raise. An architecture's own fault, such as a name it
# does not know, keeps its traceback.
MISTAKES = (ArithmeticError, LookupError, MemoryError, RecursionError, TypeError, ValueError)


def names() -> list[str]:
    """The architectures there are: the files of this package, in alphabetical order."""
    found = pkgutil.iter_modules(stages.architectures.__path__)
    return sorted(module.name for module in found if not module.name.startswith("_"))


def build_model(
    name, shape, outputs, settings=None, weights=None, memory=float("inf")
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
    elif weights == "imagenet":
        raise UserError(f"model.weights: imagenet is for model.name: backbone; {name} has none")
    if weights not in (None, "imagenet"):
        check_file(weights)
    problem = f"model {name} cannot be built for {_text(shape)}"
    try:
        with limited(memory):
            model = build(tuple(shape), outputs, **arguments)
    except TooLarge as error:
        raise UserError(f"{problem}: {error}") from None
    except (*MISTAKES, tf.errors.OpError) as error:
        reason = _reason(shape, str(error) or type(error).__name__)
        raise UserError(f"{problem}: {reason}") from error
    if weights is not None and not takes_weights:
        load_weights(model, weights)
    return model


def adapt_model(name, model, images) -> None:
    """Let the architecture take its statistics from training images, uint8 (n, h, w, c)."""
    adapt = getattr(_module(name), "adapt", None)
    if adapt:
        adapt(model, images)


def _module(name):
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names())}"
        raise UserError(f"model.name = {name!r}: no such file in stages/architectures; {hint}")
    return importlib.import_module(f"stages.architectures.{name}")


def _settings(build) -> dict[str, object]:
    """The settings of an architecture and their defaults."""
    own = list(inspect.signature(build).parameters.values())[2:]
    return {each.name: each.default for each in own if each.name != "weights"}


def _is_like(value, default) -> bool:
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
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and -float("inf") < value < float("inf")
    return True


def _kind(default) -> str:
    if isinstance(default, (tuple, list)):
        return f"a list such as {list(default)}"
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return f"{kinds[type(default)]} such as {default}"


def _reason(shape, message) -> str:
    """Keras' message, or what to do where its cause is known."""
    if shape[0] is None and "None" in message:
        return "it takes images of one size only; leave train.image_sizes empty"
    if "negative" in message:  # the size of what comes out of a convolution or a pooling
        return "they are too small for it; raise preprocess.size"
    return clean(message)


def _text(shape) -> str:
    height, width, channels = shape
    size = "images of any size" if height is None else f"images of {height}x{width}"
    return f"{size} with {channels} channel{'s' * (channels > 1)}"
