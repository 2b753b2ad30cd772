"""The figures of reports/metrics.json, computed by scikit-learn where it has them."""

import numpy as np

# Whether a confidence of 80 % is right 80 % of the time


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


DECIMALS = 6  # more would show rounding noise of the hardware as a change


def score(labels: np.ndarray, probabilities: np.ndarray, top_k: int = 3) -> dict[str, float]:
    """Scores of `probabilities` float (n, classes) against `labels` int (n,), n >= 1.

    Macro averages run over the classes that occur among the labels or the predictions.
    ROC-AUC and average precision are one-vs-rest means over the classes for which they are
    defined (some images of the class, some of another), left out where there is none. The
    Brier score is halved, so that it lies in 0..1 and is the familiar one for two classes.
    """
    from sklearn import metrics

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
    areas = [area for area in areas if area is not None]
    if areas:
        scores["roc_auc"], scores["average_precision"] = np.mean(areas, axis=0)
    scores["calibration_error"] = expected_calibration_error(
        correct, probabilities[np.arange(count), predicted]
    )
    scores["brier"] = metrics.brier_score_loss(
        labels, probabilities, labels=every_class, scale_by_half=True
    )
    return rounded(scores)


def accuracy(correct: int, count: int) -> dict[str, float]:
    """Accuracy, its Wilson 95 % interval (Wilson 1927) and the count it rests on."""
    from scipy.stats import binomtest

    interval = binomtest(correct, count).proportion_ci(0.95, method="wilson")
    return rounded(
        {
            "accuracy": correct / count,
            "accuracy_low": interval.low,
            "accuracy_high": interval.high,
            "count": count,
        }
    )


def score_classes(
    labels: np.ndarray, predicted: np.ndarray, classes: list[str]
) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support (number of images) of each class, by name."""
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(
        labels, predicted, labels=np.arange(len(classes)), zero_division=0
    )
    names = ("precision", "recall", "f1", "support")
    return {
        name: rounded(dict(zip(names, row, strict=True)))
        for name, row in zip(classes, zip(*columns, strict=True), strict=True)
    }


def one_vs_rest_areas(is_class: np.ndarray, scores: np.ndarray) -> tuple[float, float] | None:
    """ROC-AUC and average precision of telling one class from the rest; None if undefined."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    if is_class.all() or not is_class.any():
        return None
    return roc_auc_score(is_class, scores), average_precision_score(is_class, scores)


def rounded(scores: dict) -> dict:
    """Plain Python numbers, rounded to `DECIMALS`; whole numbers stay whole."""
    return {
        name: int(value) if isinstance(value, int | np.integer) else round(float(value), DECIMALS)
        for name, value in scores.items()
    }


def report(labels: np.ndarray, predicted: np.ndarray, classes: list[str]) -> str:
    """scikit-learn's classification report, as text."""
    from sklearn.metrics import classification_report

    return classification_report(
        labels,
        predicted,
        labels=np.arange(len(classes)),
        target_names=classes,
        digits=4,
        zero_division=0,
    )


# Better than always naming the commonest class?


def base_rate(trained: np.ndarray, tested: np.ndarray) -> float:
    """Share of the test images that have the commonest class of the training images.

    `trained` and `tested` int (n,) are labels; of equally common classes the first counts.
    """
    return float(np.mean(tested == np.bincount(trained, minlength=1).argmax()))


def base_rate_warning(scores: dict) -> str | None:
    """A sentence if `scores` do not show more than naming the commonest class, else None.

    `scores` are those of metrics.json on the test images: accuracy, accuracy_low, count,
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
