"""Turn the raw images into pixels of one size: decoded, upright, resized, in a few shards.

Reads data/raw; writes data/processed, of which it reuses what has not changed.
"""

from pathlib import Path

from stages.errors import UserError, run
from stages.images import DECODER, Recipe
from stages.images.process import Processed, process
from stages.parameters import read_parameters
from stages.store.atomic import replace_directory
from stages.store.processed import INDEX, Dataset, natural_order
from stages.store.raw import read_manifest
from stages.store.tables import write_table

RAW = Path("data/raw")
PROCESSED = Path("data/processed")


def main() -> None:
    settings = read_parameters().preprocess
    # What the pixels depend on; it travels with them, and later with the model.
    look = settings.model_dump(exclude={"max_rejects", "workers"}) | {"decoder": DECODER}
    manifest = read_manifest(RAW)
    with replace_directory(PROCESSED) as folder:
        images = process(RAW, manifest, look, folder, PROCESSED, settings.workers)
        check_rejects(images.rejects(), len(manifest), settings.max_rejects)
        classes = sorted(images.labels(), key=natural_order)
        check_classes(classes, manifest)
        write_table(folder / "index.csv", INDEX, images.index())
        write_table(folder / "rejects.csv", ["file", "reason", "sha256"], images.rejects())
        Dataset(classes, Recipe.of(look).shape, look).save(folder)
    print(summary(images))


def check_rejects(rejects: list[tuple], count: int, allowed: float) -> None:
    """Raise `UserError` if more than the share `allowed` of `count` images is unreadable."""
    if len(rejects) > allowed * count or len(rejects) == count:
        examples = "; ".join(f"{file} ({reason})" for file, reason, _ in rejects[:3])
        raise UserError(
            f"{len(rejects):,} of {count:,} images cannot be read, more than preprocess."
            f"max_rejects = {allowed:g} allows: {examples}{' ...' if len(rejects) > 3 else ''}; "
            "repair or remove them, or raise max_rejects to go on without them"
        )


def check_classes(classes: list[str], manifest) -> None:
    """Raise `UserError` if a class of `manifest` has no image among those that can be read."""
    if lost := sorted(set(manifest["label"].unique().to_pylist()) - set(classes)):
        raise UserError(
            f"no image of {', '.join(lost[:5])}{', ...' if len(lost) > 5 else ''} can be read; "
            "repair them, or take the class away"
        )


def summary(images: Processed) -> str:
    """What was done, in one line."""
    total, contents, rejects = len(images.manifest), len(images.contents.first), images.rejects()
    parts = [f"{images.decoded:,} decoded"]
    if reused := contents - images.decoded:
        parts.append(f"{reused:,} reused")
    if copies := total - contents:
        parts.append(f"{copies:,} copies")
    if rejects:
        parts.append(f"{len(rejects):,} rejected, see {PROCESSED}/rejects.csv")
    return f"{total:,} images: " + ", ".join(parts)


if __name__ == "__main__":
    run(main)
