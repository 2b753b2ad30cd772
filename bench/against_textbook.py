"""What the benchmarks against the textbook script share: run both sides, say who wins."""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.measure import ROOT, report
from bench.project import run_recipe, train_again


def command_line(doc: str, seeds: int | None = None) -> argparse.ArgumentParser:
    """What such a benchmark can be told. `seeds` is how often the recipe is trained, unless it is
    told otherwise; None where that is not to be chosen."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="zip of train/ and test/ folders")
    parser.add_argument(
        "--peer", type=Path, help="output of bench.textbook on this machine, instead of its run"
    )
    if seeds:
        parser.add_argument("--seeds", type=int, default=seeds, help="trainings (%(default)s)")
    return parser


def compare(name: str, arguments: argparse.Namespace, recipe: str, judge, **settings) -> None:
    """Run the textbook script and then a recipe, and print both and the JSON line.

    Args:
        arguments: from the `command_line`.
        recipe, settings: as `run_recipe` takes them.
        judge: from the figures of both sides, {"accuracy", "seconds"; ours, means over the seeds,
            also "images_per_second" of the last epoch, "peak_mib" of training, and "accuracies"},
            to a dict with `ratio`, `goal` and `met`.
    """
    peer = textbook_side(arguments)
    print(f"recipes/{recipe}.yaml {settings or ''}", flush=True)
    runs = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for seed in range(arguments.seeds):
            if seed == 0:
                done = run_recipe(recipe, arguments.data, folder, **settings)
            else:
                done = train_again(folder, train__seed=seed)
            runs.append(figures(done))
    ours = {key: round(statistics.mean(run[key] for run in runs), 4) for key in runs[0]}
    ours["accuracies"] = [round(run["accuracy"], 4) for run in runs]
    report(name, ours=ours, peer=peer, **judge(ours, peer))


def textbook_side(arguments: argparse.Namespace) -> dict:
    """The textbook script's "accuracy" and "seconds"; `arguments` from the `command_line`."""
    if arguments.peer:
        last = arguments.peer.read_text().splitlines()[-1]
    else:
        print("the textbook script", flush=True)
        last = run_textbook(arguments.data)
    peer = json.loads(last)
    print(f"  {peer['accuracy']:.2%} in {peer['seconds']:.0f} s", flush=True)
    return {key: peer[key] for key in ("accuracy", "seconds")}


def run_textbook(data: Path) -> str:
    """The script's last line, run as a program: in TensorFlow as it is on its own."""
    command = [sys.executable, "-u", "-m", "bench.textbook", "--data", str(data.resolve())]
    line = ""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            print(f"  {line}", end="", flush=True)
    if process.returncode:
        raise SystemExit("error: bench.textbook failed")
    return line


def figures(done: dict) -> dict:
    """What a run of a recipe reached, printed too; `done` as `run_recipe` returns it."""
    train = done["timing"]["train"]
    found = {
        "accuracy": done["metrics"]["test"]["accuracy"],
        "seconds": train["seconds"],
        "images_per_second": train["epochs"][-1]["images_per_second"],
        "peak_mib": done["peak_mib"]["train"],
    }
    print(f"  {found['accuracy']:.2%} in {found['seconds']:.0f} s", flush=True)
    return found
