"""What is told of an image: classes, doubts, the nearest training images, and where it is seen."""

import keras
import numpy as np
import pytest

from stages.architectures import build_model, names
from stages.inference.answers import answers
from stages.inference.fold import folded
from stages.inference.probabilities import graph_of, observer
from stages.inference.seen import Seen
from stages.store.model import Judgement, Limit, Score

CLASSES = ["ant", "bee", "cat"]


def judged(sets=None, unlike=None):
    score = Score(accuracy=0.9, accuracy_low=0.8, accuracy_high=1.0, count=9)
    limits = {
        "sets": None if sets is None else Limit(share=0.9, threshold=sets),
        "unlike": None if unlike is None else Limit(share=0.01, threshold=unlike),
    }
    return Judgement(sha256="0" * 64, tta="none", top_k=2, test=score, **limits)


def seen(probabilities, distance=np.nan, nearest=(-1, -1, -1)):
    return Seen(
        np.array([probabilities], np.float32),
        np.zeros((1, 2), np.float32),
        np.array([distance], np.float32),
        np.array([nearest], np.int32),
    )


def test_the_most_probable_classes_come_first_and_of_equals_the_first():
    (answer,) = answers(seen([0.2, 0.4, 0.4]), CLASSES, None, 2)
    assert answer == ([("bee", 0.4), ("cat", 0.4)], None, None, None, [])


def test_doubts_are_told_by_the_thresholds_of_the_judgement():
    found = seen([0.3, 0.6, 0.1], 0.4, (7, 2, -1))
    (answer,) = answers(found, CLASSES, judged(0.3, 0.1), 1)
    assert answer == ([("bee", 0.6)], ["bee", "ant"], True, 0.4, [7, 2])
    (answer,) = answers(found, CLASSES, judged(0.99), 1)
    assert (answer.set, answer.unlike) == (["bee"], None)


def test_a_distance_or_probability_at_its_threshold_does_not_pass_it_by_rounding():
    """0.3 and 0.7 are more in float32 than in float64 or less."""
    (answer,) = answers(seen([0.3, 0.7, 0.0], 0.3), CLASSES, judged(0.7, 0.3), 1)
    assert (answer.set, answer.unlike) == (["bee"], False)
    (answer,) = answers(seen([0.7, 0.3, 0.0], 0.7), CLASSES, judged(0.3, 0.7), 1)
    assert (answer.set, answer.unlike) == (["ant", "bee"], False)


def test_where_no_distance_is_known_nothing_is_called_unlike_or_like():
    (answer,) = answers(seen([0.5, 0.3, 0.2]), CLASSES, judged(unlike=0.1), 1)
    assert answer.unlike is None


def nearest_and_distances(trained, images):
    """What `graph_of` finds for images (n, 4, 4, 3) beside their pixels, and the cosines (n, m)."""
    net = keras.Sequential([keras.Input((4, 4, 3), dtype="uint8"), keras.layers.Flatten()])
    net.add(keras.layers.Dense(2, activation="softmax"))
    found = graph_of(net, "none", trained)(images)
    flat, known = images.reshape(len(images), -1).astype(np.float64), trained.astype(np.float64)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    return found, flat @ (known / np.linalg.norm(known, axis=1, keepdims=True)).T


@pytest.mark.parametrize("known", [1, 2, 40])
def test_the_nearest_are_those_of_the_smallest_distance(known):
    random = np.random.default_rng(1)
    trained = random.integers(0, 256, (known, 48)).astype(np.float16)
    images = random.integers(0, 256, (9, 4, 4, 3), np.uint8)
    images[0] = trained[0].reshape(4, 4, 3)
    found, cosines = nearest_and_distances(trained, images)
    expected = np.full((9, 3), -1)
    expected[:, :known] = np.argsort(-cosines, axis=1)[:, :3]
    np.testing.assert_array_equal(found["nearest"], expected)
    np.testing.assert_allclose(found["distance"], 1 - cosines.max(axis=1), atol=1e-5)


def test_of_equally_near_ones_the_first_are_named():
    """With four pixels of one value in each image, cosines are quarters, in whatever order a
    processor adds them up."""
    random = np.random.default_rng(1)
    pixels = np.stack([random.permutation(12) < 4 for _ in range(49)]) * 64
    pixels = np.pad(pixels, ((0, 0), (0, 36))).astype(np.uint8)
    found, cosines = nearest_and_distances(
        pixels[9:].astype(np.float16), pixels[:9].reshape(9, 4, 4, 3)
    )
    expected = np.argsort(-cosines.round(6), axis=1, kind="stable")[:, :3]
    np.testing.assert_array_equal(found["nearest"], expected)


def heat_of(model, images, tta="none"):
    outputs = graph_of(model, tta, heat=True)(images)
    return outputs["heat"].numpy() if "heat" in outputs else None


@pytest.mark.parametrize("classes", [2, 3])
def test_heat_is_what_each_place_adds_to_the_logit_of_the_predicted_class(classes):
    images = np.random.default_rng(2).integers(0, 256, (5, 8, 12, 3), np.uint8)
    keras.utils.set_random_seed(0)
    maps = keras.Sequential([keras.Input((8, 12, 3)), keras.layers.Conv2D(4, 3, strides=2)])
    inputs = keras.Input((8, 12, 3), dtype="uint8")
    x = keras.layers.Dropout(0.5)(keras.layers.GlobalAveragePooling2D(keepdims=True)(maps(inputs)))
    dense = keras.layers.Dense(classes, activation="softmax")
    model = keras.Model(inputs, dense(keras.layers.Flatten()(x)))
    heat = heat_of(model, images, "flip")
    predicted = observer(model, "flip")(images).probabilities.argmax(axis=1)
    for image, label, found in zip(images, predicted, heat, strict=True):
        places = maps(image[None].astype(np.float32)).numpy()[0] @ dense.kernel.numpy()[:, label]
        expected = np.maximum(places, 0)
        np.testing.assert_allclose(found, expected / max(expected.max(), 1e-30), atol=1e-5)


def test_one_logit_speaks_for_both_classes():
    """What speaks against class 1 speaks for class 0."""
    inputs = keras.Input((6, 6, 1), dtype="uint8")
    maps = keras.layers.Rescaling(1 / 100, offset=-1)(inputs)
    dense = keras.layers.Dense(1)
    logit = dense(keras.layers.GlobalAveragePooling2D()(maps))
    halves = [keras.layers.Rescaling(scale)(logit) for scale in (-0.5, 0.5)]
    outputs = keras.layers.Softmax()(keras.layers.Concatenate()(halves))
    model = keras.Model(inputs, outputs)
    dense.set_weights([np.ones((1, 1)), np.zeros(1)])
    images = np.full((2, 6, 6, 1), 100, np.uint8)
    images[0, :2, :3], images[1, :2, :3] = 200, 0
    expected = np.zeros((2, 6, 6))
    expected[:, :2, :3] = 1
    np.testing.assert_allclose(heat_of(model, images), expected, atol=1e-5)


SETTINGS = {"backbone": {"network": "MobileNetV2"}}
TELL = {"backbone", "efficientnet_lite0", "gap", "residual"}


@pytest.mark.parametrize("name", sorted(set(names()) - {"efficientnet_lite2"}))
def test_heat_is_told_by_nets_that_end_in_a_mean_of_maps_and_by_no_other(name):
    net = build_model(name, (48, 48, 3), 3, SETTINGS.get(name))
    model = keras.Sequential([keras.Input((48, 48, 3), dtype="uint8"), net, keras.layers.Softmax()])
    specification = graph_of(folded(model), heat=True).get_concrete_function().structured_outputs
    assert ("heat" in specification) == (name in TELL)
    assert "heat" not in graph_of(model).get_concrete_function().structured_outputs
