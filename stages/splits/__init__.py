"""Which images train, which choose, which judge.

A *side* is an int8 code, an index into `SIDES`; `LEFT_OUT` marks images on no side.
"""

SIDES = ("train", "val", "test", "extra")
TRAIN, VAL, TEST, EXTRA = range(4)
LEFT_OUT = -1
