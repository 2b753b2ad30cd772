"""Images worth a look are named; a set is not drowned in its own nature."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from stages import download, preprocess, split
from stages.files import IMAGE_ISSUES
from stages.images.fingerprints import APPEARANCE, appearances


def photo(random, width=120, height=90):
    """Something as bright, as rich in contrast and as sharp as photos are."""
    coarse = random.integers(0, 256, (12, 16, 3), np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noise = random.normal(0, 12, (height, width, 1))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def levels(image, low, high):
    return image.point(lambda value: low + value * (high - low) // 255)


def drawing():
    image = Image.new("RGB", (120, 90), "white")
    ImageDraw.Draw(image).text((20, 20), "NOT FOUND\n  404", "grey", font_size=16)
    return image


ODD = {
    "nearly empty": lambda photo: levels(photo, 120, 125),
    "dark": lambda photo: levels(photo, 0, 40),
    "bright": lambda photo: levels(photo, 225, 255),
    "low contrast": lambda photo: levels(photo, 110, 140),
    "few colours": lambda photo: drawing(),
    "blurred": lambda photo: photo.filter(ImageFilter.GaussianBlur(8)),
    "odd size": lambda photo: photo.resize((32, 24), Image.Resampling.BOX),
    "odd aspect": lambda photo: photo.crop((0, 0, 120, 30)),
}


def find(images: dict[str, Image.Image], size=(64, 64), color="rgb") -> list[dict[str, str]]:
    """Run the stages on `images` by path, in the present folder; the lines on single images."""
    for path, image in images.items():
        Path("photos", path).parent.mkdir(parents=True, exist_ok=True)
        image.save(Path("photos", path))
    sections = {
        "download": {"source": "folder", "path": "photos"},
        "preprocess": {"size": list(size), "color": color},
    }
    Path("params.yaml").write_text(json.dumps(sections))
    download.main()
    preprocess.main()
    split.main()
    with open("reports/data_issues.csv", encoding="utf-8", newline="") as file:
        return [line for line in csv.DictReader(file) if line["issue"] in IMAGE_ISSUES]


@pytest.fixture
def plain(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    return {f"{kind}/{n:02}.png": photo(random) for kind in ("cat", "dog") for n in range(20)}


def test_ordinary_photos_are_not_named(plain):
    assert find(plain) == []
    odd = json.loads(Path("reports/data.json").read_text())["odd"]
    assert odd == dict.fromkeys(IMAGE_ISSUES, 0)


def test_each_kind_is_named_once_with_its_value_and_in_the_order_of_kinds(plain):
    random = np.random.default_rng(1)
    odd = {f"cat/{kind}.png": make(photo(random)) for kind, make in ODD.items()}
    lines = find(plain | odd)
    assert [line["issue"] for line in lines] == list(IMAGE_ISSUES)
    for line in lines:
        assert line["path"] == f"cat/{line['issue']}.png"
        assert line["label"] == "cat"
        assert line["side"] in ("train", "val", "test")
        assert line["other_path"] == line["other_side"] == line["distance"] == ""
    value = {line["issue"]: float(line["value"]) for line in lines}
    assert value["nearly empty"] < 12
    assert value["dark"] < 80
    assert value["bright"] > 200
    assert value["odd size"] == pytest.approx(32 * 24 / 1e6, rel=1e-3)
    assert value["odd aspect"] == 4
    counted = json.loads(Path("reports/data.json").read_text())["odd"]
    assert counted == dict.fromkeys(IMAGE_ISSUES, 1)


def test_the_oddest_come_first(plain):
    random = np.random.default_rng(1)
    dark = {f"cat/dark {high}.png": levels(photo(random), 0, high) for high in (60, 30, 45)}
    paths = [line["path"] for line in find(plain | dark)]
    assert paths == ["cat/dark 30.png", "cat/dark 45.png", "cat/dark 60.png"]


@pytest.mark.parametrize("kind", ["dark", "few colours", "blurred"])
def test_what_is_the_nature_of_the_set_is_not_odd(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)

    def image():
        shade = levels(ODD[kind](photo(random)), 0, int(random.integers(200, 256)))
        return shade.crop((0, 0, 112 + int(random.integers(9)), 90))

    lines = find({f"{name}/{n:02}.png": image() for name in "ab" for n in range(15)})
    assert kind not in [line["issue"] for line in lines]


def test_digits_on_black_are_not_odd(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("{}")
    for stage in (download, preprocess, split):
        stage.main()
    assert sum(json.loads(Path("reports/data.json").read_text())["odd"].values()) == 0


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 9, 3), (28, 28, 1), (100, 37, 3)])
def test_an_image_has_the_same_appearance_in_any_company(shape):
    images = np.random.default_rng(0).integers(0, 256, (9, *shape), np.uint8)
    together = appearances(images)
    assert tuple(together) == APPEARANCE
    for row in range(9):
        alone = appearances(images[row : row + 1])
        assert {name: int(alone[name][0]) for name in APPEARANCE} == {
            name: int(together[name][row]) for name in APPEARANCE
        }


def test_appearance_of_pictures_that_can_be_checked_by_hand():
    flat = np.full((40, 40, 3), 128, np.uint8)
    halves = np.zeros((40, 40, 3), np.uint8)
    halves[:, 20:] = 255
    stripes = np.zeros((40, 40, 3), np.uint8)
    stripes[:, ::2] = 255
    found = appearances(np.stack([flat, halves, stripes]))
    assert found["entropy"].tolist() == [0, 100, 100]
    assert found["darkest"].tolist() == [128, 0, 0]
    assert found["brightest"].tolist() == [131, 255, 255]
    # Where halves meet two of 38 columns differ from one neighbour, in stripes all from two.
    assert found["sharpness"].tolist() == [0, 255**2 * 2 // 38, 510**2]
