"""make search TRIALS=20: look for better settings; each trial is an experiment of DVC.

Optuna proposes settings out of a space (stages/search.yaml) and learns from the results
so far, those of earlier searches on the same commit included. Only the validation images
judge: choosing by test accuracy would spoil it as a measure.

    dvc exp show                  the trials beside one another
    dvc exp apply search-007      take over the settings and results of one

It ends with a table of all trials and how much each setting matters, kept in reports/search.csv.
That is a view of the experiments, which git does not track and no stage reads: it survives
`dvc exp apply`, and `make search TRIALS=0` writes it anew.
"""

import argparse
import difflib
import itertools
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.arguments import Parser, count
from stages.errors import UserError, run
from stages.files import SCORES, SEARCH
from stages.parameters.whole import Parameters, read_parameters
from stages.parameters.yaml_file import read_yaml
from stages.store.names import flatten
from stages.store.tables import read_table, write_table

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

SPACE = Path(__file__).with_name("search.yaml")
PREFIX = "search-"
LOSS = "val.loss"  # of trials with the same figure, the one with the lower loss is better


@dataclass(frozen=True)
class Experiment:
    """`parameters` nested as in params.yaml, `scores` of the file of scores by dotted name."""

    name: str
    parameters: dict[str, Any]
    scores: dict[str, Any]


def main() -> None:
    import optuna

    arguments = _arguments()
    parameters = read_parameters()
    space = read_space(arguments.space)
    check_keys(space, parameters, arguments.space)
    metric = _metric(parameters)

    past = past_experiments()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="minimize" if metric.endswith("loss") else "maximize",
        sampler=optuna.samplers.TPESampler(seed=len(past)),  # reproducible, yet not a repetition
    )
    known = sum(_learn(study, experiment, space, metric) for experiment in past)
    if known:
        print(f"going on from {known} earlier trials", flush=True)

    new_names, seconds = names(), _seconds_of_earlier_trials()
    for number in range(1, arguments.trials + 1):
        trial = study.ask(space)
        settings = {key: _short(value) for key, value in trial.params.items()}
        name = next(new_names)
        trial.set_user_attr("name", name)
        start = time.monotonic()
        described = ", ".join(f"{key}={value}" for key, value in settings.items())
        print(f"{name} ({number} of {arguments.trials}): {described}", flush=True)
        scores = _run(name, settings, parameters)
        trial.set_user_attr("loss", scores.get(LOSS))
        seconds[name] = f"{time.monotonic() - start:.1f}"
        value = scores.get(metric)
        if value is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            lacks = f": it has no {metric} in {SCORES}" if scores else ""
            print(f"{name} failed{lacks}", flush=True)
        else:
            study.tell(trial, value)
            print(f"{name}: {metric} = {value:.4f}", flush=True)
    _summary(study, metric, list(space), seconds)


def _arguments() -> argparse.Namespace:
    parser = Parser("search", __doc__)
    parser.add_argument("--trials", type=count, default=20, help="how many to run now")
    parser.add_argument("--space", type=Path, default=SPACE, help="YAML file of what to vary")
    return parser.parse_args()


def _metric(parameters: Parameters) -> str:
    """The figure of reports/scores.json that judges a trial: the one that judges an epoch."""
    if parameters.split.val == 0:
        raise UserError("split.val = 0 leaves no validation images to judge trials by; try 0.1")
    monitor = parameters.train.monitor
    return "val.accuracy" if monitor == "last" else monitor.replace("/", ".")


def _learn(
    study: "Study", experiment: Experiment, space: "dict[str, BaseDistribution]", metric: str
) -> bool:
    """Tell `study` of an earlier experiment; False if it does not fit the space of now."""
    import optuna

    try:
        trial = optuna.trial.create_trial(
            params={key: look_up(experiment.parameters, key) for key in space},
            distributions=space,
            value=experiment.scores.get(metric),
            user_attrs={"name": experiment.name, "loss": experiment.scores.get(LOSS)},
        )
    except ValueError:
        return False
    study.add_trial(trial)
    return True


def _run(name: str, settings: dict[str, Any], parameters: Parameters) -> dict[str, Any]:
    """The scores that the experiment `name` reaches; empty if it failed."""
    if not run_experiment(name, settings, _untracked_inputs(parameters)):
        return {}
    made = [experiment for experiment in past_experiments() if experiment.name == name]
    return made[0].scores if made else {}


def _untracked_inputs(parameters: Parameters) -> list[str]:
    """What an experiment, which runs in a folder of its own, would miss there."""
    paths = [parameters.download.path, parameters.model.weights]
    relative = [path for path in paths if path and not Path(path).is_absolute()]
    return [name for path in relative if Path(path).exists() for name in untracked(path)]


def _short(value: Any) -> Any:
    """Four digits are enough for a setting, and easier to read."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


# What came of it


def _summary(study: "Study", metric: str, keys: list[str], seconds: dict[str, str]) -> None:
    trials = ranked(study)
    if not trials:
        raise UserError("no trial succeeded; the messages above say why")
    rows = []
    for trial in trials:
        name, loss = trial.user_attrs["name"], trial.user_attrs["loss"]
        row = {"trial": name, metric: f"{trial.value:.4f}"}
        row |= {LOSS: "" if loss is None else f"{loss:.4f}", "seconds": seconds.get(name, "")}
        rows.append(row | {key: str(_short(trial.params[key])) for key in keys})
    columns = list(rows[0])
    if weights := importances(study):
        shares = {key: f"{weights[key]:.2f}" for key in keys}
        rows.append(dict.fromkeys(columns, "") | {"trial": "importance"} | shares)
    cells = [[row[column] for column in columns] for row in rows]
    write_table(SEARCH, columns, cells)

    short = [key.rpartition(".")[2] if key in keys else key for key in columns]
    shown = short if len({*short}) == len(short) else columns
    print("\n" + _aligned([shown, *cells]) + "\n")
    if weights:
        print(
            f"importance: the share of the differences in {metric} that a setting explains "
            f"(fANOVA; {len(trials)} trials{', a hint at most' if len(trials) < 20 else ''})"
        )
    best = trials[0]
    print(f"best: {best.user_attrs['name']} with {metric} = {best.value:.4f}; kept in {SEARCH}")
    print(f"to take it over: dvc exp apply {best.user_attrs['name']}; all: dvc exp show")


def ranked(study: "Study") -> "list[FrozenTrial]":
    """The trials that succeeded, the best first; of equals the one with the lower loss."""
    from optuna.study import StudyDirection
    from optuna.trial import TrialState

    maximize = study.direction == StudyDirection.MAXIMIZE

    def key(trial: "FrozenTrial") -> tuple[float, float, str]:
        value, loss = trial.values[0], trial.user_attrs["loss"]
        better = -value if maximize else value
        return better, math.inf if loss is None else loss, trial.user_attrs["name"]

    return sorted(study.get_trials(states=[TrialState.COMPLETE]), key=key)


def importances(study: "Study") -> dict[str, float]:
    """How much each setting matters, summing to 1; empty while all trials are equal.

    By fANOVA (Hutter et al. 2014): the variance of a random forest fitted to the trials that each
    setting explains by itself. Optuna's default looks at the best tenth, two trials of twenty.
    """
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    if len({trial.value for trial in ranked(study)}) < 2:
        return {}
    return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    )


def _seconds_of_earlier_trials() -> dict[str, str]:
    """Which no experiment keeps: what a trial gives does not depend on the machine."""
    if not SEARCH.exists():
        return {}
    return dict(zip(*read_table(SEARCH, ["trial", "seconds"]).to_pydict().values(), strict=True))


# Experiments of DVC, as the memory of a search


def past_experiments() -> list[Experiment]:
    """The experiments that searches on the commit at hand have left so far, oldest first."""
    from dvc.repo import Repo

    past = []
    with Repo(".") as repo:
        _, commit = repo.experiments.show()  # the first is the workspace
    for entry in commit.experiments or ():
        state = entry.revs[0]
        if entry.name.startswith(PREFIX) and state.data:
            parameters = state.data.params["params.yaml"].get("data", {})
            past.append(Experiment(entry.name, parameters, _scores_at(state.rev)))
    return sorted(past, key=lambda experiment: experiment.name)


def _scores_at(commit: str) -> dict[str, Any]:
    """Figures of the file of scores of `commit` by dotted name; empty if it has none."""
    command = ["git", "show", f"{commit}:./{SCORES.as_posix()}"]
    shown = subprocess.run(command, check=False, capture_output=True)
    return flatten(json.loads(shown.stdout)) if shown.returncode == 0 else {}


def names() -> Iterator[str]:
    """Names for new experiments, which no experiment has on any commit."""
    from dvc.repo import Repo

    with Repo(".") as repo:
        listed = repo.experiments.ls(all_commits=True)
    taken = {name for experiments in listed.values() for name, _ in experiments}
    numbered = (f"{PREFIX}{number:03}" for number in itertools.count(1))
    return (name for name in numbered if name not in taken)


def run_experiment(name: str, settings: dict[str, Any], copy: list[str]) -> bool:
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


# The space: settings by dotted key, and the values each may take


def read_space(path: str | Path) -> "dict[str, BaseDistribution]":
    """Read a space: key -> list of choices, or a range {low, high, log, step}.

    Raises `UserError` for a file that is missing or an entry that is neither.
    """
    try:
        entries = read_yaml(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; it should say which settings to search") from None
    if not isinstance(entries, dict) or not entries:
        raise UserError(f"{path} names no settings; a line like train.batch_size: [32, 64] does")
    return {key: _distribution(f"{path}: {key}", entry) for key, entry in entries.items()}


def _distribution(where: str, entry: Any) -> "BaseDistribution":
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    try:
        if isinstance(entry, list):
            return CategoricalDistribution(entry)
        whole = isinstance(entry["low"], int) and isinstance(entry["high"], int)
        return (IntDistribution if whole else FloatDistribution)(**entry)
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(
            f"{where} = {entry!r} is neither a list of choices nor a range like "
            f"{{low: 0.0001, high: 0.01, log: true}} ({error})"
        ) from None


def check_keys(space: dict[str, Any], parameters: Parameters, where: str | Path) -> None:
    """Raise `UserError` for a key of `space` that is no setting.

    The settings of an architecture (model.settings) are checked when the model is built.
    """
    known = list(flatten(parameters.model_dump()))
    known += {key.rpartition(".")[0] for key in known} - {""}  # sections may be varied whole
    for key in space:
        if key not in known and not key.startswith("model.settings."):
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UserError(f"{where}: {key} is not a setting{hint}")


def look_up(values: dict[str, Any], key: str) -> Any:
    """The entry of nested dicts at a dotted key, which may be a whole section; None if missing."""
    entry: Any = values
    for part in key.split("."):
        entry = entry.get(part) if isinstance(entry, dict) else None
    return entry


if __name__ == "__main__":
    run(main)
