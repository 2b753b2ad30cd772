"""Whether a classifier beats one that looks at no image and always names the commonest class."""

import numpy as np


def base_rate(trained: np.ndarray, tested: np.ndarray) -> float:
    """Share of the test images that have the commonest class of the training images.

    `trained` and `tested` int (n,) are labels; of equally common classes the first counts.
    """
    return float(np.mean(tested == np.bincount(trained, minlength=1).argmax()))


def warning(scores: dict) -> str | None:
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
