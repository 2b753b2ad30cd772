"""Random variation of training images, a batch at a time, inside the compiled input path.

Everything here is a pure function of its arguments and a key made of seed, epoch and step: a
batch comes out the same on every run, and training can resume at any step.
"""

from stages.augmentation.pipeline import Augmentation

__all__ = ["Augmentation"]
