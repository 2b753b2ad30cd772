"""How fast does the trainer run the textbook model, beside Keras' `fit`? Goal: 2 x, same batch.

python -m bench.trainer_speed      (two minutes on two cores; images are made up)
"""

import tempfile
import time
from pathlib import Path

from bench.measure import report
from bench.rounds import compare, measure_in_turns
from bench.textbook import BATCH_SIZE, build
from bench.training import arguments, random_images, train_in_turns, write_training_set

GOAL = 2.0


def fit_in_turns(turn, images, labels) -> None:
    """The textbook script's `fit`, an epoch a turn."""
    import stages.quiet  # noqa: F401

    model, scaled = build(images.shape[1:], 10), images.astype("float32") / 255
    more = True
    while more:
        start = time.perf_counter()
        model.fit(scaled, labels, batch_size=BATCH_SIZE, epochs=1, verbose=0)
        more = turn.done(len(images) / (time.perf_counter() - start))


def main() -> None:
    parser = arguments(__doc__, images=3200, rounds=13)
    parser.add_argument("--precision", default="auto", help="train.precision of our side (auto)")
    options = parser.parse_args()
    images, labels = random_images(options.images)
    train = {"epochs": 1000, "batch_size": BATCH_SIZE, "precision": options.precision}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_training_set(folder, images, labels)
        values = {"model": {"name": "two_part"}, "train": train}
        sides = {
            "fit": (fit_in_turns, (images, labels)),
            "trainer": (train_in_turns, (folder, folder / "state", values)),
        }
        rates, ratio = compare(measure_in_turns(sides, options.rounds), "trainer", "fit")
    report("trainer_speed", images_per_second=rates, ratio=ratio, goal=GOAL, met=ratio >= GOAL)


if __name__ == "__main__":
    main()
