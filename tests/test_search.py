"""`make search` runs Optuna's proposals as DVC experiments, and leaves the working tree alone.

The pipeline here is a formula instead of a training: accuracy peaks at epochs = 7.
"""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stages import search
from stages.errors import UserError
from stages.parameters.whole import Parameters
from stages.search import check_keys, importances, past_experiments, ranked, read_space

FORMULA = """
import json, pathlib, sys, yaml
epochs = yaml.safe_load(open("params.yaml"))["train"]["epochs"]
if epochs == 13:
    sys.exit("error: 13 is unlucky")
names = [path.name for path in pathlib.Path("photos").glob("*.jpg")]
accuracy = (1 - abs(epochs - 7) / 100) * bool(names)
pathlib.Path("reports").mkdir(exist_ok=True)
json.dump({"val": {"accuracy": accuracy, "loss": epochs / 10}}, open("reports/scores.json", "w"))
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
    Path(".gitignore").write_text("/space.yaml\n/reports/search.csv\n")
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
        assert experiment.scores["val.accuracy"] == accuracies[experiment.name]
    assert "going on from" not in first
    assert "going on from 1 earlier trials" in second
    best = max(accuracies, key=accuracies.get)
    assert f"best: {best} with val.accuracy = {accuracies[best]:.4f}" in second
    changed = subprocess.run(["git", "status", "--short"], check=True, capture_output=True)
    assert changed.stdout == b""

    with open("reports/search.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["trial", "val.accuracy", "val.loss", "seconds", "train.epochs"]
    ordered = sorted(accuracies, key=accuracies.get, reverse=True)
    assert [row["trial"] for row in rows] == [*ordered, "importance"]
    assert all(float(row["seconds"]) > 0 for row in rows[:2])  # the earlier trial's too
    assert rows[-1]["train.epochs"] == "1.00"
    header = next(line for line in second.splitlines() if line.startswith("trial "))
    assert header.split() == ["trial", "val.accuracy", "val.loss", "seconds", "epochs"]


def study_of(trials, direction="maximize"):
    """A study of trials given as (name, value, loss, epochs)."""
    import optuna

    space = {"train.epochs": optuna.distributions.IntDistribution(1, 99)}
    study = optuna.create_study(direction=direction)
    for name, value, loss, epochs in trials:
        study.add_trial(
            optuna.trial.create_trial(
                params={"train.epochs": epochs},
                distributions=space,
                value=value,
                user_attrs={"name": name, "loss": loss},
            )
        )
    return study


@pytest.mark.parametrize(("direction", "best_first"), [("maximize", "cbad"), ("minimize", "badc")])
def test_of_equal_trials_the_one_with_the_lower_loss_is_better(direction, best_first):
    trials = [("a", 0.5, 0.4, 1), ("b", 0.5, 0.3, 2), ("c", 0.9, 9.0, 3), ("d", 0.5, None, 4)]
    ordered = ranked(study_of(trials, direction))
    assert "".join(trial.user_attrs["name"] for trial in ordered) == best_first


def test_no_setting_matters_while_all_trials_are_equal():
    assert importances(study_of([("a", 0.5, 0.1, 1), ("b", 0.5, 0.2, 9)])) == {}
    study = study_of([("a", 0.5, 0.1, 1), ("b", 0.6, 0.2, 9), ("c", 0.7, 0.2, 19)])
    assert importances(study) == {"train.epochs": 1.0}


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
