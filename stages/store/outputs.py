"""The outputs of a stage: put in place together, at its end, if nothing it read has changed.

DVC records what a stage depends on when the stage has ended. Whatever changes while it runs would
be recorded with outputs that were made without it, and `dvc status` would call that up to date."""

import ctypes
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from stages.errors import UserError
from stages.parameters.yaml_file import read_yaml

# Files and folders that appear whole or not at all, so that a failure destroys nothing


AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux' renameat2


@contextmanager
def replace_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes `path`'s place if the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Another process may be writing the same file: the last one to finish wins, whole.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def replace(new: Path, path: Path) -> None:
    """Put the file or folder `new` in the place of `path`, which is then gone.

    Where the system can exchange two names at once (Linux), there is no moment without `path`.
    """
    if not new.is_dir():
        os.replace(new, path)
    elif not path.exists():
        new.rename(path)
    elif _exchange(new, path):
        shutil.rmtree(new)
    else:
        old = _old(path)
        path.rename(old)
        new.rename(path)
        shutil.rmtree(old)


def restore(path: Path) -> None:
    """Take back a folder that a kill within `replace` has left under another name."""
    old = _old(path)
    if old.exists():
        if path.exists():
            shutil.rmtree(old)
        else:
            old.rename(path)


def _old(path: Path) -> Path:
    return path.with_name(f".{path.name}.old.tmp")


def _exchange(one: Path, other: Path) -> bool:
    """Swap the names of two folders in one step; False where the system cannot."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    names = os.fsencode(one), os.fsencode(other)
    return rename(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0


# What an earlier stage was to leave behind


@contextmanager
def made_by(stage: str, path: str | Path) -> Iterator[None]:
    """Around the reading of `path`, a file or folder that `stage` makes.

    Raises `UserError` if it is missing, or is not what the stage writes.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename or path} is missing; the {stage} stage makes it: dvc repro {stage}"
        ) from None
    except PermissionError:
        raise
    # What json, csv, Arrow and NumPy raise on a file that was cut short or edited by hand.
    except (ValueError, LookupError, TypeError, AttributeError, EOFError, OSError) as error:
        said = str(error).strip() or type(error).__name__
        raise UserError(
            f"{path} is damaged ({said.splitlines()[0]}); the {stage} stage makes it anew: "
            f"dvc repro {stage}"
        ) from None


# All outputs of a stage


LOCKS = Path("data/.locks")
CODE = "stages"
PARAMETERS, PIPELINE = Path("params.yaml"), Path("dvc.yaml")
UNTRACKED = frozenset(["__pycache__", "thumbs.db", "desktop.ini"])  # as in .dvcignore


class Outputs:
    """New files and folders, each under a temporary name beside its path until the end.

    `code` are the source files that the stage depends on.
    """

    def __init__(self, stage: str):
        self._inputs = _Inputs(stage)
        self.code = self._inputs.code
        self._new: dict[Path, Path] = {}

    def file(self, path: Path) -> Path:
        """Where to write the file that shall be at `path`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        restore(path)
        new = self._new[path] = path.with_name(f".{path.name}.tmp")
        _remove(new)
        return new

    def directory(self, path: Path) -> Path:
        """An empty folder, which shall be at `path`. The earlier one stays readable."""
        new = self.file(path)
        new.mkdir()
        return new

    def check_inputs(self) -> None:
        """Raise `UserError` if code, settings or data of the stage have changed since its start."""
        self._inputs.check()

    def put_in_place(self) -> None:
        self.check_inputs()
        for path, new in self._new.items():
            replace(new, path)

    def clear(self) -> None:
        for new in self._new.values():
            _remove(new)


@contextmanager
def outputs_of(stage: str) -> Iterator[Outputs]:
    """Run the block as the one `stage` of dvc.yaml; its outputs appear if the block succeeds.

    Raises `UserError` if the same stage is running already, lacks an input, or if its inputs
    change while it runs.
    """
    with _only_one(stage):
        outputs = Outputs(stage)
        try:
            yield outputs
            outputs.put_in_place()
        finally:
            outputs.clear()


@contextmanager
def _only_one(stage: str) -> Iterator[None]:
    LOCKS.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(LOCKS / f"{stage}.lock", timeout=0):
            yield
    except Timeout:
        raise UserError(
            f"another {stage} is running in this folder; wait until it has ended"
        ) from None


class _Inputs:
    """What dvc.yaml says that a stage depends on, and how it was when the stage began."""

    def __init__(self, stage: str):
        self._stage = stage
        stages = read_yaml(PIPELINE)["stages"] if PIPELINE.exists() else {}
        listed, values = stages.get(stage, {}), _settings()
        self._keys = [key for key in listed.get("params", []) if isinstance(key, str)]
        self._settings = [_look_up(values, key) for key in self._keys]
        self._paths = [Path(_resolve(dep, values)) for dep in listed.get("deps", [])]
        for path, dep in zip(self._paths, listed.get("deps", []), strict=True):
            if "$" not in dep and not path.exists():  # the stage itself speaks of a setting
                raise UserError(f"{path} is missing; {_remedy(path, stages)}")
        self._marks = [_mark(path) for path in self._paths]
        self.code = [
            Path(name)
            for path in self._paths
            if path.parts[0] == CODE
            for name, _ in _files(str(path), frozenset())
        ]

    def check(self) -> None:
        values = _settings()
        changed = [
            f"{PARAMETERS}: {key}"
            for key, before in zip(self._keys, self._settings, strict=True)
            if _look_up(values, key) != before
        ]
        changed += [
            str(path)
            for path, before in zip(self._paths, self._marks, strict=True)
            if _mark(path) != before
        ]
        if changed:
            raise UserError(
                f"{', '.join(changed)} changed while {self._stage} was running, so its results "
                "would belong to neither; they are thrown away: run dvc repro again"
            )


def _settings() -> Any:
    return read_yaml(PARAMETERS) if PARAMETERS.exists() else {}


def _resolve(dependency: str, values: Any) -> str:
    """`dependency` with the settings that it names as ${section.key}."""
    return re.sub(r"\$\{([\w.]+)\}", lambda found: str(_look_up(values, found[1])), dependency)


def _look_up(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _remedy(path: Path, stages: dict) -> str:
    for name, stage in stages.items():
        for out in [*stage.get("outs", []), *stage.get("metrics", [])]:
            if str(path) in (out if isinstance(out, dict) else [out]):
                return f"the stage {name} makes it: run dvc repro"
    return f"git checkout {path} brings it back"


def _mark(path: Path) -> bytes:
    """Changes when the file or folder `path` does: by content for code, else as far as size,
    time and place on the disk tell."""
    digest = hashlib.blake2b(digest_size=16)
    for name, status in _files(str(path), frozenset()):
        digest.update(os.fsencode(name) + b"\0")
        if path.parts[0] == CODE:
            digest.update(hashlib.sha256(Path(name).read_bytes()).digest())
        else:
            digest.update(f"{status.st_size} {status.st_mtime_ns} {status.st_ino}\n".encode())
    return digest.digest()


def _files(path: str, above: frozenset[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Names and states of the file `path`, or of all files in and under the folder, sorted."""
    try:
        if not os.path.isdir(path):
            yield path, os.stat(path)
            return
        names = sorted(os.listdir(path))
    except OSError:  # gone since it was listed, or a broken link
        return
    real = os.path.realpath(path)
    if real in above:  # a link to a folder that it lies in
        return
    for name in names:
        if not name.startswith(".") and name.lower() not in UNTRACKED:
            yield from _files(os.path.join(path, name), above | {real})


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
