"""The model for use: raw pixels in, class probabilities out, float32, Keras' own layers only."""

import math
from pathlib import Path

import keras
import numpy as np

from stages.architectures import build_model, portable
from stages.parameters.model import Model
from stages.store.model import TEMPERATURE, save_unfitted


class Deployable:
    """The `model` for use: uint8 (n, h, w, c) in, float32 probabilities (n, classes) out.

    `shape` (h, w, c) is that of the processed images; `memory` bounds what training its weights
    may take. `net` is the part that learns: uint8 images in, logits out.
    """

    def __init__(
        self,
        settings: Model,
        shape: tuple[int, int, int],
        classes: int,
        memory: float = float("inf"),
    ):
        outputs = settings.outputs(classes)
        self.net = portable(
            build_model(settings.name, shape, outputs, settings.settings, settings.weights, memory)
        )
        self.parameters = self.net.count_params()
        images = keras.Input(shape, dtype="uint8", name="images")
        # Its scale is 1 / T once the temperature T is known (stages/training/calibrate.py).
        self._temperature = keras.layers.Rescaling(1.0, name=TEMPERATURE)
        logits = self._temperature(self.net(images))
        if outputs == 1:  # from the logit of class 1 to two columns with its sigmoid
            halves = [keras.layers.Rescaling(scale)(logits) for scale in (-0.5, 0.5)]
            logits = keras.layers.Concatenate()(halves)
        probabilities = keras.layers.Softmax(name="probabilities")(logits)
        self.model = keras.Model(images, probabilities, name="classifier")

    def activations(self) -> int:
        """Numbers an image leaves in the net for the backward pass, at least: what its layers
        with weights put out."""
        return sum(
            math.prod(filter(None, tensor.shape[1:]))
            for layer in self.net._flatten_layers(include_self=False)
            if layer.trainable_weights and not isinstance(layer, keras.Model)
            for tensor in keras.tree.flatten(getattr(layer, "output", []))
        )

    def set_temperature(self, temperature: float) -> None:
        """Divide the logits by `temperature` from the next compilation of `model` on."""
        self._temperature.scale = 1 / temperature

    def save_unfitted(self, path: Path) -> None:
        """Write the model for `stages.store.model.fitted`, which is to know its last layer."""
        last = self.net.layers[-1]
        last.set_weights([np.full_like(weight, np.nan) for weight in last.get_weights()])
        save_unfitted(self.model, path)

    def set_weights(self, weights: list[np.ndarray]) -> None:
        """Take over the weights of the trained net, in the order of its `get_weights()`."""
        set_weights(self.net, weights)


def set_weights(net: keras.Model, weights: list[np.ndarray]) -> None:
    """Give `net` these `weights`, and let its layers take in those that they compute from."""
    net.set_weights(weights)
    for layer in net._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
