"""What changed between two revisions."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from stages.store.names import flatten

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


class ImageChanges(NamedTuple):
    """How many images of the data differ, told apart by id.

    `added` and `removed` by class; `relabelled` by (class in base, class in head); `moved` by
    (side of the split in base, side in head).
    """

    added: Counter[str]
    removed: Counter[str]
    relabelled: Counter[tuple[str, str]]
    moved: Counter[tuple[str, str]]


def compare_images(base: pa.Table, head: pa.Table) -> ImageChanges:
    """Both tables have the columns id, label and side, one row an image."""
    here = ["id", "label_here", "side_here"]
    both = base.join(head.rename_columns(here), "id", join_type="full outer")
    label, label_here, side, side_here = (
        both[name] for name in ("label", "label_here", "side", "side_here")
    )
    # A comparison with null is null, which no filter lets through.
    return ImageChanges(
        added=tally(both.filter(pc.is_null(label)), "label_here"),
        removed=tally(both.filter(pc.is_null(label_here)), "label"),
        relabelled=tally(both.filter(pc.not_equal(label, label_here)), "label", "label_here"),
        moved=tally(both.filter(pc.not_equal(side, side_here)), "side", "side_here"),
    )


def tally(rows: pa.Table, *columns: str) -> Counter:
    """How often each value of the column occurs, or each tuple of values of several."""
    groups = rows.group_by(list(columns)).aggregate([([], "count_all")])
    values = [groups[column].to_pylist() for column in columns]
    keys = values[0] if len(columns) == 1 else zip(*values, strict=True)
    return Counter(dict(zip(keys, groups["count_all"].to_pylist(), strict=True)))


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

    @property
    def broken(self) -> pa.Table:
        """Rows that base has right and head wrong, those that head is surest of first."""
        return self._changed("base", "head")

    @property
    def fixed(self) -> pa.Table:
        """Rows that base has wrong and head right, those that base was surest of first."""
        return self._changed("head", "base")

    def accuracy(self, side: str) -> float:
        """Share of the paired images that `side` ("base" or "head") has right."""
        return pc.mean(self._right(side)).as_py()

    def _right(self, side: str) -> pa.ChunkedArray:
        return pc.equal(self.table[side], self.table["actual"])

    def _changed(self, right: str, wrong: str) -> pa.Table:
        rows = self.table.filter(pc.and_not(self._right(right), self._right(wrong)))
        return rows.sort_by([(f"{wrong}_confidence", "descending"), ("path", "ascending")])


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
