"""Architectures by name, one file each: `model.name: convnet` is stages/architectures/convnet.py.

A new architecture is one new file here with a function

    def build(shape, outputs, <own settings with defaults>) -> keras.Model

`shape` is (height, width, channels) of the images, whose values run from 0 to 255 (scaling is
part of the model); `outputs` is how many numbers come out, as logits: one a class, or a single
one for a sigmoid. What `model.settings` holds arrives as the further arguments. Optional beside it:

    def adapt(model, images)    take statistics from training images, uint8 (n, h, w, c)

Files whose names start with an underscore are not architectures.
"""

from stages.architectures._build import adapt_model, build_model, names
from stages.architectures._layers import pool_early, portable

__all__ = ["adapt_model", "build_model", "names", "pool_early", "portable"]
