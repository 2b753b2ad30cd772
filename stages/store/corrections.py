"""What people have mended in the labels: a table by image id, applied to the manifest.

data/raw stays as it was given, and pixels are known by content: so a correction, and taking it
back, decodes nothing but an image that was removed and returns.
"""

import difflib
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.errors import UserError
from stages.files import CORRECTIONS, CORRECTIONS_COLUMNS
from stages.store.names import path_cell, printable, read_label
from stages.store.tables import foreign_table

REMOVE = "-"  # instead of a class, which no class can be called
NEW = "new:"  # before a class that no image has yet, so that a misspelt one is noticed

IMAGE_ID = re.compile(r"[0-9a-f]{16}(-[0-9]+)?")


class Correction(NamedTuple):
    """A line of the table; `label` may be `REMOVE`, `path` may be empty."""

    id: str
    path: str
    label: str
    line: int


@dataclass(frozen=True)
class Corrected:
    """What became of the lines of the table; those without effect changed nothing."""

    relabelled: int = 0
    removed: int = 0
    unmatched: int = 0  # about images that are not here (any more)
    moved: int = 0  # applied, to an image that has another path now

    def __str__(self) -> str:
        """The counts that are not 0, in words: 12 labels corrected, 3 images removed."""
        said = {
            "relabelled": "label(s) corrected",
            "removed": "image(s) removed",
            "unmatched": "correction(s) of images that are not here",
            "moved": "correction(s) of images that have another path now",
        }
        parts = [(count, said[name]) for name, count in asdict(self).items() if count]
        return ", ".join(
            f"{count:,} {text.replace('(s)', '' if count == 1 else 's')}" for count, text in parts
        )


def correction_lines(path: str | Path) -> tuple[list[str], list[list[str]]]:
    """The columns of the table `path` and its lines as people wrote them, none if it is missing.

    Columns of `CORRECTIONS_COLUMNS` that it lacks are added, empty. Raises `UserError` for a
    damaged table.
    """
    try:
        header, rows = foreign_table(Path(path).read_bytes(), str(path))
    except FileNotFoundError:
        return list(CORRECTIONS_COLUMNS), []
    columns = [*header, *(name for name in CORRECTIONS_COLUMNS if name not in header)]
    return columns, [[values.get(name, "") for name in columns] for _, values in rows]


def read_corrections(path: str | Path) -> tuple[list[Correction], set[str]]:
    """The lines of the table `path`, and the classes that it says are new.

    Columns `id` and `label` are needed, `path` says which image people mean where files have
    copies, others have no meaning. Raises `UserError` for a table that is missing or wrong; only
    the default one may be missing.
    """
    path, where = Path(path), str(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        if path == CORRECTIONS:
            return [], set()
        raise UserError(
            f"{where} is missing; download.corrections names it, a table of the columns "
            f"{','.join(CORRECTIONS_COLUMNS)}, whose header alone corrects nothing"
        ) from None
    header, rows = foreign_table(content, where)
    for name in ("id", "label"):
        if header.count(name) != 1:
            raise UserError(
                f"{where} needs one column {name!r} but has {', '.join(header)[:1000] or 'none'}; "
                f"its first line should be {','.join(CORRECTIONS_COLUMNS)}"
            )
    found: dict[str, Correction] = {}
    new: set[str] = set()
    for line, values in rows:
        correction = _correction(values, line, where)
        if correction.label.startswith(NEW):
            label = read_label(correction.label.removeprefix(NEW), f"{where}, line {line}")
            correction = correction._replace(label=label)
            new.add(label)
        known = found.setdefault(correction.id, correction)
        if known is not correction:
            raise UserError(
                f"{where} has {correction.id} twice, in lines {known.line} and {line}; remove one"
            )
    return list(found.values()), new


def _correction(values: dict[str, str], line: int, where: str) -> Correction:
    at, name, label = f"{where}, line {line}", values["id"].strip(), values["label"].strip()
    if not IMAGE_ID.fullmatch(name):
        raise UserError(
            f"{at}: {printable(name)[:100]!r} is no id of an image, 16 hexadecimal digits as in "
            "reports/data_issues.csv; a spreadsheet may have taken it for a number"
        )
    if not label:
        raise UserError(f"{at}, has no label; write the right class, or {REMOVE} to remove it")
    if label != REMOVE and not label.startswith(NEW):
        label = read_label(label, at)
    return Correction(name, (values.get("path") or "").strip(), label, line)


def correct(
    manifest: pa.Table, corrections: list[Correction], new: set[str], where: str
) -> tuple[pa.Table, Corrected]:
    """`manifest` with the labels of `corrections` and without the images that they remove.

    An image is found by its id; of several copies of one file, whose ids count them, by its path
    if that is given. `where` names the table. Raises `UserError` for a class that no image has and
    that is not one of `new`, and if fewer than two classes are left.
    """
    if not corrections:
        return manifest, Corrected()
    labels = manifest["label"].combine_chunks()
    _check_classes(corrections, {*pc.unique(labels).to_pylist(), *new}, where)
    rows, moved = _find(manifest, corrections)
    found = np.flatnonzero(rows >= 0)
    found = found[np.argsort(rows[found], kind="stable")]
    at = rows[found]
    if len(twice := np.flatnonzero(np.diff(at) == 0)):
        one, two = sorted(corrections[number].line for number in found[twice[0] :][:2].tolist())
        raise UserError(f"{where}: lines {one} and {two} are about the same image; remove one")
    wanted = [corrections[number].label for number in found.tolist()]
    removed = np.array([label == REMOVE for label in wanted], bool)
    before = labels.take(pa.array(at)).to_pylist()
    relabelled = [
        row
        for row, old, label in zip(at.tolist(), before, wanted, strict=True)
        if label not in (REMOVE, old)
    ]
    mask = np.zeros(len(manifest), bool)
    mask[at] = True
    labels = pc.replace_with_mask(labels, mask, pa.array(wanted, pa.string()))
    manifest = manifest.set_column(manifest.column_names.index("label"), "label", labels)
    if removed.any():
        kept = np.ones(len(manifest), bool)
        kept[at[removed]] = False
        manifest = manifest.filter(pa.array(kept))
    if len(left := pc.unique(manifest["label"])) < 2:
        raise UserError(
            f"{where} leaves {'a single class' if len(left) else 'no image'}; a classifier needs "
            "at least two classes"
        )
    counts = Corrected(
        relabelled=len(relabelled),
        removed=int(removed.sum()),
        unmatched=len(corrections) - len(found),
        moved=moved,
    )
    return manifest, counts


def _find(manifest: pa.Table, corrections: list[Correction]) -> tuple[np.ndarray, int]:
    """The row of each correction, -1 for none, int64 (n,), and how many have another path."""

    def rows_of(column: str, values: list[str]) -> np.ndarray:
        found = pc.index_in(pa.array(values, pa.string()), manifest[column])
        return pc.fill_null(found, -1).to_numpy().astype(np.int64)

    def fields(column: str, rows: np.ndarray) -> list[str]:
        return manifest[column].take(pa.array(rows.clip(0))).to_pylist()

    # As `path_cell` writes it where a spreadsheet would take the path for a formula.
    paths = [correction.path.removeprefix("./") for correction in corrections]
    by_id = rows_of("id", [correction.id for correction in corrections])
    by_path = rows_of("path", paths)
    # Copies are counted in the order of their paths: when one goes, the next gets its number.
    same_file = [
        found >= 0 and name[:16] == correction.id[:16]
        for found, name, correction in zip(
            by_path.tolist(), fields("id", by_path), corrections, strict=True
        )
    ]
    rows = np.where(same_file, by_path, by_id)
    moved = sum(
        row >= 0 and path not in ("", now, path_cell(now).removeprefix("./"))
        for row, path, now in zip(rows.tolist(), paths, fields("path", rows), strict=True)
    )
    return rows, moved


def _check_classes(corrections: list[Correction], known: set[str], where: str) -> None:
    for correction in corrections:
        if correction.label == REMOVE or correction.label in known:
            continue
        close = difflib.get_close_matches(correction.label, sorted(known), 1)
        meant = f"did you mean {close[0]}? " if close else ""
        raise UserError(
            f"{where}, line {correction.line}: no image is of class {correction.label}; {meant}"
            f"A class of your own begins with {NEW}{correction.label}"
        )
