"""Importing this module imports TensorFlow and Keras without start-up notices, in 2 s, not 4.

The notices bury what a stage has to say, and come before any of TensorFlow's own switches for them
takes effect, so standard error is closed while its libraries load. What the import raises is
still heard. Keras looks for packages that it can do without and that take a third of the time.
"""

import os

from stages.errors import standard_error_closed
from stages.imports import without, without_collecting

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# For drawing boxes, galleries, sparse matrices and wrappers of models, none of which are used here.
UNUSED = ("cv2", "matplotlib", "scipy", "sklearn")
with standard_error_closed(), without_collecting(), without(*UNUSED):
    import keras  # noqa: F401
    import tensorflow  # noqa: F401
