"""Whether a confidence of 80 % is right 80 % of the time."""

import numpy as np

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
