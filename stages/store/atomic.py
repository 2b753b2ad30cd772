"""Files and folders that appear whole or not at all, so that a failure destroys nothing."""

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


@contextmanager
def replace_directory(path: str | Path) -> Iterator[Path]:
    """As `replace_file`, for a folder, which is empty at first; the old one stays readable."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    restore(path)
    temporary = path.with_name(f".{path.name}.tmp")
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir()
    try:
        yield temporary
        replace(temporary, path)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary)
