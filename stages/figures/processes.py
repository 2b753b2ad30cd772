"""Work in several processes at once: matplotlib draws on one core."""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from stages.errors import UserError

MOST = 4  # processes: each takes memory, and with more of them importing takes longer than drawing
PR_SET_PDEATHSIG = 1  # of Linux' prctl

Name = TypeVar("Name")
Result = TypeVar("Result")


def at_once(
    tasks: dict[Name, Callable[[], Result]], processes: int | None = None
) -> dict[Name, Result]:
    """What each of `tasks` returns, by name. Raises what the first of them that fails raises, and
    `UserError` if a process is killed.

    `processes`: how many (None: one a core, at most `MOST`). They are copies of this one, so
    nothing is imported, read or held in memory again; what a task returns is pickled. Only Linux
    copies a process safely: elsewhere, and instead of a single one, this process does the work.
    """
    processes = processes or min(MOST, os.cpu_count() or 1)
    if sys.platform != "linux" or processes == 1:
        return {name: task() for name, task in tasks.items()}
    with ProcessPoolExecutor(
        processes,
        multiprocessing.get_context("fork"),
        initializer=_start,
        initargs=(tasks, os.getpid()),
    ) as pool:
        try:
            return dict(zip(tasks, pool.map(_do, tasks), strict=True))
        except BrokenProcessPool:
            raise UserError(
                "a process that draws the figures was killed, perhaps for lack of memory; close "
                "other programs and run the same command again"
            ) from None


_tasks: dict = {}


def _start(tasks: dict, parent: int) -> None:
    """In a new process: it has `tasks`, and neither outlives `parent` nor tells of Ctrl-C."""
    _tasks.update(tasks)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _do(name: Any) -> Any:
    return _tasks[name]()
