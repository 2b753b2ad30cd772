"""Importing this module imports TensorFlow and Keras without start-up notices, in 2 s, not 4.

The notices bury what a stage has to say, and come before any of TensorFlow's own switches for them
takes effect, so standard error is closed while its libraries load. What the import raises is
still heard. Keras looks for packages that it can do without and that take a third of the time.
Nothing of a library becomes garbage, so no search for it walks through TensorFlow, then or later.
"""

import contextlib
import gc
import os
import sys
from collections.abc import Iterator

from stages.errors import standard_error_closed


@contextlib.contextmanager
def _without(*packages: str) -> Iterator[None]:
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
def _without_collecting() -> Iterator[None]:
    """What is made within is taken for no garbage for good."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# For drawing boxes, galleries, sparse matrices and wrappers of models, none of which are used here.
UNUSED = ("cv2", "matplotlib", "scipy", "sklearn")
with standard_error_closed(), _without_collecting(), _without(*UNUSED):
    import keras  # noqa: F401
    import tensorflow  # noqa: F401
