"""New images for a trained model: files, folders, globs, URLs and lists, found wherever they are
and decoded as in training, in threads while the model works."""

import glob
import os
import stat
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import NamedTuple
from urllib.request import url2pathname

import numpy as np

from stages.images.decode import UnreadableImage, decode
from stages.parameters.pixels import PixelSettings
from stages.sources.fetch import fetch_bytes
from stages.sources.layout import is_hidden, is_image
from stages.store.names import clean_label

# What to classify: files, folders, globs, URLs and lists, as one sequence of image files.


# Larger files are no photos, and a server may send without end.
MAX_BYTES = 512 * 2**20


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
    found: dict[str, Input] = {}
    for argument in arguments:
        for item in _expand(argument, frozenset(classes)):
            found.setdefault(item.name, item)
    return list(found.values())


def read_input(name: str) -> bytes:
    """The bytes of the image file `name`, a path or URL. Raises `OSError`."""
    if name.startswith("file://"):
        name = url2pathname(name.removeprefix("file://"))
    try:
        return fetch_bytes(name, MAX_BYTES) if "://" in name else _read(name)
    except OSError:
        raise
    except Exception as error:  # a name that is none, and each store's library has its own
        raise OSError(str(error) or type(error).__name__) from None


def _read(path: str) -> bytes:
    # Without waiting for the writer of a pipe.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a regular file")
        if status.st_size > MAX_BYTES:
            raise OSError(f"larger than {MAX_BYTES // 2**20} MiB")
        return file.read(MAX_BYTES)


def _expand(argument: str, classes: frozenset[str]) -> Iterator[Input]:
    if "://" in argument:
        yield Input(argument, _label(argument.split("/")[-2:-1], classes))
    elif os.path.lexists(argument) or not glob.has_magic(argument):
        yield from _expand_path(argument, classes)
    elif matches := sorted(glob.glob(argument, recursive=True)):
        for match in matches:
            yield from _expand_path(match, classes)
    else:
        yield Input(argument, error="no file matches")


def _expand_path(path: str, classes: frozenset[str]) -> Iterator[Input]:
    if os.path.isdir(path):
        top = Path(path).resolve().name
        closed: list[OSError] = []
        for folder, images in _walk(path, closed.append):
            label = _label([top, *PurePath(os.path.relpath(folder, path)).parts], classes)
            yield from (Input(image, label) for image in images)
        yield from (Input(error.filename, error=error.strerror) for error in closed)
    elif os.path.exists(path):
        yield Input(path, _label([Path(path).resolve().parent.name], classes))
    else:
        dangling = os.path.lexists(path)
        yield Input(path, error=f"{'the link leads to' if dangling else 'there is'} no such file")


def _label(folders: Iterable[str], classes: frozenset[str]) -> str | None:
    """The innermost of `folders` that is named like a class."""
    names = [clean_label(folder) for folder in folders]
    return next((name for name in reversed(names) if name in classes), None)


def _walk(folder: str, report: Callable[[OSError], None]) -> Iterator[tuple[str, list[str]]]:
    """Folders under `folder` and their image files, sorted; follows links, not in circles.

    `report` gets the error of a folder that cannot be listed.
    """
    seen = {os.path.realpath(folder)}
    for parent, folders, files in os.walk(folder, onerror=report, followlinks=True):
        folders[:] = sorted(
            name
            for name in folders
            if not is_hidden(name) and os.path.realpath(os.path.join(parent, name)) not in seen
        )
        seen.update(os.path.realpath(os.path.join(parent, name)) for name in folders)
        names = [name for name in sorted(files) if is_image(name) and not is_hidden(name)]
        yield parent, [os.path.join(parent, name) for name in names]


# Image files to batches of pixels, decoded in threads while the model works.


# Files a task: enough to hide what a task costs, few enough to spread over the cores.
TASK = 8


class Batch(NamedTuple):
    """`images` uint8 (n, h, w, c) of the inputs at `positions` (n,); `errors` by position."""

    positions: list[int]
    images: np.ndarray
    errors: dict[int, str]


def load(
    inputs: Sequence[Input], settings: PixelSettings, batch_size: int, workers: int | None = None
) -> Iterator[Batch]:
    """Yield all `inputs` in order, decoded as in training, `batch_size` of them at a time.

    Works ahead by two batches, so memory does not grow with the number of inputs.
    """
    workers = workers or os.cpu_count() or 1
    starts = range(0, len(inputs), batch_size)
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[list[Future]] = deque()
        try:
            for start in starts:
                stop = min(start + batch_size, len(inputs))
                tasks = range(start, stop, TASK)
                ahead.append(
                    [pool.submit(_decode, inputs, t, min(t + TASK, stop), settings) for t in tasks]
                )
                if len(ahead) > 2:
                    yield _join(ahead.popleft())
            while ahead:
                yield _join(ahead.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _decode(inputs: Sequence[Input], start: int, stop: int, settings: PixelSettings) -> Batch:
    images = np.empty((stop - start, *settings.shape), np.uint8)
    positions: list[int] = []
    errors: dict[int, str] = {}
    for position in range(start, stop):
        try:
            if inputs[position].error:
                raise UnreadableImage(inputs[position].error)
            images[len(positions)] = decode(read_input(inputs[position].name), settings)
        except (UnreadableImage, OSError) as error:
            errors[position] = getattr(error, "strerror", None) or str(error)
        else:
            positions.append(position)
    return Batch(positions, images[: len(positions)], errors)


def _join(tasks: list[Future]) -> Batch:
    parts = [task.result() for task in tasks]
    return Batch(
        [position for part in parts for position in part.positions],
        np.concatenate([part.images for part in parts]),
        {position: error for part in parts for position, error in part.errors.items()},
    )
