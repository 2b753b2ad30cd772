"""The state of a training on disk: written whole or not at all, read by the same job only.

How a kill at any moment is survived. There are two kinds of file: `state.npz`, with all that is
needed to go on, and `weights-N.npz`, the weights of epoch N, which are to be the model if N stays
the best epoch. No two files can be replaced in one instant, so the order of writing decides:

1. `save_weights` writes those of the new epoch beside the old ones.
2. `save` replaces the state. Its document lists under `kept` which epochs' weights it needs.
3. `save` then removes the weights that the new state does not need.

A kill before 2 leaves the old state and the old weights: the epoch is trained again and gives the
same weights. A kill after 2 leaves the new state, the weights it needs, and at most some weights
too many, which the next `save` removes. Either way the state finds what it lists.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stages.errors import UserError
from stages.store.outputs import replace_file

STATE, LOG = "state.npz", "log"


def fingerprint(settings: dict[str, Any], files: Iterable[str | Path]) -> str:
    """Identity of a training job: 32 hex digits of its settings and the content of `files`."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in files:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


class State(NamedTuple):
    """Numbers (arrays, in order) and a JSON document, whose `kept` lists the epochs that have
    their weights in files of their own."""

    arrays: list[np.ndarray]
    document: dict[str, Any]


class Checkpoint:
    """Keeps the state of one job in `folder`; a job of another fingerprint starts afresh.

    `log` is a folder for the log of the run.
    Every array has a checksum: a state that is not as it was written, or lacks the weights it
    lists, is left behind. Files in `folder` that are not the checkpoint's are left alone.
    """

    def __init__(self, folder: str | Path, job: str):
        self.folder, self.job = Path(folder), job
        self.log = self.folder / LOG
        for path in (self.folder, self.log):
            if path.exists() and not path.is_dir():
                raise UserError(
                    f"{path} is no folder; move it away, training keeps its state there"
                )

    def load(self) -> State | None:
        """The last state saved by this job, or None."""
        state = self._read(self.folder / STATE)
        for epoch in state.document.get("kept", []) if state else []:
            if self.weights(epoch) is None:
                print(f"the weights of epoch {epoch} are gone: training starts afresh", flush=True)
                state = None
                break
        if state is None:
            self._forget()
        return state

    def save(self, arrays: list[np.ndarray], document: dict[str, Any]) -> None:
        """Replace the state. A full disk raises `OSError` and keeps the one before.

        Weights that `document["kept"]` does not list are then removed.
        """
        self._write(self.folder / STATE, arrays, document)
        for path in self.folder.glob("weights-*.npz"):
            if path not in map(self._weights, document.get("kept", [])):
                path.unlink()

    def save_weights(self, arrays: list[np.ndarray], epoch: int) -> None:
        """Keep the weights of `epoch`, beside those of others."""
        self._write(self._weights(epoch), arrays, {})

    def weights(self, epoch: int) -> list[np.ndarray] | None:
        """The weights of `epoch`, or None where they are missing or damaged."""
        saved = self._read(self._weights(epoch))
        return saved.arrays if saved else None

    def delete(self) -> None:
        """Remove what a checkpoint consists of, and the folder if nothing else is there."""
        self._forget()
        shutil.rmtree(self.log, ignore_errors=True)
        if self.folder.is_dir() and not self.folder.is_symlink() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _forget(self) -> None:
        for pattern in (STATE, "weights-*.npz", ".*.npz*"):  # the last: files that a kill left
            for path in self.folder.glob(pattern):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def _weights(self, epoch: int) -> Path:
        return self.folder / f"weights-{epoch}.npz"

    def _write(self, path: Path, arrays: list[np.ndarray], document: dict[str, Any]) -> None:
        encoded = json.dumps({"job": self.job, **document}).encode()
        # Any: among the keywords of savez is one that is no array.
        members: dict[str, Any] = {"document": np.frombuffer(encoded, np.uint8)}
        members |= {f"array{number}": array for number, array in enumerate(arrays)}
        with replace_file(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **members)
            file.flush()
            os.fsync(file.fileno())

    def _read(self, path: Path) -> State | None:
        try:
            with np.load(path, allow_pickle=False) as saved:
                document = json.loads(saved["document"].tobytes())
                if document.pop("job") != self.job:
                    print("settings, data or code have changed: training starts afresh", flush=True)
                    return None
                arrays = [saved[f"array{number}"] for number in range(len(saved.files) - 1)]
                return State(arrays, document)
        except FileNotFoundError:
            return None
        except PermissionError:
            raise  # it may be whole: for its owner to say
        except Exception:  # zip, NumPy and JSON each have many ways to say that a file is damaged
            print(f"{path} is damaged: training starts afresh", flush=True)
            return None
