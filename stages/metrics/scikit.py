"""scikit-learn's metrics, imported in half the time: without scipy.stats.

They take one function of it, for a metric that nothing here asks for. Something stands in for it
that imports it when the function is called.
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


if STATS in sys.modules:
    from sklearn import metrics
else:
    sys.modules[STATS] = _Later(STATS)
    try:
        from sklearn import metrics  # noqa: F401
    finally:
        del sys.modules[STATS]
