"""A user's mistake ends in one line and exit code 1, never in a traceback."""

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType


class UserError(Exception):
    """What is wrong, where, and what to do, in one line."""


def brief(reason: object) -> str:
    """The first line of what an exception says, shortened: libraries tell long stories."""
    said = (str(reason).strip() or type(reason).__name__).splitlines()[0].strip()
    return said if len(said) <= 200 else said[:200] + " ..."


def run(main: Callable[[], int | None], at_once: bool = False) -> None:
    """Call `main` as a program: its return value is the exit code (None is 0).

    A `UserError`, what the machine refuses (a full disk, a file out of reach, no memory) and
    Ctrl-C end in one line on standard error. Every other exception is a fault of ours and keeps
    its traceback. `at_once` leaves without taking down what was imported, for which TensorFlow
    needs half a second: time in which DVC waits to record what the stage has read.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be text
    try:
        code = main()
        sys.stdout.flush()
    except UserError as error:
        code = _fail(str(error))
    except KeyboardInterrupt:
        code = _interrupted()
    except BrokenPipeError:  # the reader of our output, e.g. `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except MemoryError:
        code = _fail("out of memory; close other programs, or lower the batch or image size")
    except OSError as error:
        if error.errno is None:
            raise
        code = _fail(_what_the_system_says(error))
    if at_once:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
    sys.exit(code)


def interruptible() -> None:
    """Let Ctrl-C end in one line from now on, while modules are still being imported too."""
    usual = sys.excepthook

    def hook(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        if issubclass(kind, KeyboardInterrupt):
            _interrupted()
        else:
            usual(kind, error, traceback)

    sys.excepthook = hook


@contextmanager
def standard_error_closed() -> Iterator[None]:
    """Around what libraries written in C++ do: what they tell of it is not heard."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _interrupted() -> int:
    return _fail("interrupted; run the same command again to continue", 130)


def _what_the_system_says(error: OSError) -> str:
    name = f" {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            where = f" while writing{name}" if name else ""
            return f"the disk is full{where}; free some space and run the same command again"
        case errno.EACCES | errno.EPERM:
            return f"no permission to use{name}; change its permissions or its place"
        case errno.EROFS:
            return f"cannot write{name}: the file system is read-only; use another place"
        case errno.EFBIG:
            return f"cannot write{name}: larger than the file system or a limit (ulimit -f) allows"
        case errno.ENOENT:
            return f"{name.strip() or 'a file'} is missing; dvc repro makes what it can make"
    return f"the system refuses{name}: {error.strerror}"


def _fail(message: str, code: int = 1) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code
