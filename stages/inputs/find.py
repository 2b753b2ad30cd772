"""What to classify: files, folders, globs, URLs and lists, as one sequence of image files."""

import glob
import os
import threading
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

from stages.sources.layout import clean_label, is_hidden, is_image

# Larger files are no photos, and a server may send without end.
MAX_BYTES = 512 * 2**20
TIMEOUT = 30  # seconds without a sign of life


class Input(NamedTuple):
    """An image by path or URL; `label` is the class its folder is named after, if any.

    `error` says why there is nothing to read.
    """

    name: str
    label: str | None = None
    error: str | None = None


def find_inputs(arguments: Iterable[str], classes: Collection[str]) -> list[Input]:
    """The images that `arguments` name, in their order, none twice; folders sorted by path.

    An argument is a file, a folder (searched to any depth for image files), a glob or a URL.
    One that leads nowhere becomes an `Input` with an error; an empty folder gives none.
    """
    found = {}
    for argument in arguments:
        for item in _expand(argument, frozenset(classes)):
            found.setdefault(item.name, item)
    return list(found.values())


def read_input(name: str) -> bytes:
    """The bytes of the image file `name`, a path or URL. Raises `OSError`."""
    if "://" in name:
        return _fetch(name)
    if os.path.getsize(name) > MAX_BYTES:
        raise OSError(f"larger than {MAX_BYTES // 2**20} MiB")
    with open(name, "rb") as file:
        return file.read()


def _expand(argument: str, classes: frozenset[str]) -> Iterator[Input]:
    if "://" in argument:
        yield Input(argument, _label(argument.split("/")[-2:-1], classes))
    elif os.path.isdir(argument):
        top = Path(argument).resolve().name
        for folder, images in _walk(argument):
            label = _label([top, *PurePath(os.path.relpath(folder, argument)).parts], classes)
            yield from (Input(path, label) for path in images)
    elif os.path.exists(argument):
        yield Input(argument, _label([Path(argument).resolve().parent.name], classes))
    elif matches := sorted(glob.glob(argument, recursive=True)):
        for match in matches:
            yield from _expand(match, classes)
    else:
        what = "no file matches" if glob.has_magic(argument) else "there is no such file"
        yield Input(argument, error=what)


def _label(folders: Iterable[str], classes: frozenset[str]) -> str | None:
    """The innermost of `folders` that is named like a class."""
    names = [clean_label(folder) for folder in folders]
    return next((name for name in reversed(names) if name in classes), None)


def _walk(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Folders under `folder` and their image files, sorted; follows links, not in circles."""
    seen = {os.path.realpath(folder)}
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(
            name
            for name in folders
            if not is_hidden(name) and os.path.realpath(os.path.join(place, name)) not in seen
        )
        seen.update(os.path.realpath(os.path.join(place, name)) for name in folders)
        names = [name for name in sorted(files) if is_image(name) and not is_hidden(name)]
        yield place, [os.path.join(place, name) for name in names]


_of_thread = threading.local()


def _fetch(url: str) -> bytes:
    if not url.startswith(("http://", "https://")):
        import fsspec

        try:
            with fsspec.open(url, "rb") as file:
                return file.read(MAX_BYTES)
        except Exception as error:  # each store's library has exceptions of its own
            raise OSError(str(error) or type(error).__name__) from None
    import requests

    if not hasattr(_of_thread, "session"):
        retries = requests.adapters.Retry(
            4, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504)
        )
        _of_thread.session = requests.Session()
        for scheme in ("http://", "https://"):
            adapter = requests.adapters.HTTPAdapter(max_retries=retries)
            _of_thread.session.mount(scheme, adapter)
    with _of_thread.session.get(url, timeout=TIMEOUT, stream=True) as response:
        response.raise_for_status()
        content = bytearray()
        for block in response.iter_content(2**16):
            content += block
            if len(content) > MAX_BYTES:
                raise OSError(f"larger than {MAX_BYTES // 2**20} MiB")
    return bytes(content)
