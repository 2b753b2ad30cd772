"""Parts of scikit-learn, imported without scipy.stats: a third to a half of the time.

    from stages.scikit import metrics

They take one function of it, for what nothing here asks for. Something stands in for it that
imports it when the function is called.
"""

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

STATS = "scipy.stats"


class _Later(ModuleType):
    """In the place of a module: each of its functions imports it when it is called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*arguments: Any, **named: Any) -> Any:
            return getattr(importlib.import_module(self.__name__), name)(*arguments, **named)

        return call


def __getattr__(name: str) -> ModuleType:
    """The part `name` of scikit-learn."""
    if name.startswith("__"):
        raise AttributeError(name)
    if STATS in sys.modules:
        return importlib.import_module(f"sklearn.{name}")
    sys.modules[STATS] = _Later(STATS)
    try:
        return importlib.import_module(f"sklearn.{name}")
    finally:
        del sys.modules[STATS]
