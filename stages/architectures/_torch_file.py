"""Reads tensors from a file of PyTorch before 1.6 (`torch.save`, no zip), without torch."""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

STORAGES = {"FloatStorage": "<f4", "LongStorage": "<i8"}


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """The state dict in `path`: arrays by name, in its order.

    The file is a row of pickles (a magic number, a version, facts of the machine, the state dict,
    the keys of the storages) and then the numbers of each storage. The unpickler knows the names
    that make tensors and no other, so nothing in the file can run; anything else raises
    `pickle.UnpicklingError`.
    """
    with open(path, "rb") as file:
        for _ in range(3):
            _Tensors(file).load()
        tensors = _Tensors(file)
        state, keys = tensors.load(), _Tensors(file).load()
        for key in keys:
            storage = tensors.storages[key]
            file.seek(8, 1)  # how many numbers follow, which the state dict has said
            if file.readinto(storage.data) != storage.nbytes:
                raise pickle.UnpicklingError(f"{path} ends too early")
    return dict(state)


class _Tensors(pickle.Unpickler):
    """Builds tensors as views of storages, which are filled when all pickles are read."""

    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self.storages: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in STORAGES:
            return np.dtype(STORAGES[name])
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a tensor")

    def persistent_load(self, storage: tuple[str, np.dtype, str, str, int, None]) -> np.ndarray:
        _, dtype, key, _, size, _ = storage
        return self.storages.setdefault(key, np.empty(size, dtype))


def _tensor(
    storage: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
) -> np.ndarray:
    """A view of `storage`; NumPy refuses one that would reach beyond it."""
    size = storage.itemsize
    steps = [size * stride for stride in strides]
    return np.ndarray(shape, storage.dtype, storage.data, offset * size, steps)
