"""Importing this module imports TensorFlow and Keras without start-up notices, in 2 s, not 4, with
the fastest kernels that TensorFlow has for the processor.

The notices bury what a stage has to say, and come before any of TensorFlow's own switches for them
takes effect, so standard error is closed while its libraries load. What the import raises is
still heard. Keras looks for packages that it can do without and that take a third of the time.
"""

import os
import platform

from stages.errors import standard_error_closed
from stages.imports import without, without_collecting

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# TensorFlow brings oneDNN's convolutions for every x86 processor, but unasked takes them only for
# those with AVX-512 VNNI or newer. Trainings on the others, most laptops', are 1.1 to 1.7 times as
# fast with them, batches of images up to twice as fast to judge. Only a batch of one image takes
# two to three times as long: TensorFlow then lays out weights so that no AVX2 kernel takes them.
if platform.machine() in ("x86_64", "AMD64"):
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# For drawing boxes, galleries, sparse matrices and wrappers of models, none of which are used here.
UNUSED = ("cv2", "matplotlib", "scipy", "sklearn")
with standard_error_closed(), without_collecting(), without(*UNUSED):
    import keras  # noqa: F401
    import tensorflow  # noqa: F401
