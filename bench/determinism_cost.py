"""What does `train.deterministic: true` cost? Goal: under 10 % of the images/s.

python -m bench.determinism_cost      (three minutes on two cores; images are made up)
"""

import tempfile
from pathlib import Path

from bench.measure import report
from bench.rounds import compare, measure_in_turns
from bench.training import arguments, random_images, train_in_turns, write_training_set

GOAL = 0.9
JOBS = {
    "textbook model, batch 64": {"model": {"name": "two_part"}, "train": {"batch_size": 64}},
    "speednet, batch 500": {
        "model": {"name": "speednet", "settings": {"widths": [32, 64, 64]}},
        "augment": {"horizontal_flip": "alternating", "crop_padding": 2},
        "train": {"batch_size": 500, "optimizer": {"name": "muon", "normalize_weights": True}},
    },
}


def main() -> None:
    options = arguments(__doc__, images=1000, rounds=21).parse_args()
    ratios, rates = {}, {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_training_set(folder, *random_images(options.images))
        for job, values in JOBS.items():
            print(job, flush=True)
            sides = {}
            for name, deterministic in (("deterministic", True), ("free", False)):
                train = values["train"] | {"epochs": 1000, "deterministic": deterministic}
                own = values | {"train": train}
                sides[name] = (train_in_turns, (folder, folder / name, own))
            measured = measure_in_turns(sides, options.rounds)
            rates[job], ratios[job] = compare(measured, "deterministic", "free")
    ratio = min(ratios.values())
    report("determinism_cost", images_per_second=rates, ratio=ratio, goal=GOAL, met=ratio >= GOAL)


if __name__ == "__main__":
    main()
