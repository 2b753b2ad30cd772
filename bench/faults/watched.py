"""Programs and functions run under watch: how they end, what they take, and when they hang.

A case has hung once it has worked for longer than `SECONDS`, or has done next to nothing for as
long: so a machine busy with other things does not make a fault, and a case that waits for ever
does.
"""

import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from bench.faults.cases import ACCEPTED, REJECTED, Outcome, traceback_outcome
from bench.measure import ROOT
from stages.errors import standard_error_closed

SECONDS = 10
GIB = 2**30
IDLE = 0.02  # cores: who takes less does nothing
PROGRESS = re.compile(r"\[\d\d:\d\d.*\]$")  # a line of tqdm's
_spawn = multiprocessing.get_context("spawn")


class Done(NamedTuple):
    """A program that has ended: exit code, negative for a signal; what it printed; what it took.

    `stopped` says why the watch ended it: hang or memory; else it is empty. `peak` is in bytes.
    """

    code: int
    out: str
    err: str
    seconds: float
    peak: int
    stopped: str = ""


class Watch:
    """Tells when the process `pid` has hung or taken too much memory."""

    def __init__(self, pid: int, seconds: float, memory: int):
        self._process, self._seconds, self._memory = psutil.Process(pid), seconds, memory
        self.peak = 0
        self._since = self._moment = time.monotonic()
        self._began = self._worked = self._work()

    def verdict(self) -> str:
        """hang, memory or nothing."""
        try:
            self.peak = max(self.peak, self._process.memory_info().rss)
            work, now = self._work(), time.monotonic()
        except psutil.Error:  # just ended
            return ""
        if self.peak > self._memory:
            return "memory"
        if work - self._worked > IDLE * (now - self._moment):
            self._moment, self._worked = now, work
        idle = now - self._moment
        busy = min(work - self._began, now - self._since)
        return "hang" if max(idle, busy) > self._seconds else ""

    def _work(self) -> float:
        return sum(self._process.cpu_times()[:2])


def run_stage(
    name: str,
    folder: Path,
    *arguments: str,
    seconds: float = SECONDS,
    memory: int = GIB,
    environment: dict[str, str] | None = None,
    path: Iterable[Path] = (),
) -> Done:
    """`python -m stages.NAME` in `folder`, ended if it hangs or takes more than `memory` bytes.

    `path` are folders that Python looks into before this project's.
    """
    command = [sys.executable, "-m", f"stages.{name}", *arguments]
    return run_program(command, folder, seconds, memory, environment, path)


def run_program(
    command: list[str],
    folder: Path,
    seconds: float = SECONDS,
    memory: int = GIB,
    environment: dict[str, str] | None = None,
    path: Iterable[Path] = (),
) -> Done:
    """As `run_stage`, for any `command`."""
    variables = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT])),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **(environment or {}),
    }
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        # Whoever runs this in the background may have Ctrl-C ignored, which a child inherits.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    printed: list[bytes] = [b"", b""]

    def read(number: int, pipe) -> None:
        printed[number] = pipe.read()

    readers = [
        threading.Thread(target=read, args=each)
        for each in enumerate((process.stdout, process.stderr))
    ]
    for reader in readers:
        reader.start()
    watch, stopped = Watch(process.pid, seconds, memory), ""
    while True:
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        if ended:
            break
        if stopped := stopped or watch.verdict():
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(0.02)
    process.returncode = os.waitstatus_to_exitcode(status)
    for reader in readers:
        reader.join()
    out, err = (text.decode(errors="replace") for text in printed)
    peak = max(watch.peak, usage.ru_maxrss * 1024)
    return Done(process.returncode, out, err, time.monotonic() - started, peak, stopped)


def judge(done: Done, memory: int = GIB) -> Outcome:
    """Whether a program did what it should, or refused with one line, or is at fault."""
    if done.stopped == "hang":
        return Outcome("hang", f"stopped after {done.seconds:.0f} s: {done.err}")
    if done.stopped or done.peak > memory:
        return Outcome("memory", f"{done.peak / GIB:.2f} GiB: {done.err}")
    if "Traceback (most recent call last)" in done.err + done.out:
        return traceback_outcome(done.out + done.err)
    if done.code < 0:
        return Outcome("crash", f"{signal.Signals(-done.code).name}: {done.err}")
    if done.code == 0:
        return Outcome(ACCEPTED, done.out)
    lines = [line for line in done.err.splitlines() if line.strip() and not PROGRESS.search(line)]
    if done.code == 1 and len(lines) == 1 and lines[0].startswith("error: "):
        return Outcome(REJECTED, lines[0])
    return Outcome("no single error line", f"exit code {done.code}: {done.err}")


def run_functions(
    function: Callable[..., Outcome],
    arguments: tuple,
    numbers: Iterable[int],
    workers: int,
    seconds: float = SECONDS,
) -> Iterator[tuple[int, Outcome]]:
    """Yield each of `numbers` with the outcome of `function(*arguments, number)`, as they end.

    Many calls share a process; one that crashes, hangs or takes too much memory gets a fresh one
    for the next.
    """
    todo, lock, done = iter(numbers), threading.Lock(), []
    ready = threading.Semaphore(0)

    def work() -> None:
        worker = _Worker(function, arguments, seconds)
        try:
            while True:
                with lock:
                    number = next(todo, None)
                if number is None:
                    return
                done.append((number, worker.call(number)))
                ready.release()
        except BaseException as error:
            done.append(error)
        finally:
            worker.stop()
            done.append(None)
            ready.release()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    ended = taken = 0
    while ended < workers:
        ready.acquire()
        while taken < len(done):
            item = done[taken]
            taken += 1
            if item is None:
                ended += 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item


class _Worker:
    """A process that calls a function with one number after the other."""

    def __init__(self, function: Callable[..., Outcome], arguments: tuple, seconds: float):
        self._function, self._arguments, self._seconds = function, arguments, seconds
        self._process = None

    def call(self, number: int) -> Outcome:
        if self._process is None:
            self._pipe, theirs = _spawn.Pipe()
            self._process = _spawn.Process(
                target=_serve, args=(theirs, self._function, self._arguments), daemon=True
            )
            self._process.start()
            theirs.close()
            self._pipe.recv()  # imports are done
        watch = Watch(self._process.pid, self._seconds, GIB)
        self._pipe.send(number)
        try:
            while not self._pipe.poll(0.05):
                if stopped := watch.verdict():
                    self.stop(signal.SIGKILL)
                    return Outcome(stopped, f"{watch.peak / GIB:.2f} GiB")
            return self._pipe.recv()
        except EOFError:
            self._process.join()
            code, self._process = self._process.exitcode, None
            return Outcome("crash", f"exit code {code}")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            os.kill(self._process.pid, how)
            self._process.join()
            self._process = None


def _serve(pipe, function, arguments) -> None:
    pipe.send("ready")
    while True:
        number = pipe.recv()
        _forget_peak()
        try:
            with standard_error_closed():
                outcome = function(*arguments, number)
        except Exception:
            outcome = traceback_outcome(traceback.format_exc())
        if (peak := _peak()) > GIB and not outcome.is_fault:
            outcome = Outcome("memory", f"{peak / GIB:.2f} GiB; {outcome.detail}")
        pipe.send(outcome)


def _forget_peak() -> None:
    with suppress(OSError):  # no Linux, or not allowed: the peak is that of all cases so far
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """The most memory this process has held since `_forget_peak`, in bytes."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_threads(
    function: Callable[[int], Outcome], numbers: Iterable[int], workers: int
) -> Iterator[tuple[int, Outcome]]:
    """Yield each of `numbers` with `function(number)`, as they end: for cases that are programs."""
    with ThreadPoolExecutor(workers) as pool:
        calls = {pool.submit(function, number): number for number in numbers}
        for call in as_completed(calls):
            yield calls[call], call.result()
