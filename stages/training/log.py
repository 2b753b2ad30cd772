"""What can be watched while a model trains: DVCLive's epoch log, TensorBoard, a profile."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from dvclive import Live
from scmrepo.exceptions import SCMError

from stages.errors import UserError


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

    def __call__(self, rows: list[dict]) -> None:
        """Write those of `rows` that are not yet written."""
        for row in rows[self._written :]:
            self._live.step = row["epoch"]
            for name, value in row.items():
                if name != "epoch":
                    self._live.log_metric(name, value)
            self._live.sync()
        self._written = len(rows)

    def end(self, summary: dict) -> None:
        """Add `summary` to the last row in metrics.json and close."""
        self._live.summary.update(summary)
        self._live.end()


class TensorBoardLog:
    """The same rows as scalars that TensorBoard shows, in `folder`; it need not be installed."""

    def __init__(self, folder: str | Path):
        import tensorflow as tf

        shutil.rmtree(folder, ignore_errors=True)
        self._writer, self._write = tf.summary.create_file_writer(str(folder)), tf.summary.write
        self._kind = tf.compat.v1.SummaryMetadata()
        self._kind.plugin_data.plugin_name = "scalars"
        self._written = 0

    def __call__(self, rows: list[dict]) -> None:
        with self._writer.as_default():
            for row in rows[self._written :]:
                for name, value in row.items():
                    if name != "epoch":
                        self._write(name, value, row["epoch"], self._kind)
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
