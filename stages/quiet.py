"""Importing this module imports TensorFlow without its start-up notices.

They bury what a stage has to say, and come before any of TensorFlow's own switches for them
takes effect, so standard error is closed while its libraries load. What the import raises is
still heard.
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


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with _standard_error_closed():
    import tensorflow  # noqa: F401
