"""What is packed already stands in for photos that are not here.

A clone, a copy in which an experiment runs, and a colleague's machine have data/raw, but not the
photos it was packed from.
"""

import hashlib
import json
import os
from pathlib import Path

import yaml
from pydantic import ValidationError

from stages.errors import UserError
from stages.files import MANIFEST
from stages.parameters.download import Download
from stages.sources.layout import OS_FILES, is_hidden
from stages.store.raw import read_manifest

LOCAL_SOURCES = ("archive", "folder", "csv", "parquet")


def packed_images(settings: Download, raw: Path, lock: Path) -> int | None:
    """The number of images in the folder `raw` if they stand in for those of `settings`.

    They do if download.path is missing or holds no files, and DVC's `lock` says that `raw`, byte
    for byte, was made with the same settings: else a mistaken path would go unnoticed. None if
    the images are there, and where nothing was packed with these settings. Raises `UserError` if
    `raw` is not as it was packed.
    """
    if settings.source not in LOCAL_SOURCES or settings.url or _holds_files(settings.path):
        return None
    locked, made = _locked(lock)
    # Corrections of labels are applied to what is packed, and change nothing in it.
    if (
        locked is None
        or locked.model_copy(update={"corrections": settings.corrections}) != settings
    ):
        return None
    missing = f"{settings.path} holds no files"
    if not (raw / MANIFEST).is_file():
        raise UserError(
            f"{missing}, and {raw} is not here either; put the images there, or fetch the packed "
            f"ones with dvc pull {raw}"
        )
    if folder_md5(raw) != made:
        raise UserError(
            f"{missing}, and {raw} is not what dvc.lock says was packed from it; put the images "
            f"there, or bring the packed ones back with dvc checkout --force {raw}"
        )
    return len(read_manifest(raw))


def folder_md5(folder: Path) -> str:
    """The hash by which DVC knows the folder: that of a list of its files and their hashes."""
    listed = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in OS_FILES]
        for name in names:
            if name.casefold() not in (*OS_FILES, ".ds_store"):  # .dvcignore
                path = Path(parent, name)
                with open(path, "rb") as file:
                    md5 = hashlib.file_digest(file, "md5").hexdigest()
                listed.append({"md5": md5, "relpath": path.relative_to(folder).as_posix()})
    listed.sort(key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode()).hexdigest() + ".dir"


def _holds_files(path: str) -> bool:
    """Whether `path` is a file, or a folder with any file but hidden ones in it."""
    if not os.path.isdir(path):
        return os.path.exists(path)

    def refuse(error: OSError) -> None:
        raise error  # a folder out of reach is not an empty one

    return any(
        not is_hidden(os.path.relpath(os.path.join(parent, name), path))
        for parent, folders, names in os.walk(path, onerror=refuse)
        # A link to a folder counts as a file: what it leads to is not ours to search.
        for name in [*names, *(f for f in folders if os.path.islink(os.path.join(parent, f)))]
    )


def _locked(lock: Path) -> tuple[Download | None, str]:
    """With what settings DVC last recorded the stage, and the hash of what it made; or nothing."""
    try:
        stage = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"]["download"]
        settings = Download.model_validate(stage["params"]["params.yaml"]["download"])
        return settings, str(stage["outs"][0]["md5"])
    except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError, ValidationError):
        return None, ""
