"""Find an architecture by its file name and build it, with clear errors for wrong settings."""

import difflib
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import keras

import stages.architectures
from stages.errors import UserError


def names() -> list[str]:
    """The architectures there are: the files of this package, in alphabetical order."""
    found = pkgutil.iter_modules(stages.architectures.__path__)
    return sorted(module.name for module in found if not module.name.startswith("_"))


def build_model(name, shape, outputs, settings=None, weights=None) -> keras.Model:
    """The architecture `name` for images of `shape`, randomly initialised or from `weights`.

    Args:
        name: a file of stages/architectures, without .py.
        shape: (height, width, channels); height and width may be None for a net that takes
            images of any size.
        outputs: number of logits.
        settings: the architecture's own settings.
        weights: None, the path of a weights file (.weights.h5, .h5 or .keras), or, for
            architectures that take `weights` themselves, a name they know.

    Returns a model from images with values 0 to 255, uint8 or float (n, h, w, c), to float32
    logits (n, outputs). Raises `UserError` for an unknown name or setting, a setting with an
    impossible value, images too small for the architecture, or weights that do not fit.
    """
    build = _module(name).build
    arguments = dict(settings or {})
    own = _settings(build)
    for key in arguments:
        if key not in own:
            known = f"it has {', '.join(own)}" if own else "it has none"
            raise UserError(f"model.settings.{key} is not a setting of {name}; {known}")
    takes_weights = "weights" in inspect.signature(build).parameters
    if takes_weights:
        arguments["weights"] = weights
    elif weights == "imagenet":
        raise UserError(f"model.weights: imagenet is for model.name: backbone; {name} has none")
    if weights not in (None, "imagenet") and not Path(weights).is_file():
        raise UserError(f"model.weights: there is no file {weights}")
    try:
        model = build(tuple(shape), outputs, **arguments)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"model {name} cannot be built for {_text(shape)}: {_reason(shape, str(error))}"
        ) from error
    if weights and not takes_weights:
        _load(model, weights)
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


def _settings(build) -> list[str]:
    own = list(inspect.signature(build).parameters)[2:]
    return [name for name in own if name != "weights"]


def _load(model, path) -> None:
    try:
        model.load_weights(path)
    except (ValueError, OSError, KeyError) as error:
        raise UserError(f"model.weights: {path} does not fit the model: {error}") from error


def _reason(shape, message) -> str:
    """Keras' message, or what to do where its cause is known."""
    if shape[0] is None and "None" in message:
        return "it takes images of one size only; leave train.image_sizes empty"
    if "negative" in message:  # the size of what comes out of a convolution or a pooling
        return "they are too small for it; raise preprocess.size"
    return re.sub("\x1b\\[[0-9;]*m", "", message)  # Keras writes in bold


def _text(shape) -> str:
    height, width, channels = shape
    size = "images of any size" if height is None else f"images of {height}x{width}"
    return f"{size} with {channels} channel{'s' * (channels > 1)}"
