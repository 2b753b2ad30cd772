"""make search TRIALS=20: look for better settings; each trial is an experiment of DVC.

Optuna proposes settings out of a space (stages/search/space.yaml) and learns from the results
so far, those of earlier searches on the same commit included. Only the validation images
judge: choosing by test accuracy would spoil it as a measure.

    dvc exp show                  the trials beside one another
    dvc exp apply search-007      take over the settings and results of one
"""

import argparse
import sys
from pathlib import Path

from stages.errors import UserError, run
from stages.parameters import Parameters, read_parameters
from stages.search.experiments import (
    Experiment,
    names,
    past_experiments,
    run_experiment,
    untracked,
)
from stages.search.space import check_keys, look_up, read_space

METRICS = "reports/metrics.json"
SPACE = Path(__file__).with_name("space.yaml")


def main() -> None:
    import optuna

    arguments = _arguments()
    parameters = read_parameters()
    space = read_space(arguments.space)
    check_keys(space, parameters, arguments.space)
    metric = _metric(parameters)

    past = past_experiments(METRICS)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="minimize" if metric.endswith("loss") else "maximize",
        sampler=optuna.samplers.TPESampler(seed=len(past)),  # reproducible, yet not a repetition
    )
    known = sum(_learn(study, experiment, space, metric) for experiment in past)
    if known:
        print(f"going on from {known} earlier trials", flush=True)

    new_names = names()
    for number in range(1, arguments.trials + 1):
        trial = study.ask(space)
        settings = {key: _short(value) for key, value in trial.params.items()}
        name = next(new_names)
        trial.set_user_attr("name", name)
        said = ", ".join(f"{key}={value}" for key, value in settings.items())
        print(f"{name} ({number} of {arguments.trials}): {said}", flush=True)
        value = _run(name, settings, parameters, metric)
        if value is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            print(f"{name} failed", flush=True)
        else:
            study.tell(trial, value)
            print(f"{name}: {metric} = {value:.4f}", flush=True)
    _summary(study, metric)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m stages.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--trials", type=int, default=20, help="how many to run now")
    parser.add_argument("--space", type=Path, default=SPACE, help="YAML file of what to vary")
    return parser.parse_args()


def _metric(parameters: Parameters) -> str:
    """The figure of reports/metrics.json that judges a trial: the one that judges an epoch."""
    if parameters.split.val == 0:
        raise UserError("split.val = 0 leaves no validation images to judge trials by; try 0.1")
    monitor = parameters.train.monitor
    return "val.accuracy" if monitor == "last" else monitor.replace("/", ".")


def _learn(study, experiment: Experiment, space: dict, metric: str) -> bool:
    """Tell `study` of an earlier experiment; False if it does not fit the space of now."""
    import optuna

    try:
        trial = optuna.trial.create_trial(
            params={key: look_up(experiment.parameters, key) for key in space},
            distributions=space,
            value=look_up(experiment.metrics, metric),
            user_attrs={"name": experiment.name},
        )
    except ValueError:
        return False
    study.add_trial(trial)
    return True


def _run(name: str, settings: dict, parameters: Parameters, metric: str) -> float | None:
    """The figure that the experiment `name` reaches; None if it failed."""
    if not run_experiment(name, settings, _untracked_inputs(parameters)):
        return None
    made = [experiment for experiment in past_experiments(METRICS) if experiment.name == name]
    value = look_up(made[0].metrics, metric) if made else None
    if value is None:
        print(f"{name} has no {metric} in {METRICS}", file=sys.stderr)
    return value


def _untracked_inputs(parameters: Parameters) -> list[str]:
    """What an experiment, which runs in a folder of its own, would miss there."""
    paths = [parameters.download.path, parameters.model.weights]
    relative = [path for path in paths if path and not Path(path).is_absolute()]
    return [name for path in relative if Path(path).exists() for name in untracked(path)]


def _short(value):
    """Four digits are enough for a setting, and easier to read."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _summary(study, metric: str) -> None:
    try:
        best = study.best_trial
    except ValueError:
        raise UserError("no trial succeeded; the messages above say why") from None
    name = best.user_attrs["name"]
    print(f"best: {name} with {metric} = {best.value:.4f}")
    for key, value in best.params.items():
        print(f"  {key}: {_short(value)}")
    print(f"all trials: dvc exp show; to take this one over: dvc exp apply {name}")


if __name__ == "__main__":
    run(main)
