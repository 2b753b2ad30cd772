"""The state of a training on disk: written whole or not at all, read by the same job only."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from stages.errors import UserError
from stages.store.outputs import replace_file

STATE, LOG = "state.npz", "log"


def fingerprint(settings: dict, files: Iterable[str | Path]) -> str:
    """Identity of a training job: 32 hex digits of its settings and the content of `files`."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in files:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


class Checkpoint:
    """Keeps the state of one job in `folder`; a job of another fingerprint starts afresh.

    The state is numbers (arrays, in order) and a JSON document, whose `kept` lists the epochs
    that have their weights in files of their own. `log` is a folder for the log of the run.
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

    def load(self) -> tuple[list[np.ndarray], dict] | None:
        """The last state saved by this job, or None."""
        found = self._read(self.folder / STATE)
        for epoch in found[1].get("kept", []) if found else []:
            if self.weights(epoch) is None:
                print(f"the weights of epoch {epoch} are gone: training starts afresh", flush=True)
                found = None
                break
        if found is None:
            self._forget()
        return found

    def save(self, arrays: list[np.ndarray], document: dict) -> None:
        """Replace the state. A full disk raises `OSError` and keeps the one before.

        Weights that `document["kept"]` does not list are then removed: until here the state
        before could be continued with its own.
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
        found = self._read(self._weights(epoch))
        return found and found[0]

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

    def _write(self, path: Path, arrays: list[np.ndarray], document: dict) -> None:
        text = json.dumps({"job": self.job, **document}).encode()
        with replace_file(path) as temporary, open(temporary, "wb") as file:
            named = {f"array{number}": array for number, array in enumerate(arrays)}
            np.savez(file, document=np.frombuffer(text, np.uint8), **named)
            file.flush()
            os.fsync(file.fileno())

    def _read(self, path: Path) -> tuple[list[np.ndarray], dict] | None:
        try:
            with np.load(path, allow_pickle=False) as saved:
                document = json.loads(saved["document"].tobytes())
                if document.pop("job") != self.job:
                    print("settings, data or code have changed: training starts afresh", flush=True)
                    return None
                return [saved[f"array{number}"] for number in range(len(saved.files) - 1)], document
        except FileNotFoundError:
            return None
        except PermissionError:
            raise  # it may be whole: for its owner to say
        except Exception:  # zip, NumPy and JSON each have many ways to say that a file is damaged
            print(f"{path} is damaged: training starts afresh", flush=True)
            return None
