"""When to believe the model: calibration, prediction sets, unlike images, what to label next,
drift."""

import numpy as np
import pytest
from factory import colour_features, colour_images, colour_model
from threadpoolctl import threadpool_limits

from stages.errors import UserError
from stages.inference import trust
from stages.inference.probabilities import observer
from stages.inference.seen import MOST_FEATURES
from stages.metrics.scores import expected_calibration_error, without_temperature
from stages.training.calibrate import HIGHEST, LOWEST, fit_temperature


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def answers(count, seed=0, classes=4, scale=2.0):
    """Logits of a calibrated classifier, and labels drawn as it says."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, scale, (count, classes))
    drawn = (softmax(logits).cumsum(axis=1) > random.random((count, 1))).argmax(axis=1)
    return logits, drawn


# Calibration


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_logits_were_made_with_is_found_and_calibrates(temperature):
    logits, labels = answers(3000)
    found = fit_temperature(logits * temperature, labels)
    assert found == pytest.approx(temperature, rel=0.1)
    probabilities = softmax(logits * temperature / found)
    right = probabilities.argmax(axis=1) == labels
    assert expected_calibration_error(right, probabilities.max(axis=1)) < 0.03


@pytest.mark.parametrize("count", [1, 5, 30])
def test_few_images_all_right_or_all_wrong_move_the_temperature_little(count):
    logits = np.tile([4.0, 0.0, 0.0], (count, 1))
    right, wrong = (fit_temperature(logits, np.full(count, label)) for label in (0, 1))
    assert 0.6 < right < 1
    assert 1 < wrong <= HIGHEST
    assert fit_temperature(100 * logits, np.full(count, 1)) == HIGHEST
    assert fit_temperature(logits / 100, np.full(count, 0)) >= LOWEST


def test_more_images_are_believed_more_than_that_the_temperature_is_one():
    found = []
    for count in (10, 100, 3000):
        logits, labels = answers(count, seed=1)
        found.append(abs(np.log(fit_temperature(3 * logits, labels) / 3)))
    assert found[0] > found[1] > found[2]


def test_a_temperature_can_be_undone_exactly_also_of_a_mean_of_logits():
    views = [answers(50, seed=seed)[0] for seed in (1, 2)]
    together = softmax(sum(views) / 2 / 0.6).astype(np.float32)
    expected = softmax(sum(views) / 2)
    np.testing.assert_allclose(without_temperature(together, 0.6), expected, rtol=1e-3)


# Prediction sets


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_sets_hold_the_right_class_as_often_as_asked(coverage):
    from scipy.stats import betabinom

    held_out, new = 400, 4000
    held = []
    for seed in range(20):
        logits, labels = answers(held_out + new, seed, scale=1.0)
        probabilities = softmax(logits).astype(np.float32)
        threshold = trust.set_threshold(probabilities[:held_out], labels[:held_out], coverage)
        sets = trust.prediction_sets(probabilities[held_out:], threshold)
        held.append(sets[np.arange(new), labels[held_out:]].sum())
    rank = np.ceil((held_out + 1) * coverage)
    low, high = betabinom.ppf([1e-5, 1 - 1e-5], new, rank, held_out + 1 - rank)
    assert all(low <= count <= high for count in held)
    assert np.mean(held) / new == pytest.approx(coverage, abs=0.015)


def test_sets_hold_one_class_where_that_is_right_often_enough():
    probabilities = np.tile([0.6, 0.3, 0.1], (50, 1))
    labels = np.repeat([0, 1], [48, 2])
    threshold = trust.set_threshold(probabilities, labels, 0.9)
    assert trust.prediction_sets(probabilities, threshold).sum(axis=1).tolist() == [1] * 50
    every = trust.set_threshold(probabilities, labels, 0.98)
    assert trust.prediction_sets(probabilities, every)[0].tolist() == [True, True, False]


@pytest.mark.parametrize(("share", "fewest"), [(0.9, 9), (0.95, 19), (0.99, 99), (0.5, 1)])
def test_too_few_images_give_no_threshold(share, fewest):
    assert trust.images_for(share) == fewest
    assert trust.quantile(np.arange(fewest), share) == fewest - 1
    assert trust.quantile(np.arange(fewest - 1), share) is None


def test_the_names_of_a_set_come_most_probable_first_and_can_be_told_apart():
    sets = np.array([[True, False, True], [False, True, False]])
    probabilities = np.array([[0.3, 0.1, 0.6], [0.1, 0.8, 0.1]])
    classes = ["a|b", "c", "d\\"]
    named = list(trust.named(sets, probabilities, classes))
    assert named == [["d\\", "a|b"], ["c"]]
    assert [trust.joined(names) for names in named] == ["d\\\\|a\\|b", "c"]


# Features


def test_one_pass_gives_probabilities_and_what_goes_into_the_last_dense_layer():
    model, images = colour_model(), colour_images(np.arange(7) % 3)
    probabilities, features, *_ = observer(model)(images)
    np.testing.assert_allclose(probabilities, model(images), rtol=1e-5)
    np.testing.assert_allclose(features, colour_features(images), rtol=2e-3)
    averaged, same, *_ = observer(model, "flip_shift")(images)
    np.testing.assert_allclose(same, features, rtol=1e-5)  # of the image as it is
    assert np.abs(averaged - probabilities).max() > 1e-4
    none = observer(model)(images[:0])
    assert [part.shape for part in none[:4]] == [(0, 3), (0, 3), (0,), (0, 3)]
    assert none.heat is None


def test_a_net_without_a_dense_layer_has_the_means_of_its_last_maps():
    import keras

    layers = [
        keras.Input((16, 16, 3), dtype="uint8"),
        keras.layers.Rescaling(1 / 15),
        keras.layers.Conv2D(5, 1),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Softmax(),
    ]
    images = colour_images(np.arange(4) % 3)
    probabilities, features, *_ = observer(keras.Sequential(layers))(images)
    assert probabilities.shape == (4, 5)
    np.testing.assert_allclose(features, colour_features(images), rtol=2e-3)
    _, features, *_ = observer(keras.Sequential([*layers[:2], *layers[3:]]))(images)
    assert features.shape == (4, 3)  # without any kernel: the probabilities


def test_very_many_features_are_folded_and_keep_their_distances():
    import keras

    layers = [keras.Input((64, 64, 3), dtype="uint8"), keras.layers.Flatten()]
    layers += [keras.layers.Dense(2, activation="softmax")]
    images = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    _, features, *_ = observer(keras.Sequential(layers))(images)
    assert features.shape == (8, MOST_FEATURES)
    whole = images.reshape(8, -1).astype(float)
    np.testing.assert_allclose(
        np.linalg.norm(features[1:] - features[0], axis=1),
        np.linalg.norm(whole[1:] - whole[0], axis=1),
        rtol=0.1,
    )


def pixels_model():
    """Six pixels, which are the features, and two classes of which it cannot tell."""
    import keras

    layers = [keras.Input((2, 3, 1), dtype="uint8"), keras.layers.Flatten()]
    layers += [keras.layers.Dense(2, activation="softmax", kernel_initializer="zeros")]
    return keras.Sequential(layers)


def test_classes_never_seen_are_farther_than_those_trained_on():
    """Also where all probabilities are the same."""
    random = np.random.default_rng(0)

    def images(kinds, count=200):
        centres = 150 * np.repeat(np.eye(6)[kinds], count, axis=0)
        noisy = centres + random.integers(0, 40, (len(kinds) * count, 6))
        return noisy.astype(np.uint8).reshape(-1, 2, 3, 1)

    trained, known, unseen = images([0, 1, 2]), images([0, 1, 2]), images([3, 4, 5])
    observe = observer(pixels_model(), "none", trained.reshape(-1, 6).astype(np.float16))
    near, far = observe(known).distance, observe(unseen).distance
    assert near.dtype == np.float32
    assert np.mean(far > trust.quantile(near, 0.99)) > 0.95
    cosines = trust.directions(known.reshape(-1, 6)) @ trust.directions(trained.reshape(-1, 6)).T
    np.testing.assert_allclose(near, 1 - cosines.max(axis=1), atol=2e-5)


def test_distance_takes_black_images_and_knows_when_nothing_is_known():
    black = np.zeros((1, 2, 3, 1), np.uint8)
    assert observer(pixels_model(), "none", np.eye(6))(black).distance == [1]
    assert np.isnan(observer(pixels_model())(black).distance).all()
    with pytest.raises(UserError, match="compares 6 features of an image with 5"):
        observer(pixels_model(), "none", np.eye(5))(black)


def test_directions_have_length_one_or_none():
    odd = np.array([[0, 0], [1e30, 0], [-3, 4], [1e-30, 1e-30]])
    found = trust.directions(odd)
    assert found.dtype == np.float32
    expected = [[0, 0], [1, 0], [-0.6, 0.8], [0.5**0.5, 0.5**0.5]]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_map_shows_the_two_directions_in_which_images_differ_most():
    random = np.random.default_rng(0)
    spread = np.array([0.1, 5, 0.1, 2, 0.1])
    features = (random.normal(0, 1, (500, 5)) * spread + 7).astype(np.float16)
    mean, axes = trust.plane(features)
    np.testing.assert_allclose(np.abs(axes[[1, 3]]), np.eye(2), atol=0.05)
    assert (axes[[1, 3]].diagonal() > 0).all()
    np.testing.assert_allclose(((features - mean) @ axes).std(axis=0), [5, 2], rtol=0.1)
    assert trust.plane(features[:, :1])[1].shape == (1, 2)


@pytest.mark.parametrize("images", [0, 1, 2, 9])
def test_the_map_of_few_images_is_that_of_their_components(images):
    features = np.random.default_rng(images).normal(size=(images, 30))
    _, axes = trust.plane(features)
    assert axes.shape == (30, 2)
    if images > 2:
        _, _, components = np.linalg.svd(features - features.mean(axis=0))
        np.testing.assert_allclose(np.abs(axes.T @ components[:2].T), np.eye(2), atol=1e-6)


def test_an_image_is_compared_with_the_others_not_with_itself():
    features = np.array([[1, 0], [2, 0], [0, 3], [1, 1]])
    expected = [0, 0, 1 - 0.5**0.5, 1 - 0.5**0.5]
    np.testing.assert_allclose(trust.nearest_other(features), expected, atol=1e-6)


# What to label next


def test_images_to_label_next_are_uncertain_and_different():
    random = np.random.default_rng(0)
    # Five groups of near-copies, uncertain; many more images that are certain.
    groups = np.repeat(random.normal(0, 1, (5, 8)), 40, axis=0) + random.normal(0, 0.01, (200, 8))
    features = np.concatenate([groups, random.normal(0, 1, (1000, 8))])
    first = np.concatenate([random.uniform(0.5, 0.55, 200), random.uniform(0.97, 1, 1000)])
    probabilities = np.stack([first, 1 - first], axis=1)
    shortlist = trust.Shortlist(5)
    for at in range(0, 1200, 100):
        part = slice(at, at + 100)
        shortlist.add(range(at, at + 100), probabilities[part], features[part])
    chosen = shortlist.choose()
    assert sorted(at // 40 for at in chosen) == [0, 1, 2, 3, 4]
    again = trust.Shortlist(5)
    again.add(range(1200), probabilities, features)
    assert again.choose() == chosen  # whatever the batches


def test_fewer_images_than_asked_for_are_all_named():
    shortlist = trust.Shortlist(5)
    assert shortlist.choose() == []
    shortlist.add([3, 7], np.array([[0.9, 0.1], [0.6, 0.4]]), np.ones((2, 4)))
    assert shortlist.choose() == [7, 3]


# Drift


def test_splits_of_one_set_seldom_alarm_and_a_shift_always_does():
    random = np.random.default_rng(0)
    features = random.standard_t(5, (400, 12)) * np.arange(1, 13)
    alarms = 0
    for _ in range(20):
        order = random.permutation(400)
        _, p = trust.two_sample_test(features[order[:250]], features[order[250:]])
        alarms += p < trust.ALARM
    assert alarms <= 1
    shifted = features[:100] + 0.5 * np.arange(1, 13)
    auc, p = trust.two_sample_test(features[100:], shifted)
    assert auc > 0.7
    assert p < trust.ALARM


def test_the_drift_test_takes_more_features_than_images_and_ones_that_never_vary():
    random = np.random.default_rng(0)
    features = np.pad(random.normal(0, 1, (50, 100)), [(0, 0), (0, 20)])
    auc, p = trust.two_sample_test(features[:30].astype(np.float16), features[30:])
    assert 0.2 < auc < 0.8
    assert p > trust.ALARM
    assert trust.two_sample_test(features[:30], features[30:] + 1)[1] < trust.ALARM


def test_the_map_does_not_depend_on_the_number_of_threads():
    features = np.random.default_rng(4).standard_normal((600, 1280)).astype(np.float16)
    _, axes = trust.plane(features)
    with threadpool_limits(1):
        _, alone = trust.plane(features)
    np.testing.assert_array_equal(axes, alone)
