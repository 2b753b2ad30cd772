"""A net folded for use is the same function."""

import keras
import numpy as np
import pytest

from stages.architectures import adapt_model, build_model, portable
from stages.inference.fold import folded

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "settings", "left"),
    [
        ("residual", {}, 0),
        ("speednet", {}, None),
        ("gap", {}, 0),
        ("efficientnet_lite0", {}, 0),
        ("backbone", {"network": "MobileNetV2"}, 0),
        ("backbone", {"network": "ResNet50V2"}, None),
    ],
)
def test_normalisations_folded_into_convolutions_change_nothing(name, settings, left):
    model = build_model(name, (32, 32, 3), 4, settings)
    adapt_model(name, model, IMAGES)
    model = portable(model)
    random = np.random.default_rng(0)
    for weight in model.weights:  # statistics that are not those of a fresh net
        if weight.path.split("/")[-1] in ("gamma", "moving_variance"):
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
        elif weight.path.split("/")[-1] in ("beta", "moving_mean"):
            weight.assign(random.normal(0, 0.1, weight.shape))
    small = folded(model)
    expected = model(IMAGES).numpy()
    np.testing.assert_allclose(small(IMAGES), expected, atol=2e-4 * np.abs(expected).max())
    kinds = [type(layer).__name__ for layer in small._flatten_layers()]
    before = [type(layer).__name__ for layer in model._flatten_layers()]
    if left is not None:
        assert kinds.count("BatchNormalization") == left
    assert kinds.count("BatchNormalization") <= before.count("BatchNormalization")


def test_a_normalisation_stays_where_it_is_not_all_that_follows():
    images = keras.Input((8, 8, 3))
    convolved = keras.layers.Conv2D(4, 3, padding="same")(images)
    normalised = keras.layers.BatchNormalization()(convolved)
    model = keras.Model(images, keras.layers.Add()([convolved, normalised]))
    pixels = IMAGES[:, :8, :8].astype("float32")
    np.testing.assert_allclose(folded(model)(pixels), model(pixels), rtol=1e-5)
    active = keras.layers.Conv2D(4, 3, activation="relu")(images)
    model = keras.Model(images, keras.layers.BatchNormalization(scale=False)(active))
    np.testing.assert_allclose(folded(model)(pixels), model(pixels), rtol=1e-5)
    bias = keras.layers.SeparableConv2D(4, 3)(images)
    model = keras.Model(images, keras.layers.BatchNormalization(center=False)(bias))
    np.testing.assert_allclose(folded(model)(pixels), model(pixels), rtol=1e-5)
