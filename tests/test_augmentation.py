"""Augmentation varies within its limits, the same way every time, and labels follow."""

import numpy as np
import pytest
import tensorflow as tf

from stages.augmentation import Augmentation
from stages.augmentation.randaugment import OPERATIONS, apply
from stages.augmentation.transforms import Fill, flip_and_crop, resample
from stages.errors import UserError
from stages.parameters.augment import Augment

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (64, 16, 16, 3), np.uint8)
LABELS = np.eye(4, dtype="float32")[RANDOM.integers(0, 4, 64)]
ROWS = np.tile(np.arange(16, dtype=np.uint8)[:, None, None], (64, 1, 16, 1)) * 10
COLUMNS = ROWS.swapaxes(1, 2)


def vary(images=IMAGES, labels=LABELS, seed=0, epoch=0, step=0, turns=None, **settings):
    augmentation = Augmentation(Augment(**settings), images.shape[1:])
    index = tf.range(len(images), dtype=tf.int64)
    turns = np.full(len(images), epoch) if turns is None else turns
    varied, labels = augmentation(tf.constant(images), labels, index, turns, epoch, step, seed)
    return varied.numpy(), labels.numpy()


EVERYTHING = {
    "rotation": 20.0,
    "width_shift": 0.1,
    "height_shift": 0.1,
    "shear": 5.0,
    "zoom": 0.2,
    "horizontal_flip": "alternating",
    "vertical_flip": "random",
    "brightness": 0.3,
    "fill": "reflect",
    "crop_padding": 2,
    "cutout": 4,
    "mixup": 0.2,
    "cutmix": 1.0,
    "randaugment": {"layers": 2, "magnitude": 0.5},
}


def test_nothing_asked_nothing_changed():
    images, labels = vary()
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)
    assert images.dtype == labels.dtype == np.float32


def test_a_batch_depends_on_seed_epoch_and_step_alone():
    first, first_labels = vary(**EVERYTHING, seed=1, epoch=2, step=3)
    again, again_labels = vary(**EVERYTHING, seed=1, epoch=2, step=3)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first_labels, again_labels)
    for other in ({"seed": 2}, {"epoch": 3}, {"step": 4}):
        changed, _ = vary(**EVERYTHING, **{"seed": 1, "epoch": 2, "step": 3, **other})
        assert (changed != first).mean() > 0.5


def test_inside_a_compiled_function_comes_the_same_batch():
    augmentation = Augmentation(Augment(**EVERYTHING), (16, 16, 3))
    compiled = tf.function(augmentation)
    index = tf.range(64, dtype=tf.int64)
    turns, epoch, step = tf.fill([64], tf.constant(2, tf.int64)), tf.constant(2), tf.constant(3)
    images, labels = compiled(tf.constant(IMAGES), LABELS, index, turns, epoch, step, 1)
    expected, expected_labels = vary(**EVERYTHING, seed=1, epoch=2, step=3)
    np.testing.assert_allclose(images, expected, atol=1)
    np.testing.assert_allclose(labels, expected_labels, atol=1e-6)
    assert images.shape == IMAGES.shape


def test_one_compiled_function_takes_batches_of_every_size():
    augmentation = Augmentation(Augment(**EVERYTHING), (16, 16, 3))

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, 16, 16, 3), tf.uint8),
            tf.TensorSpec((None, 4), tf.float32),
            tf.TensorSpec((None,), tf.int64),
        ]
    )
    def compiled(images, labels, index):
        return augmentation(images, labels, index, index, 2, 3, 1)

    for count in (5, 3):
        images, labels = compiled(IMAGES[:count], LABELS[:count], np.arange(count))
        assert images.shape == (count, 16, 16, 3)
        assert labels.shape == (count, 4)


SHOWN_BY = {"fill": {"width_shift": 0.3}}  # what it takes to see a setting


@pytest.mark.parametrize("name", EVERYTHING)
def test_each_setting_changes_images_and_keeps_them_between_0_and_255(name):
    others = SHOWN_BY.get(name, {})
    without, _ = vary(**others, epoch=1)
    images, _ = vary(**others, **{name: EVERYTHING[name]}, epoch=1)
    assert (images != without).any()
    assert images.min() >= 0
    assert images.max() <= 255


def test_alternating_flips_show_each_image_both_ways_in_any_two_turns():
    even, odd, next_even = (
        vary(horizontal_flip="alternating", turns=np.full(64, turn))[0] for turn in range(3)
    )
    np.testing.assert_array_equal(even, next_even)
    np.testing.assert_array_equal(even, odd[:, :, ::-1])
    flipped = (even != IMAGES).any(axis=(1, 2, 3))
    assert 16 < flipped.sum() < 48


def test_alternating_flips_follow_the_turns_of_each_image_whatever_the_epoch():
    turns = np.arange(64) // 2 % 3
    images, _ = vary(horizontal_flip="alternating", turns=turns, epoch=5)
    first, _ = vary(horizontal_flip="alternating")
    np.testing.assert_array_equal(images[turns != 1], first[turns != 1])
    np.testing.assert_array_equal(images[turns == 1], first[turns == 1][:, :, ::-1])


def test_alternating_flips_follow_an_image_through_shuffling():
    augmentation = Augmentation(Augment(horizontal_flip="alternating"), (16, 16, 3))
    order = np.random.default_rng(1).permutation(64)
    turns = np.zeros_like(order)
    shuffled, _ = augmentation(tf.constant(IMAGES[order]), LABELS[order], order, turns, 0, 0, 0)
    np.testing.assert_array_equal(shuffled, vary(horizontal_flip="alternating")[0][order])


@pytest.mark.parametrize(("setting", "axis"), [("horizontal_flip", 2), ("vertical_flip", 1)])
def test_random_flips_turn_about_half_the_images(setting, axis):
    images, _ = vary(**{setting: "random"})
    same = (images == IMAGES).all(axis=(1, 2, 3))
    turned = (images == np.flip(IMAGES, axis)).all(axis=(1, 2, 3))
    assert (same | turned).all()
    assert 16 < turned.sum() < 48


def test_crops_move_by_at_most_the_padding_in_both_directions():
    images, _ = vary(ROWS, crop_padding=3)
    shift = images[:, 8, 8, 0] / 10 - 8
    assert set(shift) == {-3, -2, -1, 0, 1, 2, 3}
    images, _ = vary(COLUMNS, crop_padding=3)
    assert set(images[:, 8, 8, 0] / 10 - 8) == {-3, -2, -1, 0, 1, 2, 3}


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("nearest", [1, 1, 1, 1, 2, 3, 4]),
        ("reflect", [3, 2, 1, 1, 2, 3, 4]),
        ("wrap", [2, 3, 4, 1, 2, 3, 4]),
        ("constant", [9, 9, 9, 1, 2, 3, 4]),
    ],
)
def test_fill_modes_are_the_same_for_crops_and_for_shifts(mode, expected):
    row = np.tile(np.array([1, 2, 3, 4], np.uint8)[None, None, :, None], (200, 4, 1, 1))
    key = tf.constant([1, 2], tf.int64)
    cropped = flip_and_crop(tf.constant(row), None, None, 3, Fill(mode, 9), key).numpy()
    assert expected[:4] in cropped[:, 0, :, 0].tolist()

    shift = tf.constant([[-3.0, 0.0]])
    shifted = resample(tf.constant(row[:1]), tf.eye(2)[None], shift, Fill(mode, 9)).numpy()
    assert shifted[0, 0, :, 0].tolist() == expected[:4]


def spread(values, low, high):
    assert low <= values.min() < low + 0.15 * (high - low)
    assert high - 0.15 * (high - low) < values.max() <= high


@pytest.mark.parametrize(
    ("setting", "picture", "limit"), [("width_shift", COLUMNS, 0.2), ("height_shift", ROWS, 0.2)]
)
def test_shifts_are_shares_of_the_size(setting, picture, limit):
    images, _ = vary(picture, **{setting: limit})
    spread(images[:, 8, 8, 0] / 10 - 8, -0.2 * 16, 0.2 * 16)


def test_zoom_scales_width_and_height_each_for_itself():
    rows, _ = vary(ROWS, zoom=0.3)
    columns, _ = vary(COLUMNS, zoom=0.3)
    heights = (rows[:, 9, 8, 0] - rows[:, 6, 8, 0]) / 30
    widths = (columns[:, 8, 9, 0] - columns[:, 8, 6, 0]) / 30
    spread(heights, 0.7 - 1e-3, 1.3 + 1e-3)
    spread(widths, 0.7 - 1e-3, 1.3 + 1e-3)
    assert abs(np.corrcoef(heights, widths)[0, 1]) < 0.4


def test_rotation_turns_by_degrees_to_either_side():
    rows, _ = vary(ROWS, rotation=30.0)
    angle = np.degrees(np.arcsin(np.clip((rows[:, 8, 9, 0] - rows[:, 8, 6, 0]) / 30, -1, 1)))
    spread(angle, -30.5, 30.5)


def test_shear_slants_by_degrees_to_either_side():
    rows, _ = vary(ROWS, shear=20.0)
    slant = np.degrees(np.arcsin((rows[:, 8, 6, 0] - rows[:, 8, 9, 0]) / 30))
    spread(slant, -20.5, 20.5)


def test_brightness_is_a_factor_within_its_limits():
    images, _ = vary(np.full_like(IMAGES, 100), brightness=0.4)
    assert (images == images[:, :1, :1, :1]).all()
    spread(images[:, 0, 0, 0], 60, 140)


def test_cutout_blanks_one_square_with_the_mean_colour():
    images, _ = vary(cutout=5)
    changed = (images != IMAGES).any(axis=-1)
    assert (changed.sum(axis=(1, 2)) == 25).all()
    where = np.argwhere(changed[0])
    assert np.ptp(where, axis=0).tolist() == [4, 4]
    np.testing.assert_allclose(images[0][changed[0]][0], IMAGES[0].mean((0, 1)), rtol=1e-5)
    assert len({tuple(np.argwhere(one)[0]) for one in changed}) > 20


def test_mixup_mixes_labels_as_it_mixes_images():
    colors = np.zeros_like(IMAGES)
    colors[np.arange(64), ..., 0] = np.argmax(LABELS, -1)[:, None, None] * 50
    images, labels = vary(colors, mixup=1.0)
    np.testing.assert_allclose(labels.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(images[:, 0, 0, 0], labels @ [0, 50, 100, 150], atol=1e-3)
    assert (labels.max(-1) < 0.9).sum() > 10


def test_cutmix_weights_labels_by_the_areas_shown():
    colors = np.zeros_like(IMAGES)
    colors[..., 0] = np.argmax(LABELS, -1)[:, None, None] * 50
    images, labels = vary(colors, cutmix=1.0)
    for image, label in zip(images[..., 0], labels, strict=True):
        shown = [(image == value).mean() for value in (0, 50, 100, 150)]
        np.testing.assert_allclose(label, shown, atol=1e-5)
    assert (labels.max(-1) < 0.9).sum() > 10


def test_mixup_and_cutmix_together_take_turns():
    dark_and_bright = np.where(np.arange(64)[:, None, None, None] % 2, IMAGES * 0, IMAGES * 0 + 200)
    images, _ = vary(dark_and_bright.astype(np.uint8), mixup=1.0, cutmix=1.0)
    blended = ((images > 0) & (images < 200)).any(axis=(1, 2, 3))
    assert 10 < blended.sum() < 54


def operate(name, images, sign=1.0, magnitude=0.5):
    count = len(images)
    nearest = Fill("nearest")
    chosen = tf.fill([count], OPERATIONS.index(name))
    return apply(tf.constant(images), chosen, tf.fill([count], sign), magnitude, nearest).numpy()


def test_randaugment_operations_do_what_they_are_called():
    x = IMAGES[:4] // 2 + 20  # neither full contrast nor saturated
    np.testing.assert_array_equal(operate("identity", x), x)
    np.testing.assert_array_equal(operate("posterize", x), x // 4 * 4)
    np.testing.assert_array_equal(operate("solarize", x), np.where(x < 128, x, 255 - x))
    np.testing.assert_allclose(operate("brightness", x, -1.0), x * 0.55, atol=0.51)
    stretched = operate("auto_contrast", x)
    assert (stretched.min((1, 2)) == 0).all()
    assert (stretched.max((1, 2)) == 255).all()
    mean = (x.mean((1, 2)) @ [0.299, 0.587, 0.114])[:, None, None, None]
    contrast = operate("contrast", x)
    np.testing.assert_allclose(contrast, np.clip(mean + (x - mean) * 1.45, 0, 255), atol=0.51)
    grey = operate("color", x, -1.0, 1.0).astype(float)
    assert np.ptp(grey, axis=-1).mean() < 0.2 * np.ptp(x, axis=-1).mean()
    assert operate("sharpness", x, -1.0).std() < x.std() < operate("sharpness", x).std()
    np.testing.assert_array_equal(
        operate("translate_x", x, 1.0, 1 / (0.45 * 16))[:, :, :-1], x[:, :, 1:]
    )
    np.testing.assert_array_equal(
        operate("translate_y", x, -1.0, 1 / (0.45 * 16))[:, 1:], x[:, :-1]
    )
    for name in ("rotate", "shear_x", "shear_y"):
        assert (operate(name, x) != x).mean() > 0.2


def test_equalize_spreads_values_evenly():
    skewed = (RANDOM.random((2, 64, 64, 3)) ** 2 * 255).astype(np.uint8)
    counts, _ = np.histogram(operate("equalize", skewed), 4, (0, 256))
    assert counts.max() / counts.min() < 1.6
    assert np.histogram(skewed, 4, (0, 256))[0].max() / counts.max() > 1.5


def test_randaugment_leaves_flat_and_grey_images_whole():
    flat = np.full((30, 8, 8, 1), 77, np.uint8)
    images, _ = vary(
        flat, np.ones((30, 1)), randaugment={"layers": 3, "magnitude": 0.3}, brightness=0.0
    )
    assert np.isfinite(images).all()
    assert (images == images[:, :1, :1]).all()


def test_variants_of_one_image_differ_and_can_be_shown():
    augmentation = Augmentation(Augment(horizontal_flip="alternating", crop_padding=2), (16, 16, 3))
    variants = augmentation.variants(IMAGES[0], 20, 0)
    assert variants.shape == (20, 16, 16, 3)
    assert variants.dtype == np.uint8
    assert len({variant.tobytes() for variant in variants}) > 10
    np.testing.assert_array_equal(variants, augmentation.variants(IMAGES[0], 20, 0))


def test_only_settings_that_vary_something_count_as_active():
    assert not Augmentation(Augment(fill="wrap", fill_value=3), (16, 16, 3)).active
    for name, value in EVERYTHING.items():
        if name != "fill":
            assert Augmentation(Augment(**{name: value}), (16, 16, 3)).active


@pytest.mark.parametrize("name", ["crop_padding", "cutout"])
def test_what_is_larger_than_the_images_is_an_error(name):
    with pytest.raises(UserError, match=f"augment.{name} = 16 must be less than the 16x20"):
        Augmentation(Augment(**{name: 16}), (16, 20, 1))
