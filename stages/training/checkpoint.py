"""The state of a training on disk: written whole or not at all, read by the same job only."""

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from stages.store.atomic import replace_file

STATE, BEST = "state.npz", "best.npz"


def fingerprint(settings: dict, files: Iterable[str | Path]) -> str:
    """Identity of a training job: 32 hex digits of its settings and the content of `files`."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in files:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


class Checkpoint:
    """Keeps the state of one job in `folder`; a job of another fingerprint starts afresh.

    The state is numbers (arrays, in order) and a JSON document. The weights of the best epoch
    lie in a file of their own, rewritten only when a better epoch comes.
    """

    def __init__(self, folder: str | Path, job: str):
        self.folder, self.job = Path(folder), job

    def load(self) -> tuple[list[np.ndarray], dict] | None:
        """The last state saved by this job, or None."""
        if not self.folder.exists():
            return None
        found = self._read(self.folder / STATE)
        if found is None:
            shutil.rmtree(self.folder)
        return found

    def save(self, arrays: list[np.ndarray], document: dict) -> None:
        """Replace the state. A full disk raises `OSError` and keeps the one before."""
        self._write(self.folder / STATE, arrays, document)

    def save_best(self, arrays: list[np.ndarray], epoch: int) -> None:
        """Keep the weights of `epoch`, the best so far, beside those of the best before.

        The state that names the new best follows in a second write; a kill between the two
        finds the old state with its own best still there.
        """
        self._write(self._best(epoch), arrays, {})

    def load_best(self, epoch: int) -> list[np.ndarray]:
        return self._read(self._best(epoch))[0]

    def forget_other_bests(self, epoch: int | None) -> None:
        for path in self.folder.glob(f"{BEST}-*"):
            if epoch is None or path != self._best(epoch):
                path.unlink()

    def delete(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _best(self, epoch: int) -> Path:
        return self.folder / f"{BEST}-{epoch}"

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
                    print("settings, data or code have changed: training starts afresh")
                    return None
                return [saved[f"array{number}"] for number in range(len(saved.files) - 1)], document
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, zipfile.BadZipFile):
            print(f"{path} is damaged: training starts afresh")
            return None
