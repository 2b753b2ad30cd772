"""The pipeline: one script a stage, and the packages they share."""

import sys

from stages.errors import interruptible

if sys.argv[:1] == ["-m"]:  # a program of ours is starting: python -m stages.NAME
    interruptible()
