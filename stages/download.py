"""Gather the images: one manifest, and a few archives whatever their number."""

import os
from pathlib import Path

from stages.errors import run
from stages.parameters import read_parameters
from stages.sources import gather
from stages.store.atomic import replace_directory
from stages.store.raw import write_manifest

RAW = Path("data/raw")
# What outlives every run and is safe to delete: files fetched, which several projects may share,
# and what is known of files that need not be read again.
DOWNLOADS = Path(os.environ.get("IMAGE_DOWNLOADS") or "data/downloads")
SEEN = Path("data/.seen")


def main() -> None:
    settings = read_parameters().download
    with replace_directory(RAW) as raw:
        entries = gather(settings, raw, RAW, DOWNLOADS, SEEN)
        count = write_manifest(raw, entries)
    print(f"{count:,} images from {settings.source}")


if __name__ == "__main__":
    run(main)
