"""Which images train the model, which choose its best epoch, which judge it in the end.

A *side* is an int8 code, an index into `files.SIDES`; `LEFT_OUT` marks images on no side.
"""

import numpy as np

TRAIN, VAL, TEST, EXTRA = range(4)
LEFT_OUT = -1

# How far a side is held back from training. Of several copies of an image, the one on the side
# with the highest rank is kept. `test` and `extra` have the same: neither influences the model, so
# both may hold the same image.
RANK = np.zeros(5, np.int8)
RANK[[LEFT_OUT, TRAIN, VAL, TEST, EXTRA]] = [-1, 0, 1, 2, 2]
