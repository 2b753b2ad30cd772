"""Photo sets as people have them, through download, preprocess and split: each file accounted for.

Mixed sizes, formats and orientations, names in several scripts, folders within folders, copies,
files that are no images and images that cannot be read.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from random import Random

from bench.faults.cases import ACCEPTED, Outcome, Place, case_random, first
from bench.faults.images import _heic, _orientation, _saved, mutated, picture
from bench.faults.watched import judge, run_stage
from bench.measure import write_parameters

NAMES = (
    *("IMG_0001", "a photo, no. 1", "caf\u00e9", "cafe\u0301", "\u732b", "\u043a\u043e\u0442"),
    *("\u0642\u0637\u0629", "\u0939\u093f", "\U0001f408", 'it\'s "one"', "a;b|c&d", "=1+1", "-rf"),
    *("100%", "a\tb", "line\nbreak", "\u202egpj", "<img src=x onerror=alert(1)>", "n" * 200),
    *("..b", "a..b", "C:x", "con", "a\\b", "\udcff\udcfe", " leading", "trailing ", "{{7*7}}"),
)
KINDS: dict[str, tuple[str, str, dict]] = {
    ".jpg": ("JPEG", "RGB", {}),
    ".JPG": ("JPEG", "RGB", {"quality": 60, "progressive": True}),
    ".jpeg": ("JPEG", "L", {}),
    ".png": ("PNG", "RGBA", {}),
    ".PNG": ("PNG", "P", {}),
    ".gif": ("GIF", "P", {}),
    ".webp": ("WEBP", "RGB", {}),
    ".tif": ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ".tiff": ("TIFF", "CMYK", {}),
    ".bmp": ("BMP", "RGB", {}),
    ".ppm": ("PPM", "RGB", {}),
    ".avif": ("AVIF", "RGB", {}),
    ".jp2": ("JPEG2000", "RGB", {}),
}
PASSED_OVER = {".mov": b"\0\0\0\x14ftypqt  ", ".txt": b"notes", ".xmp": b"<x/>", ".pdf": b"%PDF"}
HIDDEN = (".DS_Store", "Thumbs.db", "desktop.ini", "._IMG_0001.jpg")


def write_phone(inbox: Path, random: Random) -> None:
    """Straight from a telephone: HEIC and JPEG, turned by EXIF, films and litter beside them."""
    for label in ("cats", "dogs"):
        for number in range(15):
            size = random.choice(((61, 47), (47, 61), (400, 300), (1200, 900)))
            image = picture("RGB", random.randrange(10**6), size)
            exif = _orientation(random.randrange(1, 9))
            write(inbox / label / f"IMG_{number:04}.JPG", _saved(image, "JPEG", exif=exif))
        write(inbox / label / "IMG_9000.HEIC", _heic())
        for suffix, data in PASSED_OVER.items():
            write(inbox / label / f"IMG_0001{suffix}", data)
        for name in HIDDEN:
            write(inbox / label / name, b"litter")


def write_web(inbox: Path, random: Random) -> None:
    """Gathered from anywhere: every format and odd name, folders in folders, copies, damage."""
    contents = []
    labels = ('\u732b & "co"', "chien <3", "\u043f\u0435\u0441")
    for number, name in enumerate(NAMES * 3):
        suffix = random.choice(list(KINDS))
        kind, mode, options = KINDS[suffix]
        folder = inbox / labels[number % 3] / random.choice(("", "sub", "sub/2024 (1)"))
        size = random.choice(((1, 1), (3, 200), (61, 47), (300, 200)))
        data = _saved(picture(mode, number, size), kind, **options)
        if random.random() < 0.15:
            data = contents[-1] if contents else data  # a copy, often under another class
        elif random.random() < 0.1:
            _, data = mutated(random)
        contents.append(data)
        write(folder / f"{number:03}{name}{suffix}", data)
    write(inbox / labels[0] / "empty.png", b"")
    write(inbox / labels[1] / "page.jpg", b"<html>404</html>")
    write(inbox / labels[1] / "jpeg.png", _saved(picture("RGB", 9), "JPEG"))


def write_declared(inbox: Path, random: Random) -> None:
    """With train, val and test folders in one that wraps them, and the same photo in two sets."""
    same = _saved(picture("RGB", 77), "PNG")
    for side, count in (("Train", 30), ("valid", 8), ("test", 8), ("extra", 4)):
        for label in ("caf\u00e9", "th\u00e9"):
            for number in range(count):
                suffix = random.choice(list(KINDS))
                kind, mode, options = KINDS[suffix]
                seed = random.randrange(10**6)
                data = _saved(picture(mode, seed), kind, **options)
                if number == 0:
                    data = same
                name = f"{side}{number}{random.choice(NAMES[:10])}{suffix}"
                write(inbox / "dataset v2" / side / label / name, data)
    write(inbox / "dataset v2/Train/th\u00e9/16 bit.png", _saved(picture("I;16"), "PNG"))
    write(inbox / "dataset v2/readme.md", b"# Photos")


SETS: tuple[Callable[[Path, Random], None], ...] = (write_phone, write_web, write_declared)


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def run_case(seed: int, top: Path, number: int) -> Outcome:
    """Photo set `number`, through the stages that need no TensorFlow."""
    write_set = SETS[number % len(SETS)]
    place = Place(top / str(number))
    project = place.project
    inbox = project / "data/inbox"
    write_set(inbox, case_random(seed, "photos", number))
    write_parameters(
        project,
        download={"source": "folder"},
        preprocess={"size": [32, 32], "color": "rgb", "max_rejects": 0.5},
    )
    printed = {}
    outcome = Outcome(ACCEPTED)
    for stage in ("download", "preprocess", "split"):
        outcome = judge(run_stage(stage, project, seconds=30))
        if outcome.verdict != ACCEPTED:
            verdict = outcome.verdict if outcome.is_fault else "refused"
            outcome = Outcome(verdict, f"{stage}: {outcome.detail}")
            break
        printed[stage] = outcome.detail
    else:
        found = re.search(r"passed over ([\d,]+) files", printed["download"])
        passed_over = int(found[1].replace(",", "")) if found else 0
        outcome = judge_set(project, inbox, passed_over)
    if outside := place.written_outside():
        outcome = Outcome("outside", first(outside))
    return outcome._replace(detail=f"{write_set.__name__}: {outcome.detail}")


def judge_set(project: Path, inbox: Path, passed_over: int) -> Outcome:
    """Whether every file of `inbox` is in one place only of those that the stages name."""
    from stages.files import SIDES
    from stages.store.tables import read_table

    files = [path for path in inbox.rglob("*") if path.is_file() and path.name not in HIDDEN]
    raw, processed, splits = (project / "data" / name for name in ("raw", "processed", "splits"))
    manifest = read_table(raw / "manifest.csv", ["id", "path"]).to_pylist()
    index = read_table(processed / "index.csv", ["id", "path"]).to_pylist()
    rejects = read_table(processed / "rejects.csv", ["file", "reason"]).to_pylist()
    sides = [
        line["id"]
        for side in SIDES
        for line in read_table(splits / f"{side}.csv", ["id"]).to_pylist()
    ]
    summary = json.loads((project / "reports/data.json").read_text(encoding="utf-8"))
    left_out = summary["duplicates"]["left_out"]
    lines = []
    if len(manifest) + passed_over != len(files):
        lines.append(f"{len(files)} files: {len(manifest)} images, {passed_over} passed over")
    named = [line["path"] for line in index] + [line["file"] for line in rejects]
    if sorted(named) != sorted(line["path"] for line in manifest):
        lines.append(f"{len(manifest)} images: {len(index)} read, {len(rejects)} rejected")
    if not all(line["reason"] for line in rejects):
        lines.append("a reject without a reason")
    if len(set(sides)) != len(sides) or not set(sides) <= {line["id"] for line in index}:
        lines.append("a side names an image twice, or one that there is not")
    if len(sides) + left_out != len(index):
        lines.append(f"{len(index)} read: {len(sides)} on a side, {left_out} left out")
    if lines:
        return Outcome("lost", first(lines))
    return Outcome(
        ACCEPTED,
        f"{len(files)} files: {passed_over} passed over, {len(rejects)} rejected, "
        f"{left_out} left out, {len(sides)} on a side",
    )
