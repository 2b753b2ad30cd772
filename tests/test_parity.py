"""Two classifiers judged on the same images."""

import numpy as np
import pytest

from stages.metrics.paired import Comparison, mcnemar, paired_test

# Chance


def test_mcnemar_is_the_exact_two_sided_test():
    assert mcnemar(0, 0) == 1
    assert mcnemar(5, 5) == 1
    assert mcnemar(9, 1) == mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar(10, 0) == pytest.approx(2 / 2**10)


def test_the_interval_is_that_of_drawing_the_paired_images_again_and_again():
    count, fixed, broken = 400, 30, 10
    test = paired_test(count, fixed, broken)
    change = np.repeat([1, -1, 0], [fixed, broken, count - fixed - broken])
    random = np.random.default_rng(1)
    drawn = [change[random.integers(count, size=count)].mean() for _ in range(4000)]
    assert test.difference == pytest.approx(0.05)
    assert [test.low, test.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.003)
    assert test == paired_test(count, fixed, broken)


def test_a_hundred_thousand_test_images_cost_no_more_than_a_hundred():
    test = paired_test(100_000, 600, 500)
    assert test.low < 0.001 < test.high
    assert test.significant


# Figures

LABELS = np.array([0, 0, 1, 1, 1])
EXPECTED = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3], [0.1, 0.9]], np.float32)
# Of the images the second breaks and the fourth is mended.
ANSWERS = np.array([[0.8, 0.2], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7], [0.1, 0.9]], np.float32)


def test_figures_of_a_comparison_are_those_of_all_images():
    comparison = Comparison()
    comparison.add(LABELS, EXPECTED, ANSWERS)
    assert comparison.figures() == {
        "accuracy": 0.8,
        "agreement": 0.6,
        "largest_difference": 0.4,
        "mean_difference": pytest.approx(0.7 / 5),
        "broken": 1,
        "fixed": 1,
        "mcnemar_p": 1.0,
        "count": 5,
    }


def test_batches_of_any_size_give_the_same_figures():
    whole, parts = Comparison(), Comparison()
    whole.add(LABELS, EXPECTED, ANSWERS)
    for part in (slice(0, 1), slice(1, 1), slice(1, 4), slice(4, 5)):
        parts.add(LABELS[part], EXPECTED[part], ANSWERS[part])
    assert parts.figures() == whole.figures()


def test_small_differences_are_told_by_their_first_digits():
    comparison = Comparison()
    expected = EXPECTED.astype(float)
    comparison.add(LABELS, expected, expected + 1.23456e-7)
    assert comparison.figures()["largest_difference"] == 1.23e-7
    assert comparison.figures()["agreement"] == 1
