"""Which images train, which choose, which judge: from declared sides, shares and a seed.

What belongs together (copies of one image, a group) is a *unit* and stays on one side; units get
positions from the seed, sides by position, and what would still leak is left out."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.errors import UserError
from stages.files import SIDES
from stages.splits import LEFT_OUT, RANK, TEST, TRAIN, VAL
from stages.splits.near_duplicates import join
from stages.store.tables import encode, ranks

# Units: images that must stay together, and where the seed puts each of them.


def group_names(paths: pa.ChunkedArray, pattern: str) -> pa.ChunkedArray:
    """What each of `paths` shares with its relatives: the first group of `pattern`, or its match.

    Empty where `pattern` is not found. Raises `UserError` if it is found nowhere.
    """
    search, which = re.compile(pattern).search, 1 if re.compile(pattern).groups else 0
    names = pa.chunked_array(
        [
            [(match[which] or "") if (match := search(path)) else "" for path in chunk.to_pylist()]
            for chunk in paths.chunks
        ],
        pa.string(),
    )
    if pc.all(pc.equal(names, "")).as_py():
        example = f", e.g. {paths[0]}" if len(paths) else ""
        raise UserError(f"split.group_by = {pattern!r} is found in none of the paths{example}")
    return names


class Units:
    """What stays together: images of one group, or else those of one file.

    The file and not its pixels, so that images keep their side when they are processed in
    another size or colour, and results before and after can be compared. Identical images of
    different groups are left to `leaking`: joining them would chain whole data sets together
    through one blank image.

    Units are numbered in the order of their names, a digest in hexadecimal digits or `group/...`:
    the first of several has the smallest number. `of` int64 (n,) is the unit of each image.
    """

    def __init__(
        self, digests: pa.ChunkedArray, groups: pa.ChunkedArray, pixels: np.ndarray | None
    ):
        """`pixels` int64 (n,), if given, are numbers of images that count as one file."""
        self._digests, files = digests.combine_chunks(), ranks(digests)
        self._row = np.empty(files.max(initial=-1) + 1, np.int64)
        self._row[files] = np.arange(len(files))
        self.of = files if pixels is None else smallest(files, pixels)[pixels]
        group, names = encode(groups)
        groups_by_number = names.to_pylist()
        self._groups = sorted(groups_by_number)
        if self._groups != [""]:
            place = {name: number for number, name in enumerate(self._groups)}
            place_of = np.array([place[name] for name in groups_by_number])
            alone = np.array([not name for name in groups_by_number])
            self.of = np.where(alone[group], self.of, len(self._row) + place_of[group])

    def names(self, units: np.ndarray) -> list[str]:
        """Of each of `units` int64 (m,), which ascend."""
        count = len(self._row)
        files, groups = np.split(units, [np.searchsorted(units, count)])
        digests = self._digests.take(pa.array(self._row[files])).to_pylist()
        return [digest.hex() for digest in digests] + [
            f"group/{self._groups[group - count]}" for group in groups.tolist()
        ]


def smallest(numbers: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """The smallest of `numbers` int64 (n,) in each of `sets` int64 (n,)."""
    least = np.full(sets.max(initial=-1) + 1, np.iinfo(np.int64).max)
    np.minimum.at(least, sets, numbers)
    return least


def connected(units: np.ndarray, relatives: np.ndarray) -> np.ndarray:
    """Numbers that images share which share a unit or a relative, and theirs in turn.

    `units` and `relatives` int64 (n,) from 0; so is the result.
    """
    numbers = np.unique(relatives, return_inverse=True)[1] + units.max(initial=-1) + 1
    sets = join(np.arange(numbers.max(initial=-1) + 1), units, numbers)
    return np.unique(sets[units], return_inverse=True)[1]


def relatives_of(chosen: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """Positions int64 (m, 2) of those of `chosen` bool (n,) that share a number of `sets` int64
    (n,) with others of them: each, and the first of its set."""
    at = np.flatnonzero(chosen)
    _, first, number, count = np.unique(
        sets[at], return_index=True, return_inverse=True, return_counts=True
    )
    several = count[number] > 1
    return np.stack([at[several], at[first[number[several]]]], axis=1)


def positions(units: np.ndarray, names: Callable[[np.ndarray], list[str]], seed: int) -> np.ndarray:
    """A place in [0, 1) for each of `units` int64 (n,), which ascend, float64 (n,): a function of
    its name, which `names` gives for some of them, and of the seed alone."""
    key = str(seed).encode()
    numbers = np.empty(len(units), np.uint64)
    for start in range(0, len(units), 10_000):
        digests = [
            blake2b(name.encode(), digest_size=8, key=key).digest()
            for name in names(units[start : start + 10_000])
        ]
        numbers[start : start + 10_000] = np.frombuffer(b"".join(digests), "<u8")
    # 53 bits are what a float64 holds exactly, so 1.0 is never reached.
    return (numbers >> np.uint64(11)) * 2.0**-53


# Sides for images that have none declared, by exact shares or by hash.


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
    shares are exact to rounding. A stratum with enough units has one on every side; of two, one
    trains and one tests, and a single one trains. Returns int8 (m,).
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
        served = asked[: len(units) - 1]
        for left, side in zip(range(len(served), 0, -1), served, strict=True):
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


# An image, or its twin, is never both learned from and judged by.


def leaking(sides: np.ndarray, twins: np.ndarray) -> np.ndarray:
    """Which images have a twin on a side that is held back more than their own.

    `sides` int8 (n,), `twins` int64 (n,): equal numbers are twins (same pixels, or same
    group), negative ones have none. Returns bool (n,). With these images left out, no two
    twins sit on different sides, except on `test` and `extra`.
    """
    rank = RANK[sides]
    highest = np.full(twins.max(initial=-1) + 2, -1, np.int8)
    np.maximum.at(highest, twins, rank)
    return (twins >= 0) & (rank >= 0) & (rank < highest[twins])


@dataclass(frozen=True)
class Plan:
    """`sides` int8 (n,) and `labels` int64 (n,) of all images.

    `pixels` int64 (n,) are numbers that identical images share, `relatives` int64 (n,) those
    that images share which stay on one side.
    """

    sides: np.ndarray
    labels: np.ndarray
    pixels: np.ndarray
    relatives: np.ndarray

    @property
    def identical(self) -> int:
        """Images whose pixels an earlier image has."""
        return len(self.pixels) - int(self.pixels.max(initial=-1)) - 1


def plan_sides(
    images: pa.Table,
    classes: list[str],
    *,
    method: str,
    seed: int,
    val: float,
    test: float,
    group_by: str | None = None,
    relatives: np.ndarray | None = None,
) -> Plan:
    """Give every row of `images` (columns path, label, split, group, sha256, pixels, as
    `read_compact` gives them) a side.

    Declared sides are kept. A side that is declared for any image takes no others; the rest
    is drawn from the images without a declared side, or, where all have one, from the
    declared training images, and `val` and `test` are shares of these. Images with a twin
    on a side that is held back more are left out (see `leaking`).

    `relatives` int64 (n,), if given, are numbers that near-duplicates share (see
    `near_duplicates.components`): they stay on one side too. `stratified` draws them, and the
    groups that they connect, as one. `hash` draws each for itself, as growth would otherwise
    move images from side to side, and leaves out those with a relative that is held back more.

    Raises `UserError` if a class has no image to train on, or if there is none to test.
    """
    groups = images["group"] if group_by is None else group_names(images["path"], group_by)
    pixels = ranks(images["pixels"])
    # With `stratified` twins go together, so none is lost. By hash they would go where the smallest
    # digest says, and a new twin could move one from test to train: there leave one out instead.
    named = Units(images["sha256"], groups, pixels if method == "stratified" else None)
    units = kin = named.of
    if relatives is not None:
        kin = connected(units, relatives)
        if method == "stratified":
            units = smallest(units, kin)[kin]
    labels = _numbers(images["label"], classes)

    declared = _numbers(images["split"], SIDES)
    pool = declared < 0 if (declared < 0).any() else declared == TRAIN
    sides = np.where(declared < 0, TRAIN, declared).astype(np.int8)
    sides[leaking(sides, pixels) | leaking(sides, kin)] = LEFT_OUT

    shares = {TEST: test, VAL: val}
    shares = {side: share for side, share in shares.items() if not (declared == side).any()}
    drawn = np.flatnonzero(pool & (sides == TRAIN))
    drawn_units, unit_of = np.unique(units[drawn], return_inverse=True)
    drawn_positions = positions(drawn_units, named.names, seed)
    if method == "hash":
        unit_sides = by_hash(drawn_positions, shares)
    else:
        strata = majority(unit_of, labels[drawn])
        unit_sides = stratified(drawn_positions, strata, np.bincount(unit_of), shares)
    sides[drawn] = unit_sides[unit_of]
    # Twins, identical in pixels but not as files, may have been drawn apart.
    sides[leaking(sides, pixels) | leaking(sides, kin)] = LEFT_OUT

    _check_classes(
        sides, labels, classes, ", and near-duplicates," if relatives is not None else ""
    )
    return Plan(sides, labels, pixels, kin)


def _numbers(values: pa.ChunkedArray, known: list[str] | tuple[str, ...]) -> np.ndarray:
    """Index of each of `values` in `known`, -1 if it is not there; int64 (n,)."""
    numbers, names = encode(values)
    found = pc.fill_null(pc.index_in(names, pa.array(known, pa.string())), -1)
    return found.to_numpy().astype(np.int64)[numbers]


def _check_classes(sides: np.ndarray, labels: np.ndarray, classes: list[str], near: str) -> None:
    counts = [np.bincount(labels[sides == s], minlength=len(classes)) for s in (TRAIN, TEST)]
    short = np.flatnonzero(counts[0] == 0)
    if not len(short) and counts[1].any():
        return
    if len(short):
        named = [f"{classes[label]} ({counts[1][label]} test)" for label in short[:5]]
        more = f" and {len(short) - 5} more" if len(short) > 5 else ""
        what = f"no image trains {', '.join(named)}{more}: every class needs one"
    else:
        what = "no image is left to test: a class needs two for one of them to test"
    raise UserError(
        f"too few images to split; {what}, and identical or grouped images{near} count as one; "
        "add images, drop the class, or change split.val, split.test or split.method"
    )
