"""Every recipe is a complete params.yaml that runs from images to report.

The known data sets are downloads, so each recipe runs here on a small set with the same
layout: the same classes, sides and kind of images, for a few steps.
"""

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from stages.parameters import read_parameters

ROOT = Path(__file__).parent.parent
RECIPES = {path.stem: path for path in sorted(ROOT.glob("recipes/*.yaml"))}
STAGES = ("download", "preprocess", "split", "train", "evaluate", "plot")

DIGITS = [str(digit) for digit in range(10)]
PHOTOS = ["cars", "elephants"]
CELLS = ["EOSINOPHIL", "LYMPHOCYTE", "MONOCYTE", "NEUTROPHIL"]
# recipe: classes, images a class on each declared side ("" is none), width and height, mode
CIFAR10 = (DIGITS, {"train": 8, "test": 2}, (32, 32), "RGB")
MNIST = (DIGITS, {"train": 8, "test": 2}, (28, 28), "L")
LAYOUTS = {
    "cifar10": CIFAR10,
    "cifar10-fast": CIFAR10,
    "cifar10-gap": CIFAR10,
    "cifar10-two-part": CIFAR10,
    "mnist": MNIST,
    "fashion-mnist": MNIST,
    "elephants-vs-cars": (
        ["cars", "elephants"],
        {"train": 8, "val": 3, "extra": 4},
        (90, 60),
        "RGB",
    ),
    "blood-cells": (CELLS, {"": 6}, (320, 240), "RGB"),
    "own-photos": (["cats", "dogs", "owls"], {"": 7}, (80, 60), "RGB"),
}
PARAMETERS = {
    "cifar10-gap": 68_026,
    "cifar10-two-part": 356_810,
    "mnist": 93_322,
    "fashion-mnist": 93_322,
    "digits": 93_322,
    "elephants-vs-cars": 5_046_369,
    "blood-cells": 10_250_788,
}


def test_every_recipe_is_tried_here():
    assert set(RECIPES) == {*LAYOUTS, "digits"}


def test_the_default_is_the_digits_recipe():
    assert RECIPES["digits"].read_bytes() == (ROOT / "params.yaml").read_bytes()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_begins_with_the_command_that_runs_it(name):
    top = RECIPES[name].read_text(encoding="utf-8").split("\n\n")[0]
    assert f"#     cp recipes/{name}.yaml params.yaml && dvc repro" in top.splitlines()


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_model_has_the_stated_number_of_parameters(name):
    from stages.architectures import build_model

    parameters = read_parameters(RECIPES[name])
    channels = 3 if parameters.preprocess.color == "rgb" else 1
    classes = 10 if name not in LAYOUTS else len(LAYOUTS[name][0])
    model = build_model(
        parameters.model.name,
        (*parameters.preprocess.size, channels),
        1 if parameters.model.output == "sigmoid" else classes,
        parameters.model.settings,
    )
    assert model.count_params() == PARAMETERS[name]


def test_a_recipe_that_states_its_parameters_states_the_tested_number():
    for name, count in PARAMETERS.items():
        if name != "digits":
            assert f"{count:,} parameters" in RECIPES[name].read_text(encoding="utf-8")


def make_images(folder: Path, classes, sides, size, mode) -> None:
    """Noise around a shade for each class, in folders as the layout has them."""
    random = np.random.default_rng(0)
    for number, label in enumerate(classes):
        for side, count in sides.items():
            target = folder / side / label
            target.mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 100, (size[1], size[0], 3), np.uint8) + 15 * number
                image = Image.fromarray(pixels.astype(np.uint8)).convert(mode)
                image.save(target / f"{index:03}.{'png' if mode == 'L' else 'jpg'}")


def shrunk(name: str) -> dict:
    """The recipe's settings, for a few steps on images in data/inbox."""
    values = yaml.safe_load(RECIPES[name].read_text(encoding="utf-8"))
    values["download"] |= {"source": "folder", "path": "data/inbox"}
    values["train"]["epochs"] = 2 if values["train"]["save_epochs"] else 1
    values["train"]["batch_size"] = min(values["train"]["batch_size"], 16)
    values["train"]["debug"]["max_steps"] = 2
    for group in values["train"]["optimizer"]["groups"]:
        group.pop("epochs", None)
    values["train"]["fine_tune"]["frozen_epochs"] = 0
    values["plot"] |= {"samples": 4, "mistakes": 4}
    values["evaluate"]["grad_cam"] = min(values["evaluate"]["grad_cam"], 2)
    if values["model"]["weights"] == "imagenet":  # a download
        values["model"]["weights"] = None
        values["model"]["settings"]["network"] = "MobileNet"  # a third of the layers
        values["preprocess"]["size"] = [32, 32]
    return values


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_recipe_runs_from_images_to_report(name, tmp_path, monkeypatch):
    classes, sides, *kind = LAYOUTS[name]
    monkeypatch.chdir(tmp_path)
    make_images(Path("data/inbox"), classes, sides, *kind)
    values = shrunk(name)
    Path("params.yaml").write_text(yaml.safe_dump(values))
    for stage in STAGES:
        import_module(f"stages.{stage}").main()

    metrics = json.loads(Path("reports/metrics.json").read_text())
    total = sum(sides.values())
    declared = sides.get("test", round(values["split"]["test"] * sides.get("train", total)))
    assert metrics["test"]["count"] == pytest.approx(declared * len(classes), abs=len(classes))
    assert list(metrics["test"]["per_class"]) == classes
    assert ("val" in metrics) == ("val" in sides or values["split"]["val"] > 0)
    if name in PARAMETERS:
        assert metrics["model"]["parameters"] == PARAMETERS[name]
    if "extra" in sides:
        rows = Path("reports/curves/extra.csv").read_text().splitlines()
        assert len(rows) == 1 + values["train"]["epochs"]
        assert metrics["extra"]["count"] == sides["extra"] * len(classes)
    assert Path("reports/report.html").stat().st_size > 10_000
