"""The model for use: raw pixels in, class probabilities out, float32, Keras' own layers only."""

import math

import keras
import numpy as np

from stages.architectures import build_model, portable


class Deployable:
    """The `model` for use: uint8 (n, h, w, c) in, float32 probabilities (n, classes) out.

    `settings` is the section `model`, `shape` (h, w, c) that of the processed images; `memory`
    bounds what training its weights may take.
    """

    def __init__(self, settings, shape, classes: int, memory: float = float("inf")):
        outputs = number_of_outputs(settings, classes)
        self._net = portable(
            build_model(settings.name, shape, outputs, settings.settings, settings.weights, memory)
        )
        self.parameters = self._net.count_params()
        images = keras.Input(shape, dtype="uint8", name="images")
        logits = self._net(images)
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
            for layer in self._net._flatten_layers(include_self=False)
            if layer.trainable_weights and not isinstance(layer, keras.Model)
            for tensor in keras.tree.flatten(getattr(layer, "output", []))
        )

    def set_weights(self, weights: list[np.ndarray]) -> None:
        """Take over the weights of the trained net, in the order of its `get_weights()`."""
        self._net.set_weights(weights)
        for layer in self._net._flatten_layers():
            if isinstance(layer, keras.layers.Normalization):
                layer.finalize_state()


def number_of_outputs(settings, classes: int) -> int:
    """Logits of the net: one a class, or a single one for `model.output: sigmoid`."""
    return 1 if settings.output == "sigmoid" else classes
