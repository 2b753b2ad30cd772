"""Gather the images: one manifest, and a few archives whatever their number."""

import os
import shutil
from pathlib import Path

from stages.errors import UserError, run
from stages.files import DOWNLOADS, DVC_LOCK, PACKED_SO_FAR, RAW, SEEN
from stages.parameters.download import Download
from stages.parameters.section import read_settings
from stages.sources.gather import gather
from stages.sources.packed import packed_images
from stages.store.outputs import Outputs, outputs_of
from stages.store.raw import write_manifest


def main() -> None:
    with outputs_of("download") as outputs:
        print(download(outputs))
    shutil.rmtree(PACKED_SO_FAR, ignore_errors=True)


def download(outputs: Outputs) -> str:
    """Fill data/raw, or keep it; say in one line what it holds."""
    settings = read_settings(Download)
    kept = packed_images(settings, RAW, DVC_LOCK)
    if kept is not None:
        what = "is empty" if os.path.isdir(settings.path) else "is missing"
        return f"{settings.path} {what}: keeping the {kept:,} images packed in {RAW}"
    try:
        raw = outputs.directory(RAW)
        count = write_manifest(raw, gather(settings, raw, RAW, DOWNLOADS, SEEN))
    except UserError as error:
        # dvc exp run --queue and --temp work in a copy of what git and DVC track, no more.
        if (
            ".dvc" in Path.cwd().parts
            and settings.url is None
            and not Path(settings.path).is_absolute()
        ):
            raise UserError(
                f"{error} (this experiment runs in a copy of the repository without your "
                "untracked files, and data/raw was packed with other download settings: set an "
                "absolute download.path)"
            ) from None
        raise
    return f"{count:,} images from {settings.source}"


if __name__ == "__main__":
    run(main)
