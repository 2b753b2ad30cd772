"""How good the model is, in numbers: computed by scikit-learn where it has them."""

from math import sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

Scores = dict[str, float]  # figures by name, of one side of the split
DECIMALS = 6  # more would show rounding noise of the hardware as a change


def score(labels: np.ndarray, probabilities: np.ndarray, top_k: int = 3) -> Scores:
    """Scores of `probabilities` float (n, classes) against `labels` int (n,), n >= 1.

    `top3` is the share of images whose class is among the 3 most probable ones (for `top_k` 3),
    `ece` the expected calibration error.
    Macro averages run over the classes that occur among the labels or the predictions.
    ROC-AUC and average precision are one-vs-rest means over the classes for which they are
    defined (some images of the class, some of another), left out where there is none. The
    Brier score is halved, so that it lies in 0..1 and is the familiar one for two classes.
    """
    from stages.scikit import metrics

    count, classes = probabilities.shape
    probabilities = probabilities.astype(np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    predicted = probabilities.argmax(axis=1)
    correct = predicted == labels
    every_class = np.arange(classes)

    scores = accuracy(int(correct.sum()), count)
    scores["loss"] = metrics.log_loss(labels, probabilities, labels=every_class)
    if top_k < classes:
        scores[f"top{top_k}_accuracy"] = metrics.top_k_accuracy_score(
            labels,
            probabilities if classes > 2 else probabilities[:, 1],
            k=top_k,
            labels=every_class,
        )
    # Balanced accuracy by its definition: scikit-learn's own warns about a predicted class
    # that has no images here.
    scores["balanced_accuracy"] = np.mean([correct[labels == k].mean() for k in np.unique(labels)])
    for average in ("macro", "weighted"):
        precision, recall, f1, _ = metrics.precision_recall_fscore_support(
            labels, predicted, average=average, zero_division=0
        )
        scores |= {f"precision_{average}": precision, f"recall_{average}": recall}
        scores[f"f1_{average}"] = f1
    areas = [one_vs_rest_areas(labels == k, probabilities[:, k]) for k in every_class]
    if defined := [area for area in areas if area is not None]:
        scores["roc_auc"], scores["average_precision"] = np.mean(defined, axis=0)
    scores["ece"] = expected_calibration_error(correct, probabilities[np.arange(count), predicted])
    scores["brier"] = metrics.brier_score_loss(
        labels, probabilities, labels=every_class, scale_by_half=True
    )
    return rounded(scores)


def accuracy(correct: int, count: int) -> Scores:
    """Accuracy, its Wilson 95 % interval (Wilson 1927) and the count it rests on."""
    # By hand: scipy.stats, which has it, takes most of a second to import.
    share, z = correct / count, NormalDist().inv_cdf(0.975)
    centre = share + z**2 / (2 * count)
    spread = z * sqrt(share * (1 - share) / count + (z / count) ** 2 / 4)
    low, high = ((centre + end) / (1 + z**2 / count) for end in (-spread, spread))
    return rounded(
        {
            "accuracy": share,
            "accuracy_low": low if correct else 0.0,
            "accuracy_high": high if correct < count else 1.0,
            "count": count,
        }
    )


def one_vs_rest_areas(is_class: np.ndarray, scores: np.ndarray) -> tuple[float, float] | None:
    """ROC-AUC and average precision of telling one class from the rest; None if undefined."""
    from stages.scikit import metrics

    if is_class.all() or not is_class.any():
        return None
    return (
        metrics.roc_auc_score(is_class, scores),
        metrics.average_precision_score(is_class, scores),
    )


def rounded(scores: Scores) -> Scores:
    """Plain Python numbers, rounded to `DECIMALS`; whole numbers stay whole."""
    return {
        name: int(value) if isinstance(value, int | np.integer) else round(float(value), DECIMALS)
        for name, value in scores.items()
    }


def headline(scores: dict[str, Scores]) -> dict[str, dict[str, float | list[float]]]:
    """What reports/metrics.json has of the `scores` of all sides and of the model.

    `dvc exp show` gives every number that differs a column, and all of them come before the
    settings that differ: these leave room for the settings on a screen. The interval is a list,
    which DVC's tables leave out; whoever opens the file sees it.
    """
    test = scores["test"]
    top_k = [name for name in test if name.startswith("top")]
    shown: dict[str, dict[str, float | list[float]]] = {
        "test": {
            "accuracy": test["accuracy"],
            "accuracy_interval": [test["accuracy_low"], test["accuracy_high"]],
            **{name: test[name] for name in ("loss", "f1_macro", *top_k, "ece")},
            **{name: test[name] for name in ("count", "base_rate")},
        }
    }
    for side in ("val", "extra"):
        if side in scores:
            shown[side] = {name: scores[side][name] for name in ("accuracy", "count")}
    # Not its bytes: they differ by a few whenever a setting that travels with it does.
    return shown | {"model": {"parameters": scores["model"]["parameters"]}}


# By class


class ClassScore(NamedTuple):
    """How well the model tells the class `name`; a row of reports/curves/per_class.csv.

    `support` is the number of its images. The areas are one-vs-rest, None where undefined.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int
    roc_auc: float | None
    average_precision: float | None


def score_classes(
    labels: np.ndarray, probabilities: np.ndarray, classes: list[str]
) -> list[ClassScore]:
    """Scores of each of `classes`, in their order; arguments as `score` takes them."""
    from stages.scikit import metrics

    columns = metrics.precision_recall_fscore_support(
        labels, probabilities.argmax(axis=1), labels=np.arange(len(classes)), zero_division=0
    )
    scores = []
    for k, (name, *row) in enumerate(zip(classes, *columns, strict=True)):
        *shares, support = row
        precision, recall, f1 = (round(float(share), DECIMALS) for share in shares)
        areas = one_vs_rest_areas(labels == k, probabilities[:, k])
        roc, average = (round(float(a), DECIMALS) for a in areas) if areas else (None, None)
        scores.append(ClassScore(name, precision, recall, f1, int(support), roc, average))
    return scores


def weakest_classes(scores: list[ClassScore], count: int = 3) -> list[ClassScore]:
    """The classes with test images and the lowest F1, weakest first; none that is perfect."""
    return sorted((s for s in scores if s.support and s.f1 < 1), key=lambda s: s.f1)[:count]


def confusion_counts(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """int (classes, classes): how many images of a class (row) were taken for which (column)."""
    from stages.scikit import metrics

    return metrics.confusion_matrix(labels, predicted, labels=np.arange(classes))


def report(labels: np.ndarray, predicted: np.ndarray, classes: list[str]) -> str:
    """scikit-learn's classification report, as text."""
    from stages.scikit import metrics

    return metrics.classification_report(
        labels,
        predicted,
        labels=np.arange(len(classes)),
        target_names=classes,
        digits=4,
        zero_division=0,
    )


# Is a confidence of 80 % right 80 % of the time?


BINS = 15  # of equal width, as in Guo et al. 2017, On Calibration of Modern Neural Networks


def reliability(correct: np.ndarray, confidence: np.ndarray) -> dict[str, np.ndarray]:
    """Bins of confidence that hold an image, in order, each (bins,).

    `correct` bool (n,), `confidence` float (n,) in 0..1 of the predicted class. Gives
    `low` and `high` (the bin's bounds), `confidence` and `accuracy` (means), `count`.
    """
    which = np.minimum((confidence * BINS).astype(int), BINS - 1)
    count = np.bincount(which, minlength=BINS)
    held = np.flatnonzero(count)
    return {
        "low": held / BINS,
        "high": (held + 1) / BINS,
        "confidence": np.bincount(which, confidence, BINS)[held] / count[held],
        "accuracy": np.bincount(which, correct, BINS)[held] / count[held],
        "count": count[held],
    }


def expected_calibration_error(correct: np.ndarray, confidence: np.ndarray) -> float:
    """Mean gap between confidence and accuracy over the bins, weighted by their images."""
    bins = reliability(correct, confidence)
    gaps = np.abs(bins["confidence"] - bins["accuracy"])
    return float(np.average(gaps, weights=bins["count"]))


def without_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """`probabilities` (n, classes) as they were before logits were divided by `temperature`.

    Exact: softmax(z / T) to the power of T is proportional to softmax(z), also for a mean of logits
    over views.
    """
    logits = temperature * np.log(np.maximum(probabilities.astype(np.float64), 1e-300))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


# Does a set of classes hold the right one as often as it should?


def score_sets(labels: np.ndarray, sets: np.ndarray) -> Scores:
    """`coverage`: how often the class is in its image's set, `sets` bool (n, classes), with its
    Wilson 95 % interval; `set_size`: the mean number of classes in a set."""
    held = int(sets[np.arange(len(labels)), labels].sum())
    figures = accuracy(held, len(labels))
    names = {name: name.replace("accuracy", "coverage") for name in figures if name != "count"}
    coverage = {names[name]: figures[name] for name in names}
    return rounded(coverage | {"set_size": sets.sum(axis=1).mean()})


# Better than always naming the commonest class?


def base_rate(trained: np.ndarray, tested: np.ndarray) -> float:
    """Share of the test images that have the commonest class of the training images.

    `trained` and `tested` int (n,) are labels; of equally common classes the first counts.
    """
    return float(np.mean(tested == np.bincount(trained, minlength=1).argmax()))


def base_rate_warning(scores: Scores) -> str | None:
    """A sentence if `scores` do not show more than naming the commonest class, else None.

    `scores` are those on the test images: accuracy, accuracy_low, count,
    base_rate; None without them, as an earlier version of the pipeline wrote it.
    """
    if not {"accuracy", "accuracy_low", "count", "base_rate"} <= scores.keys():
        return None
    rate = f"{100 * scores['base_rate']:.1f} %"
    if scores["accuracy"] <= scores["base_rate"]:
        return (
            f"No better than always naming the commonest class, which is right for {rate} of the "
            "test images: the model has learned nothing of use."
        )
    if scores["accuracy_low"] <= scores["base_rate"]:
        return (
            f"Not shown to be better than always naming the commonest class, which is right for "
            f"{rate} of the test images: {scores['count']:,} are too few to tell."
        )
    return None


# Where the model fails: which images to look at, in which order


def most_confident_mistakes(
    labels: np.ndarray, probabilities: np.ndarray, count: int | None = None
) -> np.ndarray:
    """Positions of the wrongly classified images, most confident first (ties by position)."""
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    confidence = probabilities[wrong, predicted[wrong]]
    return wrong[np.argsort(-confidence, kind="stable")][:count]


def hardest_and_easiest(
    labels: np.ndarray, probabilities: np.ndarray, classes: int, count: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each class, positions of its `count` images with the lowest and highest probability
    of being what they are: a list of (hardest, easiest), most extreme first."""
    of_actual = probabilities[np.arange(len(labels)), labels]
    extremes = []
    for k in range(classes):
        images = np.flatnonzero(labels == k)
        order = images[np.argsort(of_actual[images], kind="stable")]
        extremes.append((order[:count], order[::-1][: min(count, max(len(order) - count, 0))]))
    return extremes
