"""What the benchmarks against the textbook script share: run both sides, say who wins."""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from bench import textbook
from bench.measure import report
from bench.project import run_recipe, train_again


def compare(name: str, doc: str, recipe: str, judge, seeds: int = 1, **settings) -> None:
    """Run the textbook script and then a recipe, and print both and the JSON line.

    Args:
        recipe, settings: as `run_recipe` takes them.
        seeds: how often the recipe is trained, unless the command line says otherwise.
        judge: from the figures of both sides, {"accuracy", "seconds"; ours, means over the seeds,
            also "images_per_second" of the last epoch, "peak_mib" of training, and "accuracies"},
            to a dict with `ratio`, `goal` and `met`.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="zip of train/ and test/ folders")
    parser.add_argument(
        "--peer", type=Path, help="output of bench.textbook on this machine, instead of its run"
    )
    parser.add_argument("--seeds", type=int, default=seeds, help="how often we train (%(default)s)")
    arguments = parser.parse_args()
    if arguments.peer:
        peer = json.loads(arguments.peer.read_text().splitlines()[-1])
    else:
        print("the textbook script", flush=True)
        peer = textbook.run(arguments.data)
    peer = {key: peer[key] for key in ("accuracy", "seconds")}
    print(f"  {peer['accuracy']:.2%} in {peer['seconds']:.0f} s", flush=True)
    print(f"recipes/{recipe}.yaml {settings or ''}", flush=True)
    runs = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for seed in range(arguments.seeds):
            if seed == 0:
                done = run_recipe(recipe, arguments.data, folder, **settings)
            else:
                done = train_again(folder, seed)
            train = done["timing"]["train"]
            run = {
                "accuracy": done["metrics"]["test"]["accuracy"],
                "seconds": train["seconds"],
                "images_per_second": train["epochs"][-1]["images_per_second"],
                "peak_mib": done["peak_mib"]["train"],
            }
            print(f"  {run['accuracy']:.2%} in {run['seconds']:.0f} s", flush=True)
            runs.append(run)
    ours = {key: round(statistics.mean(run[key] for run in runs), 4) for key in runs[0]}
    ours["accuracies"] = [round(run["accuracy"], 4) for run in runs]
    report(name, ours=ours, peer=peer, **judge(ours, peer))
