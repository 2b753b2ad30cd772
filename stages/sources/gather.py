"""Images from whichever source the settings name, packed into data/raw."""

import os
import posixpath
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from stages.errors import UserError
from stages.files import MANIFEST
from stages.parameters.download import Download
from stages.sources.archive import archive_entries, put_archive
from stages.sources.bucket import bucket_entries
from stages.sources.fetch import fetch
from stages.sources.folder import folder_images
from stages.sources.known import known_images
from stages.sources.parquet import parquet_files, parquet_images
from stages.sources.table import table_entries, table_images
from stages.store.blobs import file_sha256
from stages.store.names import printable
from stages.store.raw import ChangedImage, Entry, RawImage, file_mark, pack


def gather(
    settings: Download, raw: Path, previous: Path, downloads: Path, seen: Path
) -> Iterable[Entry]:
    """Put the archives of the source that `settings` name into `raw`; entries sorted by path.

    Archives of the folder `previous` that would come out the same are taken over. The folder
    `downloads` keeps what is fetched, the folder `seen` remembers which files are known.
    """
    source, columns = settings.source, settings.columns
    if source == "archive" or (source == "csv" and settings.url):
        files = _files(settings, downloads, [Path(settings.path)])
        archives = {_archive_name(name): file for name, file in files.items()}
        # What is fetched was verified; a person's own archive may be written to meanwhile.
        own = [] if settings.url else [file for file in archives.values() if file.is_file()]
        marks = [file_mark(os.stat(file)) for file in own]
        if source == "archive":
            entries = archive_entries(archives, settings.label_pattern)
        else:
            entries = table_entries(archives, settings.table, columns)
        for name, archive in archives.items():
            put_archive(archive, raw / name, own=settings.url is not None)
        for file, mark in zip(own, marks, strict=True):
            if file_mark(os.stat(file)) != mark:
                raise UserError(f"{file} changed while it was read; run again")
        return entries
    if source == "folder" and settings.url:
        pattern = settings.label_pattern
        return bucket_entries(
            settings.urls[0], raw, previous, seen / "bucket", seen / "packed", pattern
        )
    if source == "folder":
        images = folder_images(settings.path, seen / "files.csv", settings.label_pattern)
    elif source == "csv":
        images = table_images(settings.path, settings.table, columns, seen / "files.csv")
    elif source == "parquet":
        local = [] if settings.url else parquet_files(settings.path)
        images = parquet_images(_files(settings, downloads, local), columns)
    else:
        images = known_images(source, downloads)
    return _pack(images, raw, previous, seen)


def _pack(images: Iterator[RawImage], raw: Path, previous: Path, seen: Path) -> Iterator[Entry]:
    try:
        yield from pack(images, raw, previous, seen / "shards.json")
    except ChangedImage:
        (seen / "files.csv").unlink(missing_ok=True)  # the next run shall read every file
        raise


def _files(settings: Download, downloads: Path, local: list[Path]) -> dict[str, Path]:
    """The files to read by a short name each: those of download.url, fetched, or the `local`."""
    if settings.url is None:
        names = _short_names([file.as_posix() for file in local])
        files = dict(zip(names, local, strict=True))
        for file, sha256 in zip(local, settings.pins, strict=False):
            if file.is_file() and sha256 and (found := file_sha256(file)) != sha256:
                raise UserError(
                    f"{file} has sha256 {found}, not download.sha256 {sha256}; it is another file"
                )
        return files
    names = _short_names([unquote(urlsplit(url).path) for url in settings.urls])
    pins: list[str | None] = [*settings.pins] or [None] * len(names)
    return {
        name: fetch([url], downloads, sha256)
        for name, url, sha256 in zip(names, settings.urls, pins, strict=True)
    }


def _short_names(paths: list[str]) -> list[str]:
    """`paths` relative to the folder that they all lie in, none of them twice."""
    common = posixpath.commonpath([posixpath.dirname(path) or "." for path in paths])
    names = [posixpath.relpath(path, common) for path in paths]
    flat = [_archive_name(name) for name in names]
    if len(set(flat)) == len(flat):
        return names
    # They differ in what is no part of the path, as in get?id=1 and get?id=2.
    return [f"{number}/{name}" for number, name in enumerate(names, 1)]


def _archive_name(name: str) -> str:
    """The name in data/raw of an archive that has the short name `name`."""
    flat = re.sub(r"[\0-\x1f/\\]", "-", printable(name))
    return f"archive-{flat}" if flat.strip(".") in ("", MANIFEST) else flat
