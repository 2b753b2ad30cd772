"""What the benchmarks share: stages run as programs, rounds that alternate, the JSON line."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).parent.parent


class Run(NamedTuple):
    """A stage that has ended: seconds of wall clock, seconds of work of all cores, peak MiB.

    On a machine that does other things as well, the work says more than the seconds.
    """

    seconds: float
    work: float
    peak: float


def write_parameters(folder: Path, **sections: dict) -> None:
    """params.yaml of `folder`: the default one, with some settings of some sections changed."""
    parameters = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for section, settings in sections.items():
        parameters[section] |= settings
    (folder / "params.yaml").write_text(yaml.safe_dump(parameters), encoding="utf-8")


def run_stage(name: str, folder: Path, watch_memory: bool = False) -> Run:
    """Run `python -m stages.NAME` in `folder`; the peak, if watched, is that of all processes."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    started, before = time.perf_counter(), os.times()
    command = [sys.executable, "-m", f"stages.{name}"]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    peak = 0
    while watch_memory and process.poll() is None:
        peak = max(peak, memory_of(process.pid))
        time.sleep(0.1)
    if process.wait():
        raise SystemExit(f"error: stages.{name} failed in {folder}")
    after = os.times()
    work = after.children_user + after.children_system
    work -= before.children_user + before.children_system
    return Run(time.perf_counter() - started, work, peak)


def memory_of(pid: int) -> float:
    """MiB that the process `pid` and those it started hold, shared pages counted once."""
    import psutil

    total = 0
    try:
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            total += one.memory_full_info().pss
    except (psutil.Error, AttributeError):  # just ended, or no Linux
        pass
    return total / 2**20


class Cost(NamedTuple):
    """Medians over the rounds: seconds of wall clock, and of work of all cores together."""

    seconds: float
    work: float


def alternate(contestants: dict[str, Callable[[], None]], rounds: int) -> dict[str, Cost]:
    """What each costs, run in turn `rounds` times so that all meet the same conditions.

    On a machine that does other things as well, the work says more than the seconds.
    """
    costs = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            started, worked = time.perf_counter(), _work()
            run()
            costs[name].append((time.perf_counter() - started, _work() - worked))
    return {
        name: Cost(*map(statistics.median, zip(*rows, strict=True))) for name, rows in costs.items()
    }


def _work() -> float:
    """Seconds of processor time of this process and of those it started."""
    import psutil

    ended = os.times()
    times = [time.process_time(), ended.children_user, ended.children_system]
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            times.append(sum(child.cpu_times()[:4]))
    return sum(times)


def report(name: str, **figures) -> None:
    """The last line of a benchmark."""
    print(json.dumps({"name": name, **figures}), flush=True)
