"""From declared sides, shares and a seed to the side of every image."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.errors import UserError
from stages.splits import LEFT_OUT, SIDES, TEST, TRAIN, VAL
from stages.splits.assign import by_hash, majority, stratified
from stages.splits.leaks import leaking
from stages.splits.units import (
    connected,
    first_twins,
    group_names,
    positions,
    smallest_names,
    unit_names,
)
from stages.store.tables import encode


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
    """Give every row of `images` (columns path, label, split, group, sha256, pixels) a side.

    Declared sides are kept. A side that is declared for any image takes no others; the rest
    is drawn from the images without a declared side, or, where all have one, from the
    declared training images, and `val` and `test` are shares of these. Images with a twin
    on a side that is held back more are left out (see `leaks`).

    `relatives` int64 (n,), if given, are numbers that near-duplicates share (see
    `near_duplicates.components`): they stay on one side too. `stratified` draws them, and the
    groups that they connect, as one. `hash` draws each for itself, as growth would otherwise
    move images from side to side, and leaves out those with a relative that is held back more.

    Raises `UserError` if a class has no image on a side that was drawn, or none to train on.
    """
    groups = images["group"] if group_by is None else group_names(images["path"], group_by)
    pixels, _ = encode(images["pixels"])
    files = images["sha256"]
    if method == "stratified":
        # Twins go together, so none is lost. By hash they would go where the smallest digest
        # says, and a new twin could move one from test to train: there leave one out instead.
        files = first_twins(files, pixels)
    units, names = encode(unit_names(files, groups))
    kin = units
    if relatives is not None:
        kin = connected(units, relatives)
        if method == "stratified":
            units, names = kin, smallest_names(names, units, kin)
    labels = _numbers(images["label"], classes)

    declared = _numbers(images["split"], SIDES)
    pool = declared < 0 if (declared < 0).any() else declared == TRAIN
    sides = np.where(declared < 0, TRAIN, declared).astype(np.int8)
    sides[leaking(sides, pixels) | leaking(sides, kin)] = LEFT_OUT

    shares = {TEST: test, VAL: val}
    shares = {side: share for side, share in shares.items() if not (declared == side).any()}
    drawn = np.flatnonzero(pool & (sides == TRAIN))
    members, unit_of = np.unique(units[drawn], return_inverse=True)
    places = positions(names.take(pa.array(members)), seed)
    if method == "hash":
        unit_sides = by_hash(places, shares)
    else:
        strata = majority(unit_of, labels[drawn])
        unit_sides = stratified(places, strata, np.bincount(unit_of), shares)
    sides[drawn] = unit_sides[unit_of]
    # Twins, identical in pixels but not as files, may have been drawn apart.
    sides[leaking(sides, pixels) | leaking(sides, kin)] = LEFT_OUT

    near = "" if relatives is None else ", and near-duplicates,"
    _check_classes(sides, labels, classes, [side for side in shares if shares[side] > 0], near)
    return Plan(sides, labels, pixels, kin)


def _numbers(values: pa.ChunkedArray, known: list[str] | tuple[str, ...]) -> np.ndarray:
    """Index of each of `values` in `known`, -1 if it is not there; int64 (n,)."""
    found = pc.index_in(values, pa.array(known, pa.string()))
    return pc.fill_null(found, -1).to_numpy().astype(np.int64)


def _check_classes(
    sides: np.ndarray, labels: np.ndarray, classes: list[str], drawn: list[int], near: str
) -> None:
    needed = sorted([TRAIN, *drawn])
    counts = np.stack([np.bincount(labels[sides == s], minlength=len(classes)) for s in needed])
    short = np.flatnonzero((counts == 0).any(axis=0))
    if not len(short):
        return
    named = [
        f"{classes[label]} ("
        + ", ".join(f"{n} {SIDES[s]}" for s, n in zip(needed, counts[:, label], strict=True))
        + ")"
        for label in short[:5]
    ]
    more = f" and {len(short) - 5} more" if len(short) > 5 else ""
    raise UserError(
        f"too few images to split {'class' if len(short) == 1 else 'classes'} "
        f"{', '.join(named)}{more}: every class needs an image on each side, and identical "
        f"or grouped images{near} count as one; add images, drop the class, or change split.val, "
        f"split.test or split.method"
    )
