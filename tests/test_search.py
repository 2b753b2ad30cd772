"""`make search` runs Optuna's proposals as DVC experiments, and leaves the working tree alone.

The pipeline here is a formula instead of a training: accuracy peaks at epochs = 7.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stages import search
from stages.errors import UserError
from stages.parameters.whole import Parameters
from stages.search import check_keys, past_experiments, read_space

FORMULA = """
import json, pathlib, sys, yaml
epochs = yaml.safe_load(open("params.yaml"))["train"]["epochs"]
if epochs == 13:
    sys.exit("error: 13 is unlucky")
names = [path.name for path in pathlib.Path("photos").glob("*.jpg")]
accuracy = (1 - abs(epochs - 7) / 100) * bool(names)
pathlib.Path("reports").mkdir(exist_ok=True)
json.dump({"val": {"accuracy": accuracy}}, open("reports/scores.json", "w"))
"""
PIPELINE = {
    "stages": {
        "train": {
            "cmd": f"{sys.executable} formula.py",
            "params": ["train"],
            "deps": ["formula.py"],
            "outs": [{"reports/scores.json": {"cache": False}}],
        }
    }
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A DVC project whose photos neither git nor DVC tracks."""
    from dvc.repo import Repo

    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    Repo.init(".").close()
    values = Parameters().model_dump()
    values["download"] |= {"source": "folder", "path": "photos"}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    Path("dvc.yaml").write_text(yaml.safe_dump(PIPELINE))
    Path("formula.py").write_text(FORMULA)
    Path(".gitignore").write_text("/space.yaml\n")
    Path("photos").mkdir()
    Path("photos/cat.jpg").write_bytes(b"a photo")
    Path("photos/.gitignore").write_text("*\n!.gitignore\n")
    name = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "add", "--all"], check=True)
    subprocess.run(["git", *name, "commit", "--quiet", "--message", "start"], check=True)
    monkeypatch.setenv("GIT_COMMITTER_NAME", "A")
    monkeypatch.setenv("GIT_COMMITTER_EMAIL", "a@example.org")

    def run(space: str, trials: int):
        Path("space.yaml").write_text(space)
        monkeypatch.setattr(
            sys, "argv", ["search", "--trials", str(trials), "--space", "space.yaml"]
        )
        search.main()

    return run


def test_trials_are_experiments_and_a_second_search_goes_on_from_them(project, capfd):
    project("train.epochs: {low: 1, high: 12}", trials=1)
    first = capfd.readouterr().out
    project("train.epochs: {low: 1, high: 12}", trials=1)
    second = capfd.readouterr().out

    found = past_experiments()
    assert [experiment.name for experiment in found] == ["search-001", "search-002"]
    accuracies = {}
    for experiment in found:
        epochs = experiment.parameters["train"]["epochs"]
        accuracies[experiment.name] = 1 - abs(epochs - 7) / 100
        assert experiment.scores == {"val.accuracy": accuracies[experiment.name]}
    assert "going on from" not in first
    assert "going on from 1 earlier trials" in second
    best = max(accuracies, key=accuracies.get)
    assert f"best: {best} with val.accuracy = {accuracies[best]:.4f}" in second
    changed = subprocess.run(["git", "status", "--short"], check=True, capture_output=True)
    assert changed.stdout == b""


def test_a_failed_trial_does_not_end_the_search(project, capfd):
    with pytest.raises(UserError, match="no trial succeeded"):
        project("train.epochs: [13]", trials=1)
    said = capfd.readouterr()
    assert "search-001 failed" in said.out
    assert "13 is unlucky" in said.out + said.err


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("train.epoch: [1, 2]", "train.epoch is not a setting; did you mean train.epochs?"),
        ("train.epochs: 3", "train.epochs = 3 is neither a list of choices nor a range"),
        ("train.epochs: {low: 3, high: 1}", "is neither a list of choices nor a range"),
        ("", "names no settings"),
        ("[", "is not valid YAML"),
    ],
)
def test_a_wrong_space_is_one_line(tmp_path, space, message):
    path = tmp_path / "space.yaml"
    path.write_text(space)
    with pytest.raises(UserError) as caught:
        check_keys(read_space(path), Parameters(), path)
    assert message in str(caught.value)


def test_the_shipped_space_names_settings_and_allowed_values():
    space = read_space(search.SPACE)
    check_keys(space, Parameters(), search.SPACE)
    for key, distribution in space.items():
        section, *inner = key.split(".")
        for value in json.loads(json.dumps(ends(distribution))):
            values = {inner[-1]: value}
            for name in reversed(inner[:-1]):
                values = {name: values}
            Parameters.model_validate({section: values})


def ends(distribution) -> list:
    choices = getattr(distribution, "choices", None)
    return list(choices) if choices else [distribution.low, distribution.high]


def test_a_search_without_validation_images_is_one_line():
    parameters = Parameters.model_validate({"split": {"val": 0.0}})
    with pytest.raises(UserError, match=r"split\.val = 0 leaves no validation images"):
        search._metric(parameters)
