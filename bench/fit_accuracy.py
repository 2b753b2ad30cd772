"""Does a tutorial's recipe reach what Keras' own `fit` reaches with the same net and images?

The recipe's stages, and `fit` on float32 arrays of the same training images with the optimizer that
the tutorial names (Adam, its learning rate, batch size and epochs), once for each seed, in turns.
Both are judged on all test images. Goal: the mean over the seeds is no lower than that of `fit` by
more than the seeds explain (the 95 % interval of the difference, Welch's).

    python -m bench.fit_accuracy --data cifar10-jpeg.zip [--recipe cifar10-gap] [--seeds 5]
"""

import argparse
import multiprocessing
import statistics
import tempfile
from pathlib import Path

from bench.measure import report
from bench.project import recipe_settings, run_recipe, train_again


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="zip of train/ and test/ folders")
    parser.add_argument("--recipe", default="cifar10-gap")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    settings = recipe_settings(options.recipe)
    found = {"recipe": [], "fit": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for seed in range(options.seeds):
            if seed == 0:
                done = run_recipe(options.recipe, options.data, folder)
            else:
                done = train_again(folder, train__seed=seed)
            found["recipe"].append(done["metrics"]["test"]["accuracy"])
            found["fit"].append(in_a_process(fit, folder, settings, seed))
            shown = ", ".join(f"{side} {values[-1]:.2%}" for side, values in found.items())
            print(f"seed {seed}: {shown}", flush=True)
    means = {side: round(statistics.mean(values), 4) for side, values in found.items()}
    low, high = interval(found["recipe"], found["fit"])
    report(
        "fit_accuracy",
        recipe=options.recipe,
        accuracies={side: [round(v, 4) for v in values] for side, values in found.items()},
        means=means,
        difference=[round(low, 4), round(high, 4)],
        ratio=round(means["recipe"] / means["fit"], 4),
        goal="the interval of the difference reaches 0",
        met=high >= 0,
    )


def fit(folder: Path, settings: dict, seed: int) -> float:
    """Accuracy on the test images of the recipe's net, trained by Keras' `fit`."""
    import keras

    import stages.quiet  # noqa: F401
    from stages.architectures import build_model
    from stages.store.image_set import load_image_set

    sides = {
        side: load_image_set(folder / "data/processed", folder / f"data/splits/{side}.csv")
        for side in ("train", "test")
    }
    images = {side: found.images().astype("float32") for side, found in sides.items()}
    keras.utils.set_random_seed(seed)
    dataset, train = sides["train"].dataset, settings["train"]
    classes, model = len(dataset.classes), settings["model"]
    net = build_model(model["name"], dataset.shape, classes, model["settings"])
    net.compile(
        keras.optimizers.Adam(train["optimizer"]["learning_rate"]),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    net.fit(
        images["train"],
        sides["train"].labels,
        batch_size=train["batch_size"],
        epochs=train["epochs"],
        verbose=2,
    )
    _, accuracy = net.evaluate(images["test"], sides["test"].labels, batch_size=1000, verbose=0)
    return float(accuracy)


def in_a_process(function, *arguments):
    """What `function` gives in a process of its own, whose memory and switches end with it."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def interval(ours: list[float], theirs: list[float]) -> tuple[float, float]:
    """95 % interval of the difference of the means of two samples, by Welch's t."""
    from scipy import stats

    if min(len(ours), len(theirs)) < 2:
        return float("-inf"), float("inf")
    found = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    return float(found.low), float(found.high)


if __name__ == "__main__":
    main()
