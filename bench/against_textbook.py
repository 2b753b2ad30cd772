"""What the benchmarks against the textbook script share: run both sides, say who wins."""

import argparse
import json
import tempfile
from pathlib import Path

from bench import textbook
from bench.measure import report
from bench.project import run_recipe


def compare(name: str, doc: str, recipe: str, judge, **settings) -> None:
    """Run the textbook script and then a recipe, and print both and the JSON line.

    Args:
        recipe, settings: as `run_recipe` takes them.
        judge: from the figures of both sides, {"accuracy", "seconds"; ours also
            "images_per_second" of the last epoch and "peak_mib" of training}, to a dict with
            `ratio`, `goal` and `met`.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="zip of train/ and test/ folders")
    parser.add_argument(
        "--peer", type=Path, help="output of bench.textbook on this machine, instead of its run"
    )
    arguments = parser.parse_args()
    if arguments.peer:
        peer = json.loads(arguments.peer.read_text().splitlines()[-1])
    else:
        print("the textbook script", flush=True)
        peer = textbook.run(arguments.data)
    peer = {key: peer[key] for key in ("accuracy", "seconds")}
    print(f"  {peer['accuracy']:.2%} in {peer['seconds']:.0f} s", flush=True)
    print(f"recipes/{recipe}.yaml {settings or ''}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        done = run_recipe(recipe, arguments.data, Path(folder), **settings)
    ours = {
        "accuracy": round(done["metrics"]["test"]["accuracy"], 4),
        "seconds": done["timing"]["train"]["seconds"],
        "images_per_second": done["timing"]["train"]["epochs"][-1]["images_per_second"],
        "peak_mib": done["peak_mib"]["train"],
    }
    print(f"  {ours['accuracy']:.2%} in {ours['seconds']:.0f} s", flush=True)
    report(name, ours=ours, peer=peer, **judge(ours, peer))
