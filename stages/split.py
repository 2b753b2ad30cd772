"""Share the processed images out to training, validation and test, and describe the data.

Reads data/processed; writes data/splits and reports/data.json, reports/data_issues.csv.
"""

import numpy as np
import pyarrow as pa

from stages.errors import UserError, run
from stages.files import (
    CONFLICT,
    DATA_ISSUES,
    DATA_SUMMARY,
    IDENTICAL,
    INDEX,
    ISSUES_COLUMNS,
    LEFT_OUT,
    NEAR,
    PROCESSED,
    REJECTS,
    RELATIVES,
    RELATIVES_COLUMNS,
    SIDES,
    SPLIT_COLUMNS,
    SPLITS,
)
from stages.parameters.section import read_settings
from stages.parameters.split import Split
from stages.splits import RANK, TRAIN, describe
from stages.splits.describe import summarise, write_summary
from stages.splits.near_duplicates import (
    StoredPixels,
    components,
    near_duplicates,
    unchecked,
)
from stages.splits.oddities import odd_images
from stages.splits.plan import connected, plan_sides, relatives_of
from stages.store.outputs import Outputs, made_by, outputs_of
from stages.store.processed import Dataset, Pixels
from stages.store.tables import iterate, read_compact, read_table, words, write_table

COLUMNS = [
    *("id", "path", "label", "split", "group", "sha256", "pixels", "perceptual"),
    *("width", "height", "mode", "format", "bytes", "shard", "row"),
    *("darkest", "brightest", "entropy", "sharpness"),
]


def main() -> None:
    with outputs_of("split") as outputs:
        print(split(outputs))


def split(outputs: Outputs) -> str:
    """Write who trains, chooses and judges, and what the data is like; say it in one line."""
    settings = read_settings(Split)
    with made_by("preprocess", PROCESSED):
        dataset, pixels = Dataset.load(PROCESSED), Pixels(PROCESSED)
    with made_by("preprocess", PROCESSED / INDEX):
        images = read_compact(PROCESSED / INDEX, COLUMNS)
        hashes = words(images["perceptual"])[0]
    with made_by("preprocess", PROCESSED / REJECTS):
        reasons = read_table(PROCESSED / REJECTS, ["reason"])["reason"].to_pylist()
    if not len(images):
        raise UserError(f"{PROCESSED / INDEX} names no images; see {PROCESSED / REJECTS}")

    def find(chosen: np.ndarray) -> np.ndarray:
        where = images.select(["shard", "row"]).take(pa.array(chosen))
        with made_by("preprocess", PROCESSED):
            return pixels.rows(where["shard"].to_pylist(), where["row"].to_numpy())

    odd = odd_images(images)
    images = images.drop_columns(["darkest", "brightest", "entropy", "sharpness"])
    read_pixels = StoredPixels(pixels, find)
    relatives = None
    if settings.near_duplicates == "together":
        relatives = components(hashes, read_pixels)
    options = settings.model_dump(exclude={"near_duplicates"})
    plan = plan_sides(images, dataset.classes, relatives=relatives, **options)
    conflicts = describe.conflicting(plan.labels, plan.pixels)
    left_out = describe.left_out(plan.sides, plan.pixels, plan.relatives)
    identical = describe.identical(plan.sides, plan.labels, plan.pixels)
    summary = summarise(images, dataset.classes, plan.sides, reasons)
    # Of ten million images, what follows needs a fourth of the table.
    images = images.select(["id", "path", "label", "shard", "row"])
    pa.default_memory_pool().release_unused()
    near, distances = near_duplicates(hashes, RANK[plan.sides], read_pixels)
    other, other_distances = near_duplicates(hashes, plan.labels, read_pixels)
    unlike = plan.pixels[other[:, 0]] != plan.pixels[other[:, 1]]  # others are in `conflicts`
    other, other_distances = other[unlike], other_distances[unlike]

    summary["duplicates"] = {
        "identical": plan.identical,
        "left_out": len(left_out),
        "conflicting_labels": len(conflicts),
        "near_conflicting_labels": len(other),
        "near_across_sides": len(near),
        "near_unchecked": unchecked(hashes, plan.sides),
    }
    summary["odd"] = {kind: len(rows) for kind, (rows, _) in odd.items()}
    summary["corrections"] = dataset.corrections
    summary["notes"] = describe.notes(summary, settings.val > 0)
    issues = [
        *describe.lines(CONFLICT, conflicts, images, plan.sides, np.zeros(len(conflicts))),
        *describe.lines(CONFLICT, other, images, plan.sides, other_distances),
        *describe.lines(LEFT_OUT, left_out, images, plan.sides),
        *describe.lines(NEAR, near, images, plan.sides, distances),
        *describe.lines(IDENTICAL, identical, images, plan.sides, np.zeros(len(identical))),
    ]
    for kind, (rows, values) in odd.items():
        issues += describe.image_lines(kind, rows, values, images, plan.sides)
    write_table(outputs.file(DATA_ISSUES), ISSUES_COLUMNS, issues)
    write_summary(summary, outputs.file(DATA_SUMMARY))
    folder = outputs.directory(SPLITS)
    for side, name in enumerate(SIDES):
        chosen = images.select(SPLIT_COLUMNS).filter(plan.sides == side)
        write_table(folder / f"{name}.csv", SPLIT_COLUMNS, iterate(chosen))
    related = relatives_of(plan.sides == TRAIN, connected(plan.relatives, plan.pixels))
    ids = (images["id"].take(pa.array(at)).to_pylist() for at in related.T)
    write_table(folder / RELATIVES, RELATIVES_COLUMNS, zip(*ids, strict=True))
    return headline(summary)


def headline(summary: dict) -> str:
    """What came in and went out, in one line."""
    counts, found = dict(summary["images"]), summary["duplicates"]
    total = counts.pop("total")
    sides = ", ".join(f"{side} {count:,}" for side, count in counts.items())
    conflicts = found["conflicting_labels"] + found["near_conflicting_labels"]
    odd = sum(summary["odd"].values())
    parts = [
        f"{total:,} images: {sides}",
        f"{found['left_out']:,} left out",
        f"{conflicts:,} with conflicting labels",
        f"{found['near_across_sides']:,} near-duplicates on another side",
        f"{odd:,} worth a look",
    ]
    if found["near_unchecked"]:
        parts.append(f"{found['near_unchecked']:,} too alike to compare")
    if found["left_out"] or conflicts or found["near_across_sides"] or odd:
        parts[-1] += f" (see {DATA_ISSUES})"
    return "; ".join([*parts, *summary["notes"]])


if __name__ == "__main__":
    run(main)
