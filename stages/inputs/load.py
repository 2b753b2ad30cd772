"""Image files to batches of pixels, decoded in threads while the model works."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from stages.images.decode import Recipe, UnreadableImage, decode
from stages.inputs.find import Input, read_input

# Files a task: enough to hide what a task costs, few enough to spread over the cores.
TASK = 8


class Batch(NamedTuple):
    """`images` uint8 (n, h, w, c) of the inputs at `positions` (n,); `errors` by position."""

    positions: list[int]
    images: np.ndarray
    errors: dict[int, str]


def load(
    inputs: Sequence[Input], recipe: Recipe, batch_size: int, workers: int | None = None
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
                    [pool.submit(_decode, inputs, t, min(t + TASK, stop), recipe) for t in tasks]
                )
                if len(ahead) > 2:
                    yield _join(ahead.popleft())
            while ahead:
                yield _join(ahead.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _decode(inputs: Sequence[Input], start: int, stop: int, recipe: Recipe) -> Batch:
    images = np.empty((stop - start, *recipe.shape), np.uint8)
    positions, errors = [], {}
    for position in range(start, stop):
        try:
            if inputs[position].error:
                raise UnreadableImage(inputs[position].error)
            images[len(positions)] = decode(read_input(inputs[position].name), recipe)
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
