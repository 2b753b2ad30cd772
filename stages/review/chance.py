"""Is a change in accuracy more than chance? Two classifiers judged on the same images.

Only images whose outcome changed tell the two apart. The exact McNemar test asks how
surprising their division into fixed and broken would be if each were a fair coin toss
(McNemar 1947; Dietterich 1998, "Approximate statistical tests for comparing supervised
classification learning algorithms"). The bootstrap interval says how large the change is.
"""

from dataclasses import dataclass

import numpy as np

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
