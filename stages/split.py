"""Share the processed images out to training, validation and test, and describe the data.

Reads data/processed; writes data/splits and reports/data.json, reports/data_issues.csv.
"""

from pathlib import Path

from stages.errors import UserError, run
from stages.parameters import read_parameters
from stages.splits import SIDES, issues
from stages.splits.plan import plan_sides
from stages.splits.summary import duplicates, summarise, write_summary
from stages.store.atomic import replace_directory, replace_file
from stages.store.processed import Dataset
from stages.store.tables import read_table, write_table

PROCESSED = Path("data/processed")
SPLITS = Path("data/splits")
SUMMARY = Path("reports/data.json")
ISSUES = Path("reports/data_issues.csv")

COLUMNS = [
    *("id", "path", "label", "split", "group", "pixels", "perceptual"),
    *("width", "height", "mode", "format", "bytes"),
]


def main() -> None:
    settings = read_parameters().split
    classes = Dataset.load(PROCESSED).classes
    images = read_table(PROCESSED / "index.csv", COLUMNS)
    if not len(images):
        raise UserError(f"{PROCESSED}/index.csv names no images; see {PROCESSED}/rejects.csv")
    plan = plan_sides(images, classes, **settings.model_dump())

    labels = images["label"].combine_chunks().dictionary_encode().indices.to_numpy()
    conflicts = issues.conflicting(labels, plan.pixels)
    left_out = issues.left_out(plan.sides, plan.pixels)
    reasons = read_table(PROCESSED / "rejects.csv")["reason"].to_pylist()
    summary = summarise(images, classes, plan.sides, reasons)
    summary["duplicates"] = duplicates(plan.sides, plan.pixels, len(conflicts), 0)

    write_table(
        ISSUES,
        issues.COLUMNS,
        [
            *issues.lines("conflicting labels", conflicts, images, plan.sides),
            *issues.lines("left out", left_out, images, plan.sides),
        ],
    )
    with replace_file(SUMMARY) as path:
        write_summary(summary, path)
    with replace_directory(SPLITS) as folder:
        for side, name in enumerate(SIDES):
            chosen = images.select(["id", "label"]).filter(plan.sides == side)
            rows = zip(chosen["id"].to_pylist(), chosen["label"].to_pylist(), strict=True)
            write_table(folder / f"{name}.csv", ["id", "label"], rows)


if __name__ == "__main__":
    run(main)
