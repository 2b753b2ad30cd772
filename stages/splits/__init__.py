"""Which images train, which choose, which judge.

A *side* is an int8 code, an index into `files.SIDES`; `LEFT_OUT` marks images on no side.
"""

import numpy as np

TRAIN, VAL, TEST, EXTRA = range(4)
LEFT_OUT = -1

# Of the copies of an image those that judge stay, then those that choose. `test` and `extra`
# rank alike: neither influences the model, so both may hold the same image.
RANK = np.zeros(5, np.int8)
RANK[[LEFT_OUT, TRAIN, VAL, TEST, EXTRA]] = [-1, 0, 1, 2, 2]
