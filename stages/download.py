"""Gather the images: one manifest, and a few archives whatever their number."""

from pathlib import Path

from stages.errors import run
from stages.parameters import read_parameters
from stages.sources import gather
from stages.store.atomic import replace_directory
from stages.store.raw import write_manifest

RAW = Path("data/raw")
CACHE = Path("data/downloads")  # outlives every run; safe to delete


def main() -> None:
    settings = read_parameters().download
    with replace_directory(RAW) as raw:
        entries = gather(settings, raw, previous=RAW, cache=CACHE)
        count = write_manifest(raw, entries)
    print(f"{count:,} images from {settings.source}")


if __name__ == "__main__":
    run(main)
