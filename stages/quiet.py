"""Importing this module imports TensorFlow and Keras without start-up notices, in 2.5 s, not 4.

The notices bury what a stage has to say, and come before any of TensorFlow's own switches for them
takes effect, so standard error is closed while its libraries load. What the import raises is
still heard. Keras looks for packages that it can do without and that take a third of the time.
"""

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def _standard_error_closed() -> Iterator[None]:
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


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


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# For drawing boxes, galleries and wrappers of models, none of which are used here.
with _standard_error_closed(), _without("cv2", "matplotlib", "sklearn"):
    import keras  # noqa: F401
    import tensorflow  # noqa: F401
