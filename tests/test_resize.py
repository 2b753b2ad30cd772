"""Where pixels go and how they are resized: laws for every size, way and interpolation."""

from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from stages.images import resize as resizing
from stages.images.resize import FEW, FILTERS, place, reduction, resize, resize_with_pillow

WAYS = st.sampled_from(["stretch", "pad", "crop"])
INTERPOLATIONS = ["nearest", *FILTERS]
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
@example(2, 47, (14, 71), "crop", 1, 200)
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


# The filters


PHOTO = np.asarray(Image.open(str(files("sklearn") / "datasets/images/china.jpg")))  # 427 x 640
BOXES = [(0, 0, 640, 427), (106.5, 0, 533.5, 427), (3.3, 1.7, 500.1, 420.9), (0.25, 0, 80.5, 60.2)]
# Levels (of 255), on average and at 99 % of the values.
NEAR_PILLOW = {"area": (0.4, 1), "bilinear": (0.2, 1), "bicubic": (0.2, 2), "lanczos": (0.25, 3)}


def as_pillow(pixels, box, size, interpolation):
    return resize_with_pillow(pixels, box, size, FILTERS[interpolation].pillow)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("interpolation", FILTERS)
def test_each_filter_is_pillows(interpolation, channels):
    mean, worst = NEAR_PILLOW[interpolation]
    pixels = PHOTO[..., :channels]
    sizes = [(224, 224), (64, 64), (100, 31), (1, 1), (300, 500)]
    for box, size in product(BOXES, sizes):
        reductions = (box[3] - box[1]) / size[0], (box[2] - box[0]) / size[1]
        if interpolation == "area" and min(reductions) < FEW:
            continue  # no box filter: see below
        found = resize(pixels, box, size, interpolation)
        levels = np.abs(found.astype(int) - as_pillow(pixels, box, size, interpolation))
        assert levels.mean() <= mean, (box, size)
        assert np.quantile(levels, 0.99) <= worst, (box, size)


def covered(start: float, stop: float, source: int, target: int) -> np.ndarray:
    """(target, source): the share that each source pixel has in each output pixel."""
    edges = np.linspace(start, stop, target + 1)[:, None]
    pixel = np.arange(source)
    overlap = np.minimum(edges[1:], pixel + 1) - np.maximum(edges[:-1], pixel)
    return np.maximum(overlap, 0) * target / (stop - start)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (9, 30), (28, 28), (70, 11), (224, 224)])
@pytest.mark.parametrize("box", [(0, 0, 8, 8), (0.3, 1.6, 7.9, 8), (2.5, 2.5, 3.5, 3.5)])
def test_enlarging_by_area_takes_each_pixel_as_far_as_it_is_covered(box, size, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, channels), np.uint8)
    down, across = covered(box[1], box[3], 8, size[0]), covered(box[0], box[2], 8, size[1])
    expected = np.einsum("yh,hwc,xw->yxc", down, pixels, across)
    assert np.abs(resize(pixels, box, size, "area") - expected).max() <= 2


@pytest.mark.parametrize("size", [(400, 600), (300, 640), (350, 440), (287, 430)])
def test_reducing_a_little_by_area_is_near_the_mean_of_what_is_covered(size):
    down, across = covered(0, 427, 427, size[0]), covered(0, 640, 640, size[1])
    expected = np.einsum("yh,hwc,xw->yxc", down, PHOTO, across, optimize=True)
    assert np.abs(resize(PHOTO, (0, 0, 640, 427), size, "area") - expected).mean() < 2


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_reducing_by_area_to_a_whole_part_keeps_the_mean(factor):
    pixels = PHOTO[:420, :600]
    size = 420 // factor, 600 // factor
    assert (
        abs(resize(pixels, (0, 0, 600, 420), size, "area").mean() - pixels.mean()) < 0.5
    )  # rounded twice


@pytest.mark.parametrize("size", [(224, 224), (64, 100), (500, 700), (120, 700), (1, 3)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_the_mirror_image_is_resized_to_the_mirror_image(interpolation, size):
    for axis in (0, 1):
        one, other = (
            np.flip(resize(pixels, (0, 0, 640, 427), size, interpolation), flips)
            for pixels, flips in ((PHOTO, axis), (np.flip(PHOTO, axis), ()))
        )
        assert np.abs(one.astype(int) - other).max() <= 1


@pytest.mark.parametrize("size", [(30, 40), (60, 20), (300, 500), (40, 500), (120, 160)])
def test_so_it_is_by_area_where_no_centre_lies_on_the_edge_of_two(size):
    pixels, box = PHOTO[:120, :160], (0, 0, 160, 120)
    one = resize(pixels, box, size, "area")[:, ::-1]
    assert np.abs(one.astype(int) - resize(pixels[:, ::-1], box, size, "area")).max() <= 1


@pytest.mark.parametrize("interpolation", FILTERS)
def test_every_set_of_instructions_gives_the_same_bytes(interpolation):
    """Those of this processor, and none."""
    cykooz_resizer = pytest.importorskip("cykooz_resizer")
    kind = cykooz_resizer.PixelType.U8x3
    algorithm = cykooz_resizer.ResizeAlg.convolution(
        cykooz_resizer.FilterType[FILTERS[interpolation].fast]
    )
    source = cykooz_resizer.ImageData(640, 427, kind, PHOTO.tobytes())
    for size in [(224, 224), (63, 31), (700, 500), (1, 1)]:
        found = []
        for extensions in (None, cykooz_resizer.CpuExtensions.none):
            resizer, target = cykooz_resizer.Resizer(), cykooz_resizer.ImageData(*size, kind)
            resizer.cpu_extensions = extensions or resizer.cpu_extensions
            resizer.resize(source, target, cykooz_resizer.ResizeOptions(algorithm))
            found.append(target.get_buffer())
        assert found[0] == found[1]


@pytest.mark.parametrize("interpolation", FILTERS)
def test_without_the_fast_library_images_are_resized_as_well(interpolation, monkeypatch):
    mean, worst = NEAR_PILLOW[interpolation]
    for box, size in product(BOXES, [(100, 90), (500, 31)]):
        expected = resize(PHOTO, box, size, interpolation).astype(int)
        with monkeypatch.context() as patch:
            patch.setattr(resizing, "fast", None)
            levels = np.abs(resize(PHOTO, box, size, interpolation) - expected)
        assert levels.mean() <= mean
        assert np.quantile(levels, 0.99) <= worst


@pytest.mark.parametrize("interpolation", FILTERS)
def test_a_large_image_is_resized_in_parts_as_at_once(interpolation, monkeypatch):
    calls = list(product(BOXES, [(224, 224), (31, 100), (500, 700)]))

    def results():
        return [resize(PHOTO, box, size, interpolation) for box, size in calls]

    monkeypatch.setattr(resizing, "PART_BYTES", 2**30)
    at_once = results()
    monkeypatch.setattr(resizing, "PART_BYTES", 50_000)
    for one, other in zip(at_once, results(), strict=True):
        assert np.abs(one.astype(int) - other).mean() < 0.1


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_where_the_pixels_lie_in_memory_and_in_which_thread_makes_no_difference(interpolation):
    box, size = (0, 0, 213, 640), (100, 70)
    spread = np.repeat(PHOTO, 2, axis=2)[::2, :, ::2].transpose(1, 0, 2)[:, :213]
    expected = resize(np.ascontiguousarray(spread), box, size, interpolation)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: resize(spread, box, size, interpolation), range(40)):
            assert np.array_equal(found, expected)
