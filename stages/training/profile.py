"""TensorFlow's profile of a few training steps, for TensorBoard."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

WARM_UP, STEPS = 5, 10  # steps before the profile, and in it


class Profile:
    """Profiles some of the first steps of a run into `folder`; does nothing where that is None.

    Args:
        left: steps that the run may take. Where they are few, fewer are profiled, the last at
            least.

    Use it as a context manager around the run, and `step` around each step.
    """

    def __init__(self, folder: Path | None, left: int):
        self._folder = folder
        self._next, self._start = 0, min(WARM_UP, max(left - 1, 0))
        self._running = self._done = False

    def __enter__(self) -> "Profile":
        return self

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """A step of training."""
        if self._folder and self._next == self._start:
            tf.profiler.experimental.start(str(self._folder))
            self._running = True
        yield
        self._next += 1
        if self._next == self._start + STEPS:
            self._end()

    def __exit__(self, kind, error, traceback) -> None:
        self._end()
        if self._folder and not self._done and kind is None:
            print(
                f"train.debug.profile: nothing was profiled, as this run took {self._next} steps",
                flush=True,
            )

    def _end(self) -> None:
        if self._running:
            tf.profiler.experimental.stop()
            self._running, self._done = False, True
