"""Where pixels go: laws that hold for every size, way of resizing and interpolation."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stages.images.resize import SMOOTH, place, reduction, resize

WAYS = st.sampled_from(["stretch", "pad", "crop"])
INTERPOLATIONS = ["area", *SMOOTH]
SIDE, OUTPUT_SIDE = st.integers(1, 5000), st.integers(1, 600)
exhaustive = settings(max_examples=300, derandomize=True, deadline=None)


@exhaustive
@given(SIDE, SIDE, st.tuples(OUTPUT_SIDE, OUTPUT_SIDE), WAYS)
@example(400, 225, (224, 224), "crop")
def test_a_box_lies_inside_the_image_and_its_result_inside_the_output(height, width, size, way):
    (left, top, right, bottom), resized, corner = place(height, width, size, way)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    for start, length, whole in zip(corner, resized, size, strict=True):
        assert start >= 0
        assert length >= 1
        assert start + length <= whole
    if way == "crop":
        assert (right - left) * size[0] == pytest.approx((bottom - top) * size[1])
        assert left + right == pytest.approx(width)
        assert top + bottom == pytest.approx(height)
    else:
        assert (left, top, right, bottom) == (0, 0, width, height)


@pytest.mark.parametrize("size", [(224, 224), (28, 28), (64, 48)])
def test_crop_of_every_width_stays_inside_the_image(size):
    for width in range(1, 4001):
        left, top, right, bottom = place(400, width, size, "crop").box
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= 400


@exhaustive
@given(SIDE, SIDE, st.tuples(OUTPUT_SIDE, OUTPUT_SIDE), WAYS)
def test_reduced_decoding_leaves_more_pixels_than_the_output_needs(height, width, size, way):
    placement = place(height, width, size, way)
    factor = reduction(placement, 1.25)
    left, top, right, bottom = placement.box
    assert factor in (1, 2, 4, 8)
    if factor > 1:
        assert right - left >= 1.25 * factor * placement.resized[1]
        assert bottom - top >= 1.25 * factor * placement.resized[0]


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    st.integers(1, 700),
    st.integers(1, 700),
    st.tuples(st.integers(1, 200), st.integers(1, 200)),
    WAYS,
    st.sampled_from([1, 3]),
    st.integers(0, 255),
)
@example(400, 225, (224, 224), "crop", 3, 9)
@example(1, 5000, (4096, 1), "crop", 1, 9)
@example(5000, 1, (1, 4096), "crop", 1, 9)
@example(5000, 1, (4096, 1), "stretch", 3, 255)
def test_a_flat_image_stays_flat_in_every_size(
    interpolation, height, width, size, way, channels, level
):
    placement = place(height, width, size, way)
    flat = np.full((height, width, channels), level, np.uint8)
    pixels = resize(flat, placement.box, placement.resized, interpolation)
    assert pixels.shape == (*placement.resized, channels)
    assert (pixels == level).all()


@pytest.mark.parametrize("interpolation", [name for name in INTERPOLATIONS if name != "nearest"])
@settings(max_examples=40, derandomize=True, deadline=None)
@given(st.integers(8, 300), st.integers(8, 300), st.tuples(st.integers(4, 90), st.integers(4, 90)))
def test_resizing_all_of_an_image_roughly_keeps_its_mean(interpolation, height, width, size):
    # A smooth picture: what filters do at the edges of a wild one is not about its mean.
    ramp = np.linspace(40, 200, width) + np.linspace(0, 50, height)[:, None]
    pixels = ramp.astype(np.uint8)[..., None]
    placement = place(height, width, size, "stretch")
    small = resize(pixels, placement.box, placement.resized, interpolation)
    assert abs(small.mean() - pixels.mean()) < 4
