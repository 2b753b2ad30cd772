"""Where images come from: known sets, archives, folders, tables; local or remote."""

from collections.abc import Iterable
from pathlib import Path

from stages.parameters.download import Download
from stages.sources.archive import archive_entries
from stages.sources.arrays import digits_images
from stages.sources.folder import folder_images
from stages.store.raw import Entry, pack


def gather(settings: Download, raw: Path, previous: Path, cache: Path) -> Iterable[Entry]:
    """Put the archives of the source that `settings` name into `raw`; entries sorted by path.

    Archives of the folder `previous` that would come out the same are taken over. `cache` is a
    folder of ours for what was fetched and for the hashes of files seen.
    """
    path = Path(settings.path)
    match settings.source:
        case "archive":
            return archive_entries([path], raw, own=False)
        case "digits":
            images = digits_images()
        case "folder":
            images = folder_images(path, cache / "seen.csv")
        case other:
            raise NotImplementedError(other)
    return pack(images, raw, previous)
