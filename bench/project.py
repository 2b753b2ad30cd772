"""Run the real stages on a recipe in a folder of their own, as `dvc repro` would."""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from bench.measure import ROOT
from stages.recipe import write_recipe

STAGES = ("download", "preprocess", "split", "features", "train", "evaluate")


def recipe_settings(recipe: str) -> dict:
    """All settings of a file in recipes/, as in params.yaml."""
    return yaml.safe_load(write_recipe(recipe, ROOT / "recipes"))


def run_recipe(recipe: str, data: Path | None, folder: Path, **settings) -> dict:
    """All stages up to `evaluate` on the zip `data`, or the recipe's own, each its own process.

    Args:
        recipe: name of a file in recipes/.
        folder: an empty folder, where the outputs are left.
        settings: values that differ from the recipe's, as `train.epochs` written train__epochs.

    Returns `metrics` (reports/metrics.json), `timing` (reports/timing.json) and `peak_mib`, the
    most memory that each stage itself held.
    """
    parameters = recipe_settings(recipe)
    if data:
        parameters["download"].update(source="archive", path=str(Path(data).resolve()), url=None)
    _write(folder, parameters, settings)
    return _run(folder, STAGES)


def train_again(folder: Path, **settings) -> dict:
    """Train and judge the job in `folder` with other `settings`; as `run_recipe`."""
    parameters = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    _write(folder, parameters, settings)
    return _run(folder, ("train", "evaluate"))


def _write(folder: Path, parameters: dict, settings: dict) -> None:
    for name, value in settings.items():
        *sections, key = name.split("__")
        section = parameters
        for part in sections:
            section = section[part]
        section[key] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(parameters), encoding="utf-8")


def _run(folder: Path, stages: tuple[str, ...]) -> dict:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    peaks = {}
    for stage in stages:
        print(f"  {stage}", flush=True)
        command = [sys.executable, "-m", f"stages.{stage}"]
        process = subprocess.Popen(command, cwd=folder, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"error: stages.{stage} failed in {folder}")
        peaks[stage] = round(usage.ru_maxrss / 1024)  # KiB on Linux
    reports = folder / "reports"
    return {
        "metrics": json.loads((reports / "metrics.json").read_text()),
        "timing": json.loads((reports / "timing.json").read_text()),
        "peak_mib": peaks,
    }
