"""The epoch log as DVCLive writes it: one row an epoch, live."""

import shutil
from pathlib import Path

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
