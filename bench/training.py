"""What the benchmarks of the trainer share: images on disk, and the real training loop by turns."""

import argparse
import time
from pathlib import Path

import numpy as np

from bench.rounds import Turn
from stages.files import INDEX_COLUMNS
from stages.parameters.pixels import Preprocessing
from stages.store.processed import Dataset
from stages.store.tables import write_table


def arguments(doc: str, images: int, rounds: int) -> argparse.ArgumentParser:
    """The command line of a benchmark of epochs of `images`, `rounds` of each side."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--images", type=int, default=images, help=f"images an epoch ({images})")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"epochs of a side ({rounds})")
    return parser


def random_images(count: int, side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (count, side, side, 3) and labels of 10 classes: speed does not ask what they show."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return images, (np.arange(count) % 10).astype(np.int32)


def write_training_set(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """`folder` as data/processed, with train.csv naming all images and val.csv none."""
    classes = [str(number) for number in range(int(labels.max()) + 1)]
    preprocessing = Preprocessing(size=list(images.shape[1:3]), color="rgb")
    Dataset(classes=classes, shape=preprocessing.shape, preprocess=preprocessing).save(folder)
    np.save(folder / "images-00000.npy", images)
    empty = dict.fromkeys(INDEX_COLUMNS, "") | dict.fromkeys(("width", "height", "bytes"), 0)
    lines = [
        empty | {"id": str(row), "path": str(row), "shard": "images-00000.npy", "row": row}
        for row in range(len(images))
    ]
    write_table(folder / "index.csv", INDEX_COLUMNS, (list(line.values()) for line in lines))
    names = ((str(row), classes[label]) for row, label in enumerate(labels))
    write_table(folder / "train.csv", ("id", "label"), names)
    write_table(folder / "val.csv", ("id", "label"), [])


def train_in_turns(turn: Turn, folder: Path, state: Path, values: dict, before=None) -> None:
    """The trainer's own loop on `folder`, an epoch a turn; `values` are the parameters.

    The clock runs from one epoch's end to the next, with all that the trainer does: shuffling,
    the steps, the checkpoint. `before` is called with the folder before each.
    """
    import stages.quiet  # noqa: F401
    from stages.parameters.whole import Parameters
    from stages.store.image_set import load_image_set
    from stages.training.job import Job, JobSettings
    from stages.training.loop import fit

    train_set = load_image_set(folder, folder / "train.csv")
    relatives = np.arange(len(train_set))
    whole = Parameters.model_validate(values)
    settings = JobSettings(whole.augment, whole.model, whole.train)
    job = Job(settings, train_set, None, relatives, folder, state, [])
    clock = None

    def epoch_done(rows):
        nonlocal clock
        if rows and not turn.done(len(job.images) / (time.perf_counter() - clock)):
            raise StopIteration
        if before:
            before(folder)
        clock = time.perf_counter()

    try:
        fit(job.learner, job.images, None, job.checkpoint, [epoch_done])
    except StopIteration:
        job.checkpoint.delete()
