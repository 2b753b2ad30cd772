"""Turn the raw images into pixels of one size: decoded, upright, resized, in a few shards.

Reads data/raw and the corrections of its labels; writes data/processed, of which it reuses what has
not changed.
"""

import csv
import shutil
import sys
from dataclasses import asdict

import pyarrow as pa
import pyarrow.compute as pc

from stages.errors import UserError, run
from stages.files import (
    DECODED_SO_FAR,
    INDEX,
    INDEX_COLUMNS,
    MANIFEST,
    PROCESSED,
    RAW,
    REJECTS,
    REJECTS_COLUMNS,
)
from stages.images.fingerprints import DECODER
from stages.images.process import Processed, process
from stages.parameters.download import Download
from stages.parameters.pixels import PixelSettings, Preprocessing
from stages.parameters.preprocess import Preprocess
from stages.parameters.section import read_settings
from stages.store.corrections import Corrected, correct, read_corrections
from stages.store.outputs import outputs_of
from stages.store.processed import Dataset, digest_tables, natural_order
from stages.store.raw import read_manifest
from stages.store.tables import write_table

# Of 16 bits, fewer levels than these make 16 of 256, too few to see much.
NARROW = 4096

# A class with fewer images has hardly one for each of training, validation and test.
FEW = 3


def main() -> None:
    with outputs_of("preprocess") as outputs:
        settings = read_settings(Preprocess)
        pixel_settings = settings.model_dump(include=set(PixelSettings.model_fields))
        preprocessing = Preprocessing(**pixel_settings, decoder=DECODER)
        folder = outputs.directory(PROCESSED)
        table = read_settings(Download).corrections
        manifest, corrected = correct(read_raw(), *read_corrections(table), table)
        images = process(RAW, manifest, preprocessing, DECODED_SO_FAR, PROCESSED, settings.workers)
        check(images, settings.max_rejects)
        images.publish(folder)
        write_table(folder / INDEX, INDEX_COLUMNS, images.index())
        write_table(folder / REJECTS, REJECTS_COLUMNS, images.rejects())
        classes = sorted(images.readable_per_class(), key=natural_order)
        Dataset(
            classes=classes,
            shape=preprocessing.shape,
            preprocess=preprocessing,
            tables=digest_tables(folder),
            corrections=asdict(corrected),
        ).save(folder)
    shutil.rmtree(DECODED_SO_FAR, ignore_errors=True)  # a worker may still be in it
    print(summary(images, corrected))
    warn_of_narrow_ranges(images, settings.sixteen_bit)


def read_raw() -> pa.Table:
    """The manifest of the raw images. Raises `UserError` if there is none, or if it is damaged."""
    path = RAW / MANIFEST
    try:
        manifest = read_manifest(RAW)
        if not pc.all(pc.match_substring_regex(manifest["sha256"], "^[0-9a-f]{64}$")).as_py():
            raise ValueError("a sha256 is not 64 hexadecimal digits")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{path} is missing; the download stage makes it: dvc repro download"
        ) from None
    except (ValueError, KeyError, csv.Error) as error:
        raise UserError(
            f"{path} is damaged ({error}); get {RAW} back with `dvc checkout {RAW}`, or remove it "
            "and run `dvc repro`"
        ) from None
    return manifest


def check(images: Processed, allowed: float) -> None:
    """Raise `UserError` if more than the share `allowed` of the images is unreadable, or a class.

    All rejected images are then listed in a file; what could be decoded stays for the next run.
    """
    rejects, count = images.rejects(), len(images.manifest)
    wrong = []
    if len(rejects) > allowed * count or len(rejects) == count:
        wrong.append(
            f"{len(rejects):,} of {count:,} images cannot be read, more than preprocess."
            f"max_rejects = {allowed:g} allows"
        )
    readable = images.readable_per_class()
    if lost := [name for name, number in readable.items() if not number]:
        wrong.append(f"no image of {_some(lost, 5)} can be read")
    if not wrong:
        return
    if few := [f"{name} ({number})" for name, number in readable.items() if 0 < number < FEW]:
        wrong.append(f"few images are left of {_some(few, 5)}, perhaps not one for each side")
    table = DECODED_SO_FAR / REJECTS
    write_table(table, REJECTS_COLUMNS, rejects)
    examples = _some([f"{file} ({reason})" for file, reason, _ in rejects], 3, "; ")
    raise UserError(
        f"{'; '.join(wrong)}: {examples}; {table} lists all. Repair or remove them, raise "
        "max_rejects, or take a class away whose images are all unreadable; what could be decoded "
        "is kept for the next run"
    )


def warn_of_narrow_ranges(images: Processed, sixteen_bit: str) -> None:
    """Say on standard error which images of 16 bits have lost nearly all contrast."""
    narrow = images.narrow(NARROW) if sixteen_bit == "full" else []
    if narrow:
        examples = _some([f"{path} ({levels:,} of 65,536)" for path, levels in narrow[:4]], 3)
        print(
            f"warning: {len(narrow):,} images of 16 bits use less than 1/16 of their levels and "
            f"come out nearly flat: {examples}; preprocess.sixteen_bit: image spreads what each "
            "has from black to white",
            file=sys.stderr,
        )


def _some(names: list[str], most: int, separator: str = ", ") -> str:
    return separator.join(names[:most] + ["..."] * (len(names) > most))


def summary(images: Processed, corrected: Corrected) -> str:
    """What was done, in one line whose figures add up."""
    contents, taken = images.contents, images.taken
    readable, total, rejected = contents.readable, len(images.manifest), len(images.rejects())
    parts = [f"{int((readable & ~taken.known).sum()):,} decoded"]
    if reused := int((readable & taken.known).sum()):
        parts.append(f"{reused:,} reused")
    if copies := total - rejected - int(readable.sum()):
        parts.append(f"{copies:,} copies")
    if rejected:
        parts.append(f"{rejected:,} rejected, see {PROCESSED / REJECTS}")
    damage = [f"{PROCESSED / name} damaged and made anew" for name in images.damaged_tables]
    if damaged := int((taken.damaged & ~taken.known).sum()):
        damage.append(f"{damaged:,} damaged and decoded again")
    mended = [str(corrected)] if str(corrected) else []
    return "; ".join([f"{total:,} images: " + ", ".join(parts), *mended, *damage])


if __name__ == "__main__":
    run(main)
