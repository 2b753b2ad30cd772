"""Sides for images that have none declared, by exact shares or by hash."""

from itertools import pairwise

import numpy as np

from stages.splits import TEST, TRAIN, VAL


def by_hash(positions: np.ndarray, shares: dict[int, float]) -> np.ndarray:
    """Sides of units from their `positions` in [0, 1): int8 like `positions`.

    `shares` maps `TEST` and `VAL` to their share; what is missing takes none. A unit's side
    depends on nothing but its own position, so other units come and go without effect.
    `TEST` comes first, so that changing the share of `VAL` leaves it alone.
    """
    sides = np.full(len(positions), TRAIN, np.int8)
    start = 0.0
    for side in (TEST, VAL):
        stop = start + shares.get(side, 0.0)
        sides[(start <= positions) & (positions < stop)] = side
        start = stop
    return sides


def stratified(
    positions: np.ndarray, strata: np.ndarray, sizes: np.ndarray, shares: dict[int, float]
) -> np.ndarray:
    """Sides of units, so that each stratum (class) is shared out as `shares` says.

    Units go in order of `positions` float64 (m,): the first of a stratum test, the next
    choose, the rest train. `sizes` int64 (m,) are images a unit; with one image each the
    shares are exact to rounding. A stratum with enough units has one on every side.
    Returns int8 (m,).
    """
    sides = np.full(len(positions), TRAIN, np.int8)
    asked = [side for side in (TEST, VAL) if shares.get(side, 0.0) > 0]
    order = np.lexsort((positions, strata))
    bounds = np.flatnonzero(np.diff(strata[order], prepend=-1, append=-1))
    for start, stop in pairwise(bounds):
        units = order[start:stop]
        ends = np.cumsum(sizes[units])
        middles = ends - sizes[units] / 2
        first, goal = 0, 0
        for left, side in zip(range(len(asked), 0, -1), asked, strict=True):
            goal += max(1, int(ends[-1] * shares[side] + 0.5))
            last = int(np.searchsorted(middles, goal))
            last = max(first + 1, min(last, len(units) - left))
            sides[units[first:last]] = side
            first = last
    return sides


def majority(units: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The most frequent of `labels` in each unit, int64 (m,); ties go to the smaller label."""
    width = labels.max(initial=0) + 1
    pairs, counts = np.unique(units * width + labels, return_counts=True)
    of_unit, label = np.divmod(pairs, width)
    order = np.lexsort((-label, counts, of_unit))
    winners = np.empty(units.max(initial=-1) + 1, np.int64)
    winners[of_unit[order]] = label[order]  # the last one written is the most frequent
    return winners
