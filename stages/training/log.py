"""What can be watched while a model trains: lines on the console, DVCLive's epoch log,
TensorBoard, a profile."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from dvclive import Live
from scmrepo.exceptions import SCMError

from stages.errors import UserError


class Row(NamedTuple):
    """An epoch, counted from 1, and its figures: train/loss, val/accuracy, learning_rate, ..."""

    epoch: int
    figures: dict[str, float]


class Timing(NamedTuple):
    """How long an epoch took, and the share of that time spent waiting for data.

    The two rates are None for an epoch of one step: the first is not measured, it may compile.
    """

    epoch: int
    images_per_second: float | None
    waiting_for_data: float | None
    seconds: float


def times(timings: list[Timing]) -> dict[str, Any]:
    """Figures for reports/timing.json."""
    measured = [timing for timing in timings if timing.images_per_second]
    return {
        "seconds": round(sum(timing.seconds for timing in timings), 1),
        "images_per_second": _median([timing.images_per_second for timing in measured]),
        "waiting_for_data": _median([timing.waiting_for_data for timing in measured]),
        "epochs": [timing._asdict() for timing in timings],
    }


def _median(values: list) -> float | None:
    return float(np.median(values)) if values else None


class Scores(NamedTuple):
    """How good the model is on some images."""

    loss: float
    accuracy: float
    f1_macro: float

    @classmethod
    def of(cls, confusion: np.ndarray, loss: float) -> "Scores":
        """Of images counted in `confusion` int (classes, classes), rows are actual, whose losses
        sum up to `loss`."""
        # F1 of a class is 2 TP / (actual + predicted); of one that is neither, there is none.
        right, count = np.diag(confusion), confusion.sum()
        either = confusion.sum(0) + confusion.sum(1)
        seen = either > 0
        return cls(
            loss=loss / float(count),
            accuracy=float(right.sum() / count),
            f1_macro=float(np.mean(2 * right[seen] / either[seen])),
        )


class EpochLog:
    """Rows in `folder` as DVC plots and metrics; after a resume exactly as without one."""

    def __init__(self, folder: str | Path):
        shutil.rmtree(folder, ignore_errors=True)
        try:
            self._live = Live(
                dir=str(folder), save_dvc_exp=False, dvcyaml=None, report=None, resume=False
            )
        except SCMError as error:  # of a repository without a commit, DVCLive wants the last one
            raise UserError(
                f"DVCLive cannot log to this git repository ({error}); make a first commit: "
                'git add -A && git commit -m "Begin"'
            ) from None
        self._written = 0

    def __call__(self, rows: list[Row]) -> None:
        """Write those of `rows` that are not yet written."""
        for row in rows[self._written :]:
            self._live.step = row.epoch
            for name, value in row.figures.items():
                self._live.log_metric(name, value)
            self._live.sync()
        self._written = len(rows)

    def end(self, summary: dict[str, Any]) -> None:
        """Add `summary` to the last row in metrics.json and close."""
        self._live.summary.update(summary)
        self._live.end()


def copy_log(folder: Path, plots: Path, metrics: Path) -> None:
    """Copy the `EpochLog` in `folder` to where DVC looks for it."""
    shutil.copytree(folder / "plots", plots, dirs_exist_ok=True)
    shutil.copyfile(folder / "metrics.json", metrics)


class TensorBoardLog:
    """The same rows as scalars that TensorBoard shows, in `folder`; it need not be installed."""

    def __init__(self, folder: str | Path):
        # It takes seconds, and few ask for this.
        from stages.quiet import tensorflow as tf

        shutil.rmtree(folder, ignore_errors=True)
        self._writer, self._write = tf.summary.create_file_writer(str(folder)), tf.summary.write
        self._kind = tf.compat.v1.SummaryMetadata()
        self._kind.plugin_data.plugin_name = "scalars"
        self._written = 0

    def __call__(self, rows: list[Row]) -> None:
        with self._writer.as_default():
            for row in rows[self._written :]:
                for name, value in row.figures.items():
                    self._write(name, value, row.epoch, self._kind)
        self._writer.flush()
        self._written = len(rows)


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
            import tensorflow as tf

            tf.profiler.experimental.start(str(self._folder))
            self._running = True
        yield
        self._next += 1
        if self._next == self._start + STEPS:
            self._end()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()
        if self._folder and not self._done and kind is None:
            print(
                f"train.debug.profile: nothing was profiled, as this run took {self._next} steps",
                flush=True,
            )

    def _end(self) -> None:
        if self._running:
            import tensorflow as tf

            tf.profiler.experimental.stop()
            self._running, self._done = False, True


# Lines on the console


def epoch_line(row: Row, timings: list[Timing], epochs: int, is_best: bool) -> str:
    """What the console says of an epoch out of `epochs`; its timing is the last of `timings`."""
    parts = [f"epoch {row.epoch:>{len(str(epochs))}}/{epochs}"]
    for side in ("train", "val"):
        if f"{side}/loss" in row.figures:
            loss, accuracy = (row.figures[f"{side}/{name}"] for name in ("loss", "accuracy"))
            parts.append(f"{side} loss {loss:.4f} accuracy {accuracy:.2%}")
    timing = timings[-1]
    if timing.images_per_second:
        parts.append(f"{timing.images_per_second:,.0f} images/s")
        parts.append(f"{timing.waiting_for_data:.1%} waiting for data")
    left = (epochs - row.epoch) * float(np.mean([timing.seconds for timing in timings[-3:]]))
    if left:
        parts.append(f"{_clock(left)} left")
    if is_best:
        parts.append("best so far")
    return "  ".join(parts)


def loss_and_accuracy(sums: np.ndarray) -> str:
    """Means of `sums`, float64 (3,): loss, correct, images."""
    loss, correct, count = sums
    return f"loss {loss / count:.4f}, accuracy {correct / count:.2%}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
