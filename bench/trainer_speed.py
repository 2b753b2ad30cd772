"""How fast does the trainer run the textbook model, beside Keras' `fit`? Goal: 2 x, same batch.

Beside it the limit: TensorFlow's convolutions and matrix products of such a step alone, forward and
backward, in the precision of the trainer, without all that stands between them. With `--torch`
also PyTorch (bench/torch_fit.py), in a Python that has it; goal: 1.5 x.

python -m bench.trainer_speed      (two minutes on two cores; images are made up)
"""

import os
import subprocess
import tempfile
import time
from pathlib import Path

from bench.measure import ROOT, report
from bench.rounds import compare, measure_in_turns
from bench.textbook import BATCH_SIZE, build
from bench.training import arguments, random_images, train_in_turns, write_training_set

GOAL, TORCH_GOAL = 2.0, 1.5


def fit_in_turns(turn, images, labels) -> None:
    """The textbook script's `fit`, an epoch a turn, in TensorFlow as it is on its own."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # its notices

    model, scaled = build(images.shape[1:], 10), images.astype("float32") / 255
    more = True
    while more:
        start = time.perf_counter()
        model.fit(scaled, labels, batch_size=BATCH_SIZE, epochs=1, verbose=0)
        more = turn.done(len(images) / (time.perf_counter() - start))


def multiply_in_turns(turn, count, shape, precision) -> None:
    """Nothing but the products of an epoch of `count` images, an epoch a turn."""
    import stages.quiet  # noqa: F401
    from stages.training.environment import choose_precision

    step = products(build(shape, 10), BATCH_SIZE, choose_precision(precision))
    more, steps = True, count // BATCH_SIZE
    while more:
        start = time.perf_counter()
        for _ in range(steps):
            step()
        more = turn.done(steps * BATCH_SIZE / (time.perf_counter() - start))


def products(model, batch_size, dtype):
    """A function that convolves and multiplies as one step of training `model` does, one product
    after the other: forward, for the kernel's gradient and, but for the first layer, the input's.
    """
    import tensorflow as tf

    def convolution(images, kernel, upstream, first):
        with tf.GradientTape() as tape:
            tape.watch([images, kernel])
            outputs = tf.nn.conv2d(images, kernel, 1, "SAME")
        wanted = [kernel] if first else [kernel, images]
        return outputs, *tape.gradient(outputs, wanted, upstream)

    def product(inputs, kernel, upstream, first):
        into = [] if first else [tf.matmul(upstream, kernel, transpose_b=True)]
        return inputs @ kernel, tf.matmul(inputs, upstream, transpose_a=True), *into

    calls = []
    for layer in model.layers:
        if not hasattr(layer, "kernel"):
            continue
        shapes = [(batch_size, *layer.input.shape[1:]), layer.kernel.shape]
        tensors = [
            tf.random.normal(shape, dtype=dtype)
            for shape in [*shapes, (batch_size, *layer.output.shape[1:])]
        ]
        function = tf.function(convolution if len(layer.kernel.shape) == 4 else product)
        calls.append((function, tensors, not calls))

    def step():
        for function, tensors, first in calls:
            function(*tensors, first)

    return step


def torch_in_turns(turn, python, count, precision) -> None:
    """PyTorch in a program of its own, an epoch a turn."""
    command = [python, ROOT / "bench/torch_fit.py", "--images", str(count)]
    with subprocess.Popen(
        [*command, "--precision", precision],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        print(process.stdout.readline(), end="", flush=True)
        more = True
        while more:
            process.stdin.write("\n")
            process.stdin.flush()
            more = turn.done(float(process.stdout.readline()))
        process.stdin.close()


def main() -> None:
    parser = arguments(__doc__, images=3200, rounds=13)
    parser.add_argument("--precision", default="auto", help="train.precision of our side (auto)")
    parser.add_argument("--torch", metavar="PYTHON", help="a Python that has PyTorch")
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
            "limit": (multiply_in_turns, (len(images), images.shape[1:], options.precision)),
        }
        if options.torch:
            sides["torch"] = (torch_in_turns, (options.torch, len(images), options.precision))
        measured = measure_in_turns(sides, options.rounds)
    rates, ratio = compare(measured, "trainer", "fit")
    figures = {"share_of_limit": compare(measured, "trainer", "limit")[1]}
    met = ratio >= GOAL
    if options.torch:
        beside_torch = compare(measured, "trainer", "torch")[1]
        figures |= {"ratio_to_torch": beside_torch, "torch_goal": TORCH_GOAL}
        met = met and beside_torch >= TORCH_GOAL
    report("trainer_speed", images_per_second=rates, ratio=ratio, goal=GOAL, **figures, met=met)


if __name__ == "__main__":
    main()
