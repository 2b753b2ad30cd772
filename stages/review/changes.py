"""What differs between two sides of a review."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

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


def flatten(values: dict, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one: {"test": {"loss": 1}} gives {"test.loss": 1}. Lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def changes(base: dict, head: dict) -> list[Change]:
    """The entries that differ, in the order of `head`, then those only `base` has."""
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
