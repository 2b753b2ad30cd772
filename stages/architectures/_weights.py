"""Weights: how many a net may have, and those that come from a file."""

import contextlib
import math
import re
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from stages.errors import UserError

TENSORS = 2500  # the largest network of keras.applications has 1,546
COPIES = 4  # of the weights in training: themselves, their gradients, two moments of Adam


class TooLarge(UserError):
    """A net that cannot be trained here."""


@contextlib.contextmanager
def limited(memory: float) -> Iterator[None]:
    """Within, a net is refused before its weights take more than `memory` bytes in training.

    Keras asks for the memory of each weight as the layer is built, and the system ends a program
    that asks for too much; so the layers are watched, which there is no other way to do.
    """
    original, tensors, size = keras.Layer.add_weight, 0, 0

    def add_weight(layer, shape=None, *args, **options):
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
        reason = clean(str(error)).partition("List of objects")[0]
        raise UserError(f"model.weights: {path} does not fit the model: {reason}") from error
    for weight in model.weights:
        if not np.isfinite(np.asarray(weight.numpy(), "float32")).all():
            raise UserError(
                f"model.weights: {path} holds values that are not finite ({weight.path})"
            )


def clean(message: str) -> str:
    """Keras' `message` without its codes for bold."""
    return re.sub("\x1b\\[[0-9;]*m", "", message)
