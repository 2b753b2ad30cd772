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
    # Step by step: what open() makes of a file takes longer than to read a small image. Without
    # waiting for the writer of a pipe.
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a regular file")
        if status.st_size > MAX_BYTES:
            raise OSError(f"larger than {MAX_BYTES // 2**20} MiB")
        data = os.read(file, status.st_size)
        while len(data) < status.st_size and (more := os.read(file, status.st_size - len(data))):
            data += more
        return data
    finally:
        os.close(file)


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
TASKS_A_WORKER = 4  # of a large batch


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
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[_Ahead] = deque()
        try:
            for start in range(0, len(inputs), batch_size):
                positions = range(start, min(start + batch_size, len(inputs)))
                images = np.empty((len(positions), *settings.shape), np.uint8)
                size = max(TASK, -(-len(positions) // (TASKS_A_WORKER * workers)))
                parts = [slice(at, at + size) for at in range(0, len(positions), size)]
                tasks = [
                    pool.submit(_decode, inputs, positions[part], settings, images[part])
                    for part in parts
                ]
                ahead.append(_Ahead(positions, images, tasks))
                if len(ahead) > 2:
                    yield ahead.popleft().batch()
            while ahead:
                yield ahead.popleft().batch()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class _Ahead(NamedTuple):
    """A batch of the inputs at `positions` whose `tasks` decode into `images`."""

    positions: range
    images: np.ndarray
    tasks: list[Future[dict[int, str]]]

    def batch(self) -> Batch:
        """The batch when it is decoded, without the images that cannot be."""
        errors = {at: error for task in self.tasks for at, error in task.result().items()}
        if not errors:
            return Batch(list(self.positions), self.images, errors)
        rows = [row for row, at in enumerate(self.positions) if at not in errors]
        return Batch([self.positions[row] for row in rows], self.images[rows], errors)


def _decode(
    inputs: Sequence[Input], positions: range, settings: PixelSettings, images: np.ndarray
) -> dict[int, str]:
    """Decode the inputs at `positions` into `images` (n, h, w, c); the errors by position."""
    errors: dict[int, str] = {}
    for row, position in enumerate(positions):
        name, _, missing = inputs[position]
        try:
            if missing:
                raise UnreadableImage(missing)
            images[row] = decode(read_input(name), settings)
        except (UnreadableImage, OSError) as error:
            errors[position] = getattr(error, "strerror", None) or str(error)
    return errors
