"""Experiments of DVC, as the memory of a search."""

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PREFIX = "search-"


@dataclass(frozen=True)
class Experiment:
    """`parameters` and `metrics` are nested as in params.yaml and in the file of metrics."""

    name: str
    parameters: dict
    metrics: dict


def past_experiments(metrics_file: str) -> list[Experiment]:
    """The experiments that searches on the commit at hand have left so far, oldest first."""
    from dvc.repo import Repo

    found = []
    with Repo(".") as repo:
        _, commit = repo.experiments.show()  # the first is the workspace
    for entry in commit.experiments or ():
        data = entry.revs[0].data
        if entry.name.startswith(PREFIX) and data:
            parameters = data.params["params.yaml"].get("data", {})
            metrics = data.metrics.get(metrics_file, {}).get("data", {})
            found.append(Experiment(entry.name, parameters, metrics))
    return sorted(found, key=lambda experiment: experiment.name)


def names() -> Iterator[str]:
    """Names for new experiments, which no experiment has on any commit."""
    from dvc.repo import Repo

    with Repo(".") as repo:
        listed = repo.experiments.ls(all_commits=True)
    taken = {name for experiments in listed.values() for name, _ in experiments}
    numbered = (f"{PREFIX}{number:03}" for number in itertools.count(1))
    return (name for name in numbered if name not in taken)


def run_experiment(name: str, settings: dict, copy: list[str]) -> bool:
    """Run the pipeline as the experiment `name` in a folder of its own; True if it succeeded.

    `settings` are values by dotted key, `copy` paths that the pipeline reads though neither
    git nor DVC tracks them. The working tree stays as it is.
    """
    command = [sys.executable, "-m", "dvc", "exp", "run", "--temp", "--name", name]
    for path in copy:
        command += ["--copy-paths", path]
    for key, value in settings.items():
        command += ["--set-param", f"++{key}={json.dumps(value)}"]
    return subprocess.run(command, check=False).returncode == 0


def untracked(path: str) -> list[str]:
    """What neither git nor DVC tracks of `path`, a relative path: files, and whole folders."""
    command = ["git", "ls-files", "--others", "--directory", "-z", "--", path]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    names = [name.rstrip("/") for name in listed.split("\0") if name]
    return [name for name in names if not Path(f"{name}.dvc").exists()]
