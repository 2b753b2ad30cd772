"""The data in numbers (reports/data.json), and what a person should look at before trusting it
(reports/data_issues.csv)."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.files import SIDES
from stages.splits import EXTRA, LEFT_OUT
from stages.store.names import cell, path_cell
from stages.store.tables import encode

# What a person should look at before trusting the data: one line an issue.


# Issues of a kind that are listed; data.json counts all of them.
LISTED = 1000
LISTED_IMAGES = 100  # of a kind that single images are of: more are the nature of the set


def conflicting(labels: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Pairs of identical images with different labels, int64 (k, 2) rows of the table.

    Each image is paired with the first of its twins, if that one is labelled differently.
    """
    _, first, twin = np.unique(pixels, return_index=True, return_inverse=True)
    other = first[twin]
    rows = np.flatnonzero(labels != labels[other])
    return np.stack([rows, other[rows]], axis=1)


def left_out(sides: np.ndarray, *twins: np.ndarray) -> np.ndarray:
    """Images left out, each with a twin that stays, int64 (k, 2) rows of the table.

    `twins` int64 (n,) are numbers that relatives share, the closest kind first: same pixels,
    then same group. -1 where none stays.
    """
    rows = np.flatnonzero(sides == LEFT_OUT)
    staying = np.flatnonzero(sides != LEFT_OUT)
    others = np.full(len(rows), -1, np.int64)
    for numbers in twins:
        kept = np.full(numbers.max(initial=-1) + 1, -1, np.int64)
        kept[numbers[staying]] = staying
        others = np.where(others < 0, kept[numbers[rows]], others)
    return np.stack([rows, others], axis=1)


def identical(sides: np.ndarray, labels: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Images with the pixels and the label of an earlier one, int64 (k, 2) rows of the table.

    Each is paired with the first of them. Those that are left out count for nothing here.
    """
    staying = np.flatnonzero(sides != LEFT_OUT)
    same = pixels[staying] * (labels.max(initial=0) + 1) + labels[staying]
    _, first, twin = np.unique(same, return_index=True, return_inverse=True)
    pairs = np.stack([staying, staying[first[twin]]], axis=1)
    return pairs[pairs[:, 0] != pairs[:, 1]]


def lines(
    issue: str,
    pairs: np.ndarray,
    images: pa.Table,
    sides: np.ndarray,
    distances: np.ndarray | None = None,
) -> Iterator[tuple[str, ...]]:
    """Yield the lines (`ISSUES_COLUMNS`) for the first `LISTED` of `pairs`."""
    pairs = pairs[:LISTED]
    ids, paths, labels = (
        images[column].take(pa.array(pairs.ravel().clip(0))).to_pylist()
        for column in ("id", "path", "label")
    )
    for k, (row, other) in enumerate(pairs.tolist()):
        one, two = 2 * k, 2 * k + 1
        known = other >= 0
        yield (
            issue,
            path_cell(paths[one]),
            cell(labels[one]),
            _name(sides[row]),
            path_cell(paths[two]) if known else "",
            cell(labels[two]) if known else "",
            _name(sides[other]) if known else "",
            "" if distances is None else f"{distances[k]:.4f}",
            "",
            ids[one],
            ids[two] if known else "",
        )


def image_lines(
    issue: str, rows: np.ndarray, values: np.ndarray, images: pa.Table, sides: np.ndarray
) -> Iterator[tuple[str, ...]]:
    """Yield the lines (`ISSUES_COLUMNS`) for the first `LISTED_IMAGES` of `rows`."""
    rows = rows[:LISTED_IMAGES]
    table = images.select(["id", "path", "label"]).take(pa.array(rows)).to_pylist()
    for image, value, row in zip(table, values.tolist(), rows.tolist(), strict=False):
        yield (
            issue,
            path_cell(image["path"]),
            cell(image["label"]),
            _name(sides[row]),
            *[""] * 4,
            f"{value:.4g}",
            image["id"],
            "",
        )


def _name(side: int) -> str:
    return "" if side == LEFT_OUT else SIDES[side]


# The data in numbers: what reports/data.json says.


COMMON = 10  # modes, formats and reasons that are named; the others are summed up


def summarise(
    images: pa.Table, classes: list[str], sides: np.ndarray, reasons: list[str]
) -> dict[str, Any]:
    """Counts of images and bytes by side and class, sizes, modes, formats, rejects.

    `images` has the columns label, width, height, mode, format, bytes; `sides` int8 (n,);
    `reasons` says for each rejected file why.
    """
    numbers, names = encode(images["label"])
    labels = pc.index_in(names, pa.array(classes, pa.string())).to_numpy()[numbers]
    sizes = images["bytes"].to_numpy()
    used = [side for side in range(len(SIDES)) if side != EXTRA or (sides == EXTRA).any()]
    count = {s: np.bincount(labels[sides == s], minlength=len(classes)) for s in used}
    volume = np.bincount(labels, sizes, minlength=len(classes))
    per_class = np.sum([*count.values()], axis=0)
    return {
        "images": {"total": len(images)} | {SIDES[s]: int(count[s].sum()) for s in used},
        "bytes": {"total": int(sizes.sum())}
        | {SIDES[s]: int(sizes[sides == s].sum()) for s in used},
        "classes": {
            name: {SIDES[s]: int(count[s][label]) for s in used} | {"bytes": int(volume[label])}
            for label, name in enumerate(classes)
        },
        "imbalance": {
            "largest": int(per_class.max()),
            "smallest": int(per_class.min()),
            "ratio": round(float(per_class.max() / max(1, per_class.min())), 2),
        },
        "width": _spread(images["width"].to_numpy()),
        "height": _spread(images["height"].to_numpy()),
        "modes": _common(_counts(images["mode"])),
        "formats": _common(_counts(images["format"])),
        # "truncated: 12 of 90 bytes" and "truncated: 3 of 40 bytes" are one reason.
        "rejects": {"total": len(reasons)} | _common(Counter(r.split(":")[0] for r in reasons)),
    }


Z = 1.96  # of a 95 % interval
WIDE = 0.1  # an interval that tells little


def notes(summary: dict[str, Any], validated: bool) -> list[str]:
    """What the images of `summary` are too few to tell, a sentence each.

    `validated`: whether a share of the images was to choose the best epoch.
    """
    sides, classes = summary["images"], summary["classes"]
    said = []
    if unseen := [name for name, counts in classes.items() if not counts["test"]]:
        named = ", ".join(unseen[:5]) + (", ..." if len(unseen) > 5 else "")
        said.append(
            f"{len(unseen):,} of {len(classes):,} classes without a test image, so nothing is known"
            f" of how well they are told: {named}"
        )
    # Wilson's interval where all are right, which is the narrowest.
    if (width := Z**2 / (sides["test"] + Z**2)) > WIDE:
        said.append(
            f"{sides['test']:,} test images: the 95 % interval of the accuracy will be at least "
            f"{100 * width:.0f} points wide, so add images, or go by cross-validation"
        )
    if validated and not sides["val"]:
        said.append("no validation images, so nothing chooses the best epoch")
    return said


def write_summary(summary: dict[str, Any], path: Path) -> None:
    """Write JSON with one line a class, so that a diff shows the classes that changed."""
    sections = []
    for name, section in summary.items():
        if name == "classes":
            text = ",\n".join(f"    {_line(key)}: {_line(value)}" for key, value in section.items())
            sections.append(f"  {_line(name)}: {{\n{text}\n  }}")
        else:
            sections.append(f"  {_line(name)}: {_line(section)}")
    text = "{\n" + ",\n".join(sections) + "\n}\n"
    path.write_text(text, encoding="utf-8")


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _spread(values: np.ndarray) -> dict:
    if not len(values):
        return {}
    return {
        "smallest": int(values.min()),
        "median": int(np.median(values)),
        "largest": int(values.max()),
    }


def _counts(column: pa.ChunkedArray) -> Counter:
    return Counter({item["values"]: item["counts"] for item in column.value_counts().to_pylist()})


def _common(counts: Counter) -> dict:
    """The `COMMON` most frequent, by name; the others under `other`."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = dict(sorted(ordered[:COMMON]))
    if others := sum(n for _, n in ordered[COMMON:]):
        shown["other"] = shown.get("other", 0) + others
    return shown
