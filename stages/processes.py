"""Processes beside this one, which end with it."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from threading import Thread
from typing import Any, TypeVar

from stages.errors import UserError

MOST = 4  # processes: each takes memory, and what cannot be shared takes longer than the rest

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
        initargs=(tasks,),
    ) as pool:
        try:
            return dict(zip(tasks, pool.map(_do, tasks), strict=True))
        except BrokenProcessPool:
            raise UserError(
                "a process of this stage was killed, perhaps for lack of memory; close other "
                "programs and run the same command again"
            ) from None


_tasks: dict = {}


def _start(tasks: dict) -> None:
    """In a new process: it has `tasks`, and neither outlives the other nor tells of Ctrl-C."""
    _tasks.update(tasks)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def _do(name: Any) -> Any:
    return _tasks[name]()


def end_with_parent() -> None:
    """Let this process end as soon as the one that started it does, even if that is killed."""
    Thread(target=_watch_parent, daemon=True).start()


def _watch_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
