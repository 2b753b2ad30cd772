"""A user's mistake ends in one line and exit code 1, never in a traceback."""

import errno
import os
import sys
from collections.abc import Callable


class UserError(Exception):
    """What is wrong, where, and what to do, in one line."""


def run(main: Callable[[], int | None]) -> None:
    """Call `main` as a program: its return value is the exit code (None is 0).

    A `UserError`, a full disk, a file out of reach and Ctrl-C end in one line on standard error.
    Every other exception is a fault of ours and keeps its traceback.
    """
    try:
        code = main()
        sys.stdout.flush()
    except UserError as error:
        code = _fail(" ".join(str(error).split()))
    except KeyboardInterrupt:
        code = _fail("interrupted; run the same command again to continue", 130)
    except BrokenPipeError:  # the reader of our output, e.g. `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except PermissionError as error:
        code = _fail(f"no permission to use {error.filename}; change its permissions or its place")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" while writing {error.filename}" if error.filename else ""
        code = _fail(f"the disk is full{where}; free some space and run the same command again")
    sys.exit(code)


def _fail(message: str, code: int = 1) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code
