"""Exported models beside the trained one: from files, in figures, by limits."""

import hashlib
import io
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages import preprocess
from stages.errors import UserError
from stages.inference.parity import compare, from_files, past_limits, speeds, turn
from stages.metrics.paired import Comparison, mcnemar, paired_test
from stages.parameters.export import Limits
from stages.store.image_set import load_image_set
from stages.store.raw import Entry, write_manifest
from stages.store.tables import read_table, write_table

# Chance


def test_mcnemar_is_the_exact_two_sided_test():
    assert mcnemar(0, 0) == 1
    assert mcnemar(5, 5) == 1
    assert mcnemar(9, 1) == mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar(10, 0) == pytest.approx(2 / 2**10)


def test_the_interval_is_that_of_drawing_the_paired_images_again_and_again():
    count, fixed, broken = 400, 30, 10
    test = paired_test(count, fixed, broken)
    change = np.repeat([1, -1, 0], [fixed, broken, count - fixed - broken])
    random = np.random.default_rng(1)
    drawn = [change[random.integers(count, size=count)].mean() for _ in range(4000)]
    assert test.difference == pytest.approx(0.05)
    assert [test.low, test.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.003)
    assert test == paired_test(count, fixed, broken)


def test_a_hundred_thousand_test_images_cost_no_more_than_a_hundred():
    test = paired_test(100_000, 600, 500)
    assert test.low < 0.001 < test.high
    assert test.significant


# Figures

LABELS = np.array([0, 0, 1, 1, 1])
EXPECTED = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3], [0.1, 0.9]], np.float32)
# Of the images the second breaks and the fourth is mended.
ANSWERS = np.array([[0.8, 0.2], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7], [0.1, 0.9]], np.float32)


def test_figures_of_a_comparison_are_those_of_all_images():
    comparison = Comparison()
    comparison.add(LABELS, EXPECTED, ANSWERS)
    assert comparison.figures() == {
        "accuracy": 0.8,
        "agreement": 0.6,
        "largest_difference": 0.4,
        "mean_difference": pytest.approx(0.7 / 5),
        "broken": 1,
        "fixed": 1,
        "mcnemar_p": 1.0,
        "count": 5,
    }


def test_batches_of_any_size_give_the_same_figures():
    whole, parts = Comparison(), Comparison()
    whole.add(LABELS, EXPECTED, ANSWERS)
    for part in (slice(0, 1), slice(1, 1), slice(1, 4), slice(4, 5)):
        parts.add(LABELS[part], EXPECTED[part], ANSWERS[part])
    assert parts.figures() == whole.figures()


def test_small_differences_are_told_by_their_first_digits():
    comparison = Comparison()
    expected = EXPECTED.astype(float)
    comparison.add(LABELS, expected, expected + 1.23456e-7)
    assert comparison.figures()["largest_difference"] == 1.23e-7
    assert comparison.figures()["agreement"] == 1


# Limits


def figures(count=10_000, broken=0, fixed=0, other=0, difference=0.0):
    return {
        "accuracy": 0.9,
        "agreement": round(1 - max(other, broken + fixed) / count, 6),
        "largest_difference": difference,
        "mean_difference": difference / 10,
        "broken": broken,
        "fixed": fixed,
        "mcnemar_p": mcnemar(fixed, broken),
        "count": count,
    }


@pytest.mark.parametrize(
    ("name", "found", "said"),
    [
        ("onnx", figures(difference=1e-4), ""),
        ("onnx", figures(difference=1.01e-4), "differs by 0.000101, more than export.limits.float"),
        ("litert", figures(other=10), ""),
        ("litert", figures(other=11), "another class for 11 of 10,000 test images, more than"),
        # One image, perhaps at a tie, is more than a thousandth of a small test set.
        ("litert", figures(count=359, other=1), ""),
        ("litert", figures(count=359, other=2), "another class for 2 of 359 test images"),
        # Weights of 16 bits are others: only what is said has to be the same.
        ("litert_float16", figures(difference=0.02), ""),
        ("litert_float16", figures(other=11), "litert_float16 says another class"),
        ("litert_int8", figures(difference=0.3, broken=150, fixed=100), ""),
        ("litert_int8", figures(broken=151, fixed=100), "loses 0.51 points of accuracy (51 of"),
        ("litert_int8", figures(count=40, broken=9), "loses 22.50 points"),
    ],
)
def test_what_is_past_a_limit_fails(name, found, said):
    failed, doubtful = past_limits({name: found}, Limits())
    assert not doubtful
    assert len(failed) == bool(said)
    assert said in "".join(failed)


def test_a_loss_that_chance_explains_is_said_and_passes():
    failed, doubtful = past_limits({"litert_int8": figures(count=40, broken=1)}, Limits())
    assert not failed
    assert doubtful == [
        "litert_int8 loses 2.50 points of accuracy (1 of 40 test images, McNemar p = 1), more than "
        "export.limits.int8_loss = 0.005 allows"
    ]


# From files


def photo(number: int) -> tuple[str, bytes]:
    """A file name and its content: several formats, sizes and turns."""
    random = np.random.default_rng(number)
    pixels = random.integers(0, 256, (random.integers(8, 90), random.integers(8, 90), 3), np.uint8)
    kind = ("jpeg", "png", "webp", "bmp")[number % 4]
    exif = Image.Exif()
    exif[0x0112] = 1 + number % 8
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **({"exif": exif} if kind != "bmp" else {}))
    return f"{number % 2}/{number}.{kind}", file.getvalue()


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """data/raw and data/processed of 20 photos, and all but the first five as test images."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("preprocess: {size: [16, 12], color: rgb, resize: crop}")
    raw = Path("data/raw")
    raw.mkdir(parents=True)
    files = dict(sorted(map(photo, range(20))))
    entries = []
    for name, content in files.items():
        shard = f"{'odd' if name > '1' else 'even'}.zip"
        digest = hashlib.sha256(content).digest()
        entries.append(Entry(name, name[0], "", "", digest, shard, name))
        with zipfile.ZipFile(raw / shard, "a") as archive:
            archive.writestr(name, content)
    write_manifest(raw, entries)
    preprocess.main()
    index = read_table("data/processed/index.csv", ["id", "label"]).to_pylist()
    rows = [(row["id"], row["label"]) for row in index[:4:-1]]
    write_table(Path("test.csv"), ["id", "label"], rows)
    return raw, load_image_set("data/processed", "test.csv")


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_every_test_image_is_decoded_from_its_file(photos, batch_size):
    raw, test = photos
    seen = np.zeros(len(test), int)
    for at, images in from_files(raw, test, test.dataset.preprocess, batch_size):
        seen[at] += 1
        assert len(images) <= batch_size
        assert (images == test.images()[at]).all()
    assert (seen == 1).all()


def test_a_file_that_gives_other_pixels_than_the_model_was_judged_by_fails(photos):
    raw, test = photos
    other = test.dataset.preprocess.model_copy(update={"resize": "stretch"})
    with pytest.raises(UserError, match=r"comes out with other pixels.*force preprocess"):
        list(from_files(raw, test, other, 4))


def test_a_raw_folder_without_the_test_images_is_named(photos):
    raw, test = photos
    write_manifest(raw, [])
    with pytest.raises(UserError, match="data/raw lacks 15 test images"):
        list(from_files(raw, test, test.dataset.preprocess, 4))


def brightness(images: np.ndarray) -> np.ndarray:
    bright = images.mean(axis=(1, 2, 3), dtype=np.float32) / 255
    return np.stack([1 - bright, bright], axis=1)


def test_answers_are_compared_with_those_of_the_same_image(photos):
    raw, test = photos
    expected = brightness(test.images())
    classifiers = {"same": brightness, "reversed": lambda images: brightness(images)[:, ::-1]}
    batches = from_files(raw, test, test.dataset.preprocess, 4)
    found = compare(classifiers, batches, test.labels, expected)
    right = (expected.argmax(axis=1) == test.labels).mean()
    assert found["same"]["agreement"] == 1
    assert found["same"]["largest_difference"] == 0
    assert found["same"]["accuracy"] == pytest.approx(right, abs=1e-6)
    assert found["reversed"]["agreement"] == 0
    assert found["reversed"]["accuracy"] == pytest.approx(1 - right, abs=1e-6)
    assert {of["count"] for of in found.values()} == {15}


def test_answers_that_are_no_numbers_are_named(photos):
    raw, test = photos
    batches = from_files(raw, test, test.dataset.preprocess, 4)
    broken = {"onnx": lambda images: np.full((len(images), 2), np.nan, np.float32)}
    with pytest.raises(UserError, match="onnx gives no numbers"):
        compare(broken, batches, test.labels, brightness(test.images()))


def test_speed_is_of_single_images_and_of_a_batch():
    seen = []

    def slow(images):
        seen.append(len(images))
        return brightness(images)

    timers = {"slow": partial(turn, slow), "other": partial(turn, brightness)}
    times = speeds(timers, np.zeros((30, 32, 32, 3), np.uint8))
    assert set(seen) == {1, 30}
    assert times.keys() == {"slow", "other"}
    for of in times.values():
        assert of["milliseconds_per_single_image"] > 0
        assert of["images_per_second"] > 0
