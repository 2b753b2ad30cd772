"""What does `stages.predict` take beside the model itself?

Start-up: one photo, from the command to its class, beside a Python that imports TensorFlow and
ends. Goal: one second more. Throughput: images/s of many photos (JPEG, of the model's own size,
start-up taken off) beside the bare model, compiled, on the same images already in memory. Goal:
80 %. All sides in turn; the model is the last one trained, or `--model`.

The photos must be decoded by the cores that run the model, so beside these stands what no program
can do without: nothing but libjpeg-turbo's decoding of the same files, in memory, on all cores.
The ceiling is one after the other, 1 / (1 / model + 1 / decoding). `met` is judged by the clock;
core microseconds an image say what each costs whatever else runs.

    python -m bench.predict [--model models/model.keras] [--images 20000]
"""

import argparse
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import simplejpeg

from bench.decode import on_all_cores
from bench.measure import ROOT, Cost, alternate, report
from bench.photos import write_photos
from stages.store.model import load_model, read_info

START_UP_GOAL, THROUGHPUT_GOAL = 1.0, 0.8
BATCH_SIZE = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "models/model.keras")
    parser.add_argument("--images", type=int, default=20_000, help="photos classified")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    path = options.model.resolve()
    height, width = read_info(path).preprocess.size
    with tempfile.TemporaryDirectory() as folder:
        photos = write_photos(Path(folder, "photos"), options.images, size=(width, height))
        one = photos[0]
        start_up = alternate(
            {
                "import tensorflow": lambda: call("-c", "import tensorflow"),
                "predict": lambda: predict(path, one, folder),
            },
            options.rounds,
        )
        extra = start_up["predict"].seconds - start_up["import tensorflow"].seconds
        print(f"start-up: {extra:.2f} s more than importing TensorFlow", flush=True)
        color = "GRAY" if read_info(path).preprocess.color == "grayscale" else "RGB"
        files = [photo.read_bytes() for photo in photos]
        costs = alternate(
            {
                "predict": lambda: predict(path, photos[0].parents[1], folder),
                "model": bare_model(path, options.images),
                "decoding": on_all_cores(partial(decode, color), files),
            },
            options.rounds,
        )
    costs["predict"] = Cost(*np.subtract(costs["predict"], start_up["predict"]).tolist())
    seconds = {name: cost.seconds for name, cost in costs.items()}
    seconds["ceiling"] = seconds["model"] + seconds["decoding"]
    work = {name: cost.work for name, cost in costs.items()}
    ratio = round(seconds["model"] / seconds["predict"], 2)
    report(
        "predict",
        start_up_seconds=round(extra, 2),
        start_up_goal=START_UP_GOAL,
        images_per_second={name: round(options.images / value) for name, value in seconds.items()},
        core_us={name: round(value / options.images * 1e6, 1) for name, value in work.items()},
        ceiling=round(seconds["model"] / seconds["ceiling"], 2),
        share_of_ceiling=round(seconds["ceiling"] / seconds["predict"], 2),
        ratio_of_work=round(work["model"] / work["predict"], 2),
        ratio=ratio,
        goal=THROUGHPUT_GOAL,
        met=extra <= START_UP_GOAL and ratio >= THROUGHPUT_GOAL,
    )


def decode(color: str, files: list[bytes]) -> None:
    for data in files:
        simplejpeg.decode_jpeg(data, color)


def call(*arguments: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([sys.executable, *arguments], env=environment, check=True, **quiet)


def predict(model: Path, photos: Path, folder: str) -> None:
    output = ("--output", f"{folder}/found.csv", "--batch-size", str(BATCH_SIZE))
    call("-m", "stages.predict", str(photos), "--model", str(model), *output)


def bare_model(path: Path, count: int):
    """A function that runs the model, compiled and warm, over `count` images in memory."""
    from stages.quiet import tensorflow as tf

    model, _ = load_model(path)
    shape = model.input_shape[1:]
    forward = tf.function(
        lambda images: model(images, training=False),
        input_signature=[tf.TensorSpec((None, *shape), tf.uint8)],
    )
    images = np.random.default_rng(0).integers(0, 256, (BATCH_SIZE, *shape), dtype=np.uint8)
    forward(images)

    def run() -> None:
        for start in range(0, count, BATCH_SIZE):
            forward(images[: count - start]).numpy()

    return run


if __name__ == "__main__":
    main()
