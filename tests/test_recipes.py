"""Recipes say what is special about a known job, and `make recipe` writes its params.yaml.

The known data sets are downloads, so each recipe runs here on a small set with the same
layout: the same classes, sides and kind of images, for a few steps.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from stages.errors import UserError
from stages.parameters.whole import read_parameters
from stages.recipe import changes, write_recipe

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "recipes"
RECIPES = {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}
OVERLAYS = sorted(set(RECIPES) - {"digits"})
STAGES = (
    *("download", "preprocess", "split", "features"),
    *("train", "evaluate", "export", "plot"),
)

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


def settings(name: str) -> dict:
    """All settings of recipe `name`."""
    return yaml.safe_load(write_recipe(name, FOLDER))


def test_every_recipe_is_tried_here():
    assert set(RECIPES) == {*LAYOUTS, "digits"}


def test_params_yaml_is_the_digits_recipe():
    params = (ROOT / "params.yaml").read_bytes()
    assert write_recipe("digits", FOLDER).encode() == params, "run: make recipe NAME=digits"
    assert RECIPES["digits"].read_bytes() == params


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_begins_with_what_it_is_and_the_command_that_runs_it(name):
    text = RECIPES[name].read_text(encoding="utf-8")
    head = text.split("\n\n")[0].splitlines()
    assert all(line.startswith("#") for line in head)
    assert head[0].endswith((".", "?"))
    assert head[2] == f"#     make recipe NAME={name} && dvc repro"
    assert write_recipe(name, FOLDER).split("\n\n")[0].splitlines() == head


def different(values: dict, default: dict) -> dict:
    """The entries of `values` that differ from `default`, section by section."""
    found = {}
    for key, value in values.items():
        if isinstance(value, dict) and default[key]:
            value = different(value, default[key]) or default[key]
        if value != default[key]:
            found[key] = value
    return found


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_recipe_names_what_differs_from_the_default_and_nothing_else(name):
    text = RECIPES[name].read_text(encoding="utf-8")
    assert 8 <= len(text.splitlines()) <= 40
    assert yaml.safe_load(text) == different(settings(name), settings("digits"))


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_line_of_the_default_stays_but_for_the_values_that_the_recipe_names(name):
    default = write_recipe("digits", FOLDER).split("\n\n", 1)[1].splitlines()
    written = write_recipe(name, FOLDER).split("\n\n", 1)[1].splitlines()
    assert len(default) == len(written)
    changed = [
        (before.split(":")[0], after.split(":")[0])
        for before, after in zip(default, written, strict=True)
        if before != after
    ]
    assert all(before == after for before, after in changed)  # the key, and no comment
    lines = changes(write_recipe("digits", FOLDER), write_recipe(name, FOLDER))
    said = [line.split(":")[0].split(".")[-1] for line in lines]
    assert said == [key.strip() for key, _ in changed]


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_model_has_the_stated_number_of_parameters(name, tmp_path):
    from stages.architectures import build_model

    path = tmp_path / "params.yaml"
    path.write_text(write_recipe(name, FOLDER), encoding="utf-8")
    parameters = read_parameters(path)
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
    values = settings(name)
    values["download"] |= {"source": "folder", "path": "data/inbox"}
    values["train"]["epochs"] = 2 if values["train"]["save_epochs"] else 1
    values["train"]["batch_size"] = min(values["train"]["batch_size"], 16)
    values["train"]["debug"]["max_steps"] = 2
    if values["split"]["val"]:  # an image of each class
        values["split"]["val"] = max(values["split"]["val"], 0.2)
    for group in values["train"]["optimizer"]["groups"]:
        group.pop("epochs", None)
    values["train"]["fine_tune"]["frozen_epochs"] = 0
    values["plot"] |= {"samples": 4, "mistakes": 4}
    values["evaluate"]["grad_cam"] = min(values["evaluate"]["grad_cam"], 2)
    if values["model"]["weights"] == "bundled":  # takes images of any size
        values["preprocess"]["size"] = [64, 64]
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
    with open("reports/curves/per_class.csv", encoding="utf-8", newline="") as file:
        assert [row["class"] for row in csv.DictReader(file)] == classes
    assert ("val" in metrics) == ("val" in sides or values["split"]["val"] > 0)
    if name in PARAMETERS:
        assert metrics["model"]["parameters"] == PARAMETERS[name]
    if "extra" in sides:
        rows = Path("reports/curves/extra.csv").read_text().splitlines()
        assert len(rows) == 1 + values["train"]["epochs"]
        assert metrics["extra"]["count"] == sides["extra"] * len(classes)
    assert Path("reports/report.html").stat().st_size > 10_000


@pytest.fixture
def project(tmp_path) -> Path:
    """A git repository with the default params.yaml committed, in which `make recipe` works."""
    for name in ("Makefile", "requirements.txt", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(FOLDER, tmp_path / "recipes")
    (tmp_path / "stages").symlink_to(ROOT / "stages")
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (tmp_path / ".venv/.installed").touch()
    (tmp_path / ".gitignore").write_text("*\n!params.yaml\n!recipes\n!recipes/*\n")
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    return tmp_path


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True)


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "A state")


def make_recipe(folder: Path, name: str = "", force: str = "", code: int = 0) -> list[str]:
    """Lines that `make recipe` prints, and where it fails those of standard error."""
    given = [f"NAME={name}"] * bool(name) + [f"FORCE={force}"] * bool(force)
    environment = {key: value for key, value in os.environ.items() if key not in ("NAME", "FORCE")}
    command = ["make", "--no-print-directory", "recipe", *given]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode != 0) == (code != 0), done.stdout + done.stderr
    if code == 0:
        assert done.stderr == ""
        return done.stdout.splitlines()
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 2  # ours, and that make reports the failure
    assert lines[0].startswith("error: ")
    return lines


def test_make_recipe_writes_params_yaml_and_says_what_changes(project):
    said = make_recipe(project, "mnist")
    assert (project / "params.yaml").read_text() == write_recipe("mnist", FOLDER)
    assert said == [
        "download.source: digits -> mnist",
        "split.seed: 1 -> 0",
        "split.val: 0.1 -> 0.0",
        "augment.rotation: 10.0 -> 0.0",
        "augment.width_shift: 0.1 -> 0.0",
        "augment.height_shift: 0.1 -> 0.0",
        "augment.zoom: 0.1 -> 0.0",
        "train.epochs: 15 -> 5",
        "train.batch_size: 32 -> 64",
        "train.optimizer.name: adam -> rmsprop",
        "train.optimizer.learning_rate: 0.004 -> 0.001",
        "train.schedule.name: one_cycle -> constant",
        "train.schedule.warmup: 0.3 -> 0.0",
        "train.schedule.start: 0.04 -> 0.0",
        "train.monitor: val/accuracy -> last",
        'export.formats: ["litert"] -> []',
        "params.yaml is recipes/mnist.yaml now; next: dvc repro",
    ]


def test_every_recipe_can_follow_every_other(project):
    for name in (*RECIPES, "digits"):
        make_recipe(project, name)
        assert read_parameters(project / "params.yaml")
        assert (project / "params.yaml").read_text() == write_recipe(name, FOLDER)
        commit(project)
    assert (project / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_changes_name_lists_and_architecture_settings_whole():
    lines = list(changes(write_recipe("mnist", FOLDER), write_recipe("cifar10", FOLDER)))
    assert 'model.settings: {} -> {"widths": [96, 256, 384]}' in lines
    assert 'train.image_sizes: [] -> [{"until": 0.5, "size": 24}]' in lines
    assert "preprocess.size: [28, 28] -> [32, 32]" in lines


def test_settings_that_are_not_saved_in_git_are_kept_unless_told_otherwise(project):
    params = project / "params.yaml"
    mine = params.read_text().replace("epochs: 15", "epochs: 16")
    params.write_text(mine)
    (line, _) = make_recipe(project, "mnist", code=1)
    assert line == (
        "error: params.yaml has settings that are not saved in git; commit them, or replace "
        "them for good: make recipe NAME=mnist FORCE=1"
    )
    git(project, "add", "params.yaml")
    make_recipe(project, "mnist", code=1)  # staged is not committed
    make_recipe(project, "mnist", force="0", code=1)
    assert params.read_text() == mine
    assert sorted(path.name for path in project.glob(".params*")) == []

    said = make_recipe(project, "mnist", force="1")
    assert "train.epochs: 16 -> 5" in said
    assert params.read_text() == write_recipe("mnist", FOLDER)


def test_settings_saved_in_git_are_replaced_and_can_be_had_back(project):
    params = project / "params.yaml"
    mine = params.read_text().replace("epochs: 15", "epochs: 16")
    params.write_text(mine)
    commit(project)
    assert "train.epochs: 16 -> 5" in make_recipe(project, "mnist")
    git(project, "checkout", "--quiet", "params.yaml")
    assert params.read_text() == mine


def test_without_git_or_with_params_yaml_unknown_to_git_nothing_is_overwritten(project):
    params = project / "params.yaml"
    git(project, "rm", "--quiet", "--cached", "params.yaml")
    git(project, "commit", "--quiet", "--message", "Forget it")
    make_recipe(project, "mnist", code=1)
    shutil.rmtree(project / ".git")
    make_recipe(project, "mnist", code=1)
    assert params.read_bytes() == RECIPES["digits"].read_bytes()
    params.unlink()
    assert make_recipe(project, "mnist") == [
        "params.yaml is recipes/mnist.yaml now; next: dvc repro"
    ]
    assert make_recipe(project, "mnist") == ["params.yaml is recipes/mnist.yaml already"]


def test_make_recipe_without_a_name_lists_them_with_their_first_lines(project):
    said = make_recipe(project)
    assert [line.split()[0] for line in said] == sorted(RECIPES)
    (line,) = [line for line in said if line.startswith("mnist ")]
    assert line.split(maxsplit=1)[1] == "MNIST, handwritten digits, with a small convnet."


MINE = """\
# Mine.
train:
  optimizer:
    learning_rate: 5e-4  # small
    groups:
      - match: bias
        epochs: 3

# A note.
model:
  settings:
    dropout: 0.1
"""


def test_a_recipe_of_ones_own_may_be_written_in_any_style(project):
    (project / "recipes/mine.yaml").write_text(MINE)
    said = make_recipe(project, "mine")
    assert said[:2] == [
        'model.settings: {} -> {"dropout": 0.1}',
        "train.optimizer.learning_rate: 0.004 -> 0.0005",
    ]
    text = (project / "params.yaml").read_text()
    assert text.startswith("# Mine.\n\n# Every setting of the pipeline is here.")
    assert "    groups: [{match: bias, epochs: 3}]\n" in text
    assert "A note" not in text
    parameters = read_parameters(project / "params.yaml")
    assert parameters.train.optimizer.learning_rate == 0.0005
    assert parameters.train.optimizer.groups[0].epochs == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {epoch: 3}", "mine.yaml: train.epoch is not a setting; did you mean epochs?"),
        ("trian: {epochs: 3}", "mine.yaml: trian is not a setting; did you mean train?"),
        ("plot: {0: 3}", "mine.yaml: plot.0 is not a setting; known keys: samples, mistakes, pag"),
        ("train: 3", "mine.yaml: train = 3: should be a section, with settings like seed"),
        ("train:", "mine.yaml: train = null: should be a section, with settings like seed"),
        ("train: {epochs: 0}", "mine.yaml: train.epochs = 0: input should be greater than or"),
        ("split: {val: 0.9}", "mine.yaml: split: val + test = 1.1 leaves no images to train on"),
        ("train: [", "mine.yaml is not valid YAML"),
        ("train: {epochs: 1, epochs: 2}", "mine.yaml is not valid YAML"),
        ("nonsense", "mine.yaml should have lines like train: {epochs: 5}, not 'nonsense'"),
        ("[]", "mine.yaml should have lines like"),
        (b"# \xff", "mine.yaml is not UTF-8 text"),
    ],
)
def test_a_mistake_in_a_recipe_is_one_line_and_params_yaml_stays(project, text, message):
    (project / "recipes/mine.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    (line, _) = make_recipe(project, "mine", code=1)
    assert f"recipes/{message}" in line
    assert (project / "params.yaml").read_bytes() == RECIPES["digits"].read_bytes()
    assert list(project.glob(".params*")) == []


def test_an_unknown_recipe_is_one_line_with_the_one_that_was_meant(project):
    (line, _) = make_recipe(project, "mnits", code=1)
    assert line == "error: there is no recipes/mnits.yaml; did you mean mnist?"
    with pytest.raises(UserError, match=r"no .*/zebra\.yaml; known: blood-cells, cifar10,"):
        write_recipe("zebra", FOLDER)
