"""What changed between two revisions, and whether it is more than chance."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.store.names import flatten

# Is a change in accuracy more than chance? Two classifiers judged on the same images.
#
# Only images whose outcome changed tell the two apart. The exact McNemar test asks how
# surprising their division into fixed and broken would be if each were a fair coin toss
# (McNemar 1947; Dietterich 1998, "Approximate statistical tests for comparing supervised
# classification learning algorithms"). The bootstrap interval says how large the change is.


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


MISSING = None


@dataclass(frozen=True)
class Change:
    """The values of `key` on both sides; `MISSING` where a side has none."""

    key: str
    base: Any
    head: Any

    @property
    def difference(self) -> float | None:
        """head - base, for two numbers."""
        numbers = [
            isinstance(value, int | float) and not isinstance(value, bool)
            for value in (self.base, self.head)
        ]
        return self.head - self.base if all(numbers) else None


def changes(base: Mapping[str, Any], head: Mapping[str, Any]) -> list[Change]:
    """The entries of nested values that differ, in the order of `head`, then those only `base` has.

    DVC's own comparison (`dvc.repo.Repo.metrics.diff`) takes longer, keeps no order, and takes
    an entry that is null for one that is missing.
    """
    base, head = flatten(base), flatten(head)
    keys = [*head, *(key for key in base if key not in head)]
    pairs = [Change(key, base.get(key, MISSING), head.get(key, MISSING)) for key in keys]
    return [pair for pair in pairs if pair.base != pair.head]


@dataclass(frozen=True)
class ClassCount:
    """Images of one class on both sides, and how many came and went.

    A relabelled image goes from one class and comes to another.
    """

    label: str
    base: int
    head: int
    added: int
    removed: int


def count_changes(base: pa.Table, head: pa.Table) -> list[ClassCount]:
    """Per class, the images of `head` that `base` lacks and the other way round.

    Both tables have the columns id and label, one row an image. Classes without a change are
    left out; the rest are sorted by name.
    """
    keys = ["id", "label"]
    added = _per_label(head.join(base, keys, join_type="left anti"))
    removed = _per_label(base.join(head, keys, join_type="left anti"))
    of_base, of_head = _per_label(base), _per_label(head)
    return [
        ClassCount(label, of_base[label], of_head[label], added[label], removed[label])
        for label in sorted(added.keys() | removed.keys())
    ]


def _per_label(images: pa.Table) -> Counter:
    counts = images.group_by("label").aggregate([([], "count_all")])
    return Counter(dict(zip(*(counts[c].to_pylist() for c in ("label", "count_all")), strict=True)))


@dataclass(frozen=True)
class Pairing:
    """Test images of both sides, paired by id.

    `table` has a row for each image that is in both test sets with the same label: id, path,
    actual, base (predicted), base_confidence, head, head_confidence; in the order of head.
    """

    table: pa.Table
    only_base: int
    only_head: int
    relabelled: int

    @property
    def same_test_set(self) -> bool:
        return not (self.only_base or self.only_head or self.relabelled)

    def _outcome(self, base_right: bool, head_right: bool) -> pa.Table:
        actual = self.table["actual"]
        base, head = (pc.equal(self.table[side], actual) for side in ("base", "head"))
        base = base if base_right else pc.invert(base)
        head = head if head_right else pc.invert(head)
        return self.table.filter(pc.and_(base, head))

    @property
    def fixed(self) -> pa.Table:
        """Rows that base has wrong and head right."""
        return self._outcome(base_right=False, head_right=True)

    @property
    def broken(self) -> pa.Table:
        """Rows that base has right and head wrong."""
        return self._outcome(base_right=True, head_right=False)

    def accuracy(self, side: str) -> float:
        """Share of the paired images that `side` ("base" or "head") has right."""
        return pc.mean(pc.equal(self.table[side], self.table["actual"])).as_py()


def pair(base: pa.Table, head: pa.Table) -> Pairing:
    """Pair two tables of predictions (id, actual, predicted, confidence, path) by id."""
    at = pc.index_in(head["id"], base["id"])
    common = head.filter(pc.is_valid(at))
    match = base.take(at.drop_null())
    same = pc.equal(common["actual"], match["actual"])
    table = pa.table(
        {
            "id": common["id"],
            "path": common["path"],
            "actual": common["actual"],
            "base": match["predicted"],
            "base_confidence": match["confidence"],
            "head": common["predicted"],
            "head_confidence": common["confidence"],
        }
    ).filter(same)
    return Pairing(
        table=table,
        only_base=len(base) - len(common),
        only_head=len(head) - len(common),
        relabelled=len(common) - len(table),
    )
