"""How fast is training from the shards, beside training from memory? Goal: 90 % or more.

The textbook model, the hardest case: the smaller the net, the faster it asks for images. Both
sides see the same batches in the same, truly shuffled order. With `--cold` the shard is dropped
from the system's page cache before every epoch, so that each image comes from the disk.

    python -m bench.streaming      (two minutes on two cores; images are made up)
"""

import os
import tempfile
from pathlib import Path

from bench.measure import report
from bench.rounds import compare, measure_in_turns
from bench.training import arguments, random_images, train_in_turns, write_training_set

GOAL = 0.9


def forget(folder: Path) -> None:
    """Have the system read the shards from the disk again."""
    for path in folder.glob("*.npy"):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    parser = arguments(__doc__, images=3200, rounds=13)
    parser.add_argument("--cold", action="store_true", help="read from the disk, not its cache")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as temporary:
        folder = Path(temporary)
        write_training_set(folder, *random_images(options.images))
        sides = {}
        for name, limit in (("memory", 8.0), ("streamed", 1e-9)):
            train = {"epochs": 1000, "memory_limit": limit}
            values = {"model": {"name": "two_part"}, "train": train}
            before = forget if options.cold else None
            sides[name] = (train_in_turns, (folder, folder / name, values, before))
        rates, ratio = compare(measure_in_turns(sides, options.rounds), "streamed", "memory")
    report("streaming", images_per_second=rates, ratio=ratio, goal=GOAL, met=ratio >= GOAL)


if __name__ == "__main__":
    main()
