"""Ways to import large libraries in less time. What they give afterwards is the same."""

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def without(*packages: str) -> Iterator[None]:
    """Those of `packages` that are not imported yet seem not to be installed."""
    hidden = [name for name in packages if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # as Python's manual has it
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextlib.contextmanager
def without_collecting() -> Iterator[None]:
    """What is imported within is taken for no garbage for good, and no search for garbage walks
    through it, then or later."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
