"""Two classifiers judged on the same images: how much they differ, and whether by more than chance.

Only images whose outcome changed tell the two apart. The exact McNemar test asks how surprising
their division into fixed and broken would be if each were a fair coin toss (McNemar 1947;
Dietterich 1998, "Approximate statistical tests for comparing supervised classification learning
algorithms"). The bootstrap interval says how large the change is.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.metrics.scores import Scores, rounded

RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class PairedTest:
    """`difference` and its interval are shares of all paired images, `p_value` is two-sided."""

    count: int
    fixed: int
    broken: int
    p_value: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        return (self.fixed - self.broken) / self.count

    @property
    def significant(self) -> bool:
        return self.p_value < 1 - LEVEL


def paired_test(count: int, fixed: int, broken: int, seed: int = 0) -> PairedTest:
    """Compare two classifiers on the same `count` > 0 images.

    `fixed` images went from wrong to right, `broken` from right to wrong.
    """
    return PairedTest(
        count, fixed, broken, mcnemar(fixed, broken), *_interval(count, fixed, broken, seed)
    )


def mcnemar(fixed: int, broken: int) -> float:
    """Two-sided p-value of the exact McNemar test; 1 when nothing changed."""
    from scipy.stats import binomtest

    return float(binomtest(fixed, fixed + broken).pvalue) if fixed + broken else 1.0


def _interval(count: int, fixed: int, broken: int, seed: int) -> tuple[float, float]:
    """Percentile interval of the change in accuracy over resampled sets of paired images.

    Drawing `count` images with replacement draws their outcomes from a multinomial
    distribution, so the cost does not grow with the number of images.
    """
    shares = np.array([fixed, broken, count - fixed - broken]) / count
    drawn = np.random.default_rng(seed).multinomial(count, shares, size=RESAMPLES)
    differences = (drawn[:, 0] - drawn[:, 1]) / count
    low, high = np.quantile(differences, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


class Comparison:
    """How the answers of one classifier differ from those expected of it; keeps only sums."""

    def __init__(self) -> None:
        self._count = self._agree = self._right = self._broken = self._fixed = 0
        self._largest = self._total = 0.0

    def add(self, labels: np.ndarray, expected: np.ndarray, answers: np.ndarray) -> None:
        """Images of the classes `labels` int (n,); `expected` and `answers` are probabilities
        float (n, classes). A NaN among `answers` makes the differences NaN."""
        difference = np.abs(answers.astype(np.float64) - expected)
        self._largest = float(np.maximum(self._largest, difference.max(initial=0)))
        self._total += float(difference.mean(axis=1).sum())
        said, now = expected.argmax(axis=1), answers.argmax(axis=1)
        before, right = said == labels, now == labels
        self._count += len(labels)
        self._agree += int((said == now).sum())
        self._right += int(right.sum())
        self._broken += int((before & ~right).sum())
        self._fixed += int((right & ~before).sum())

    def figures(self) -> Scores:
        """`accuracy`; `agreement`, the share of images of which both say the same class;
        `largest_difference` of a probability, and the `mean_difference` of all; images `broken`
        and `fixed`, and what McNemar's test says of them. Of at least one image."""
        shares = {"accuracy": self._right / self._count, "agreement": self._agree / self._count}
        # Of differences that are nearly zero the first digits count, not the decimals.
        differences = {
            "largest_difference": float(f"{self._largest:.2e}"),
            "mean_difference": float(f"{self._total / self._count:.2e}"),
        }
        counts = {"broken": self._broken, "fixed": self._fixed}
        p_value = {"mcnemar_p": mcnemar(self._fixed, self._broken)}
        return rounded(shares) | differences | counts | rounded(p_value) | {"count": self._count}


def summary(parity: dict[str, Scores]) -> dict[str, dict[str, Any]]:
    """What reports/parity.json has of the figures `parity` of each format.

    DVC's tables show the two numbers that change only where an export is not like the model; what
    stands in a list they leave out, so that it pushes nothing else off the screen.
    """
    return {
        name: {
            "agreement": of["agreement"],
            "accuracy_change": round((of["fixed"] - of["broken"]) / of["count"], 6),
            "figures": [of],
        }
        for name, of in parity.items()
    }
