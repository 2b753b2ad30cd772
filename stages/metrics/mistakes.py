"""Where the model fails: which images to look at, in which order."""

import numpy as np


def most_confident_mistakes(
    labels: np.ndarray, probabilities: np.ndarray, count: int | None = None
) -> np.ndarray:
    """Positions of the wrongly classified images, most confident first (ties by position)."""
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    confidence = probabilities[wrong, predicted[wrong]]
    return wrong[np.argsort(-confidence, kind="stable")][:count]


def spread_over_pairs(
    labels: np.ndarray, predicted: np.ndarray, order: np.ndarray, count: int
) -> np.ndarray:
    """At most `count` of the positions `order`, such that every confusion is represented.

    The first of each (actual, predicted) pair comes before the second of any, and so on;
    the result keeps the order of `order`.
    """
    seen: dict[tuple[int, int], int] = {}
    turns = np.empty(len(order), int)
    for at, position in enumerate(order):
        pair = int(labels[position]), int(predicted[position])
        turns[at] = seen.get(pair, 0)
        seen[pair] = turns[at] + 1
    return order[np.sort(np.argsort(turns, kind="stable")[:count])]


def hardest_and_easiest(
    labels: np.ndarray, probabilities: np.ndarray, classes: int, count: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each class, positions of its `count` images with the lowest and highest probability
    of being what they are: a list of (hardest, easiest), most extreme first."""
    of_actual = probabilities[np.arange(len(labels)), labels]
    found = []
    for k in range(classes):
        members = np.flatnonzero(labels == k)
        order = members[np.argsort(of_actual[members], kind="stable")]
        found.append((order[:count], order[::-1][: min(count, max(len(order) - count, 0))]))
    return found
