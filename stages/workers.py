"""Work on all cores, or on the machines of a cluster: tasks in, results out.

The environment variable DASK_SCHEDULER names the scheduler of a Dask cluster whose workers do the
work; without it threads of this process do. Where the work is done is no parameter of the result,
so it is no setting of params.yaml either.

All machines share the project folder, at the same path (NFS, EFS, Lustre ...), and scheduler and
workers are started in it, by `python -m dask scheduler` and `python -m dask worker ADDRESS`. DVC 3
tracks no output outside of the folder (dvc.output: "Saving cached external output ... is not
supported"), so data get into buckets by `dvc push`. Dask runs whatever reaches its ports: they
belong on a network that nobody else is on, or behind its own TLS.
"""

import hashlib
import logging
import os
import pickle
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from stages.errors import UserError
from stages.files import CLUSTER

if TYPE_CHECKING:
    from distributed import Client

SCHEDULER = "DASK_SCHEDULER"

# Tasks handed out, for each worker: one that is worked on, and one that waits for its turn.
WAITING = 2

# How long a scheduler may take to answer, and one that was there before to come back.
CONNECT_SECONDS, RECONNECT_SECONDS = 10, 120

# Without a result for so long, the scheduler is asked whether it is still there.
LOOK_SECONDS = 2.0

# A result is there and small; if it does not come, the scheduler does not either.
GATHER_SECONDS = 30

Task = TypeVar("Task")
Result = TypeVar("Result")


def cluster() -> str | None:
    """The address of the cluster's scheduler, such as tcp://10.0.0.1:8786, if one is to be used."""
    return os.environ.get(SCHEDULER) or None


def each(
    work: Callable[[Task], Result], tasks: Iterable[Task], threads: int | None = None
) -> Iterator[Result]:
    """`work` of each of `tasks`, as they are done; a bounded number of tasks is in memory.

    In a cluster `work` is a function of a module, perhaps `functools.partial` of one, and a task
    may run twice, at once or one after the other: it has to write the same bytes to the same
    places. Paths may be relative. What `work` raises comes back. `threads`: how many without a
    cluster (None: one a core).
    """
    address = cluster()
    yield from _in_cluster(address, work, tasks) if address else in_threads(work, tasks, threads)


def in_threads(
    work: Callable[[Task], Result], tasks: Iterable[Task], threads: int | None = None
) -> Iterator[Result]:
    """As `each` without a cluster."""
    threads = threads or os.cpu_count() or 1
    done: SimpleQueue[Future[Result]] = SimpleQueue()
    waiting = 0
    with ThreadPoolExecutor(threads) as pool:
        try:
            for task in tasks:
                pool.submit(work, task).add_done_callback(done.put)
                waiting += 1
                if waiting >= WAITING * threads:
                    yield done.get().result()
                    waiting -= 1
            for _ in range(waiting):
                yield done.get().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


# In a cluster. Dask itself runs a task again whose worker has died. What it does not do is to
# outlive its scheduler, which takes all tasks with it: they are kept here until they are done.


class _Lost(Exception):
    """The scheduler has gone, and with it what it was to have done."""


def _in_cluster(
    address: str, work: Callable[[Task], Result], tasks: Iterable[Task]
) -> Iterator[Result]:
    undone: dict[str, Task] = {}
    tasks, patience = iter(tasks), CONNECT_SECONDS
    with _mark() as mark:
        run = _Run(os.getcwd(), mark, code(), pickle.dumps(work))
        while True:
            client = _connect(address, patience)
            try:
                yield from _handed_out(client, address, run, tasks, undone)
                return
            except _Lost:
                patience = RECONNECT_SECONDS
                print(
                    f"warning: the Dask scheduler at {address} has gone; trying for {patience} s "
                    "to reach it again",
                    file=sys.stderr,
                )
                _disconnect(address)


_clients: dict[str, "Client"] = {}  # by address, for all calls: Dask ends them with the process


def _disconnect(address: str) -> None:
    with suppress(OSError, TimeoutError, CancelledError):
        _clients.pop(address).close(timeout=1)


def _connect(address: str, seconds: float) -> "Client":
    """Raises `UserError` if no scheduler is there within `seconds`."""
    if address in _clients:
        return _clients[address]
    try:
        from distributed import Client  # takes a second to import
    except ImportError:
        raise UserError(
            f"{SCHEDULER} is set, but Dask is not installed; run: make cluster"
        ) from None
    if not re.fullmatch(r"(tcp|tls|wss?|ucx)://.+:\d+", address):
        raise UserError(f"{SCHEDULER}={address} is no address such as tcp://10.0.0.1:8786")
    for name in ("distributed", "distributed.client"):  # what they have to say is said here
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", message="Sending large graph")  # whole shards, on purpose
    end = time.monotonic() + seconds
    while True:
        try:
            client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
            return _clients.setdefault(address, client)
        except (OSError, TimeoutError, CancelledError):
            if time.monotonic() < end:
                continue
            raise UserError(
                f"no Dask scheduler answers at {SCHEDULER}={address} within {seconds:g} s; start "
                "it (python -m dask scheduler) and run again, what is done is kept; without "
                f"{SCHEDULER} this machine does the work"
            ) from None


def _handed_out(
    client: "Client",
    address: str,
    run: "_Run",
    tasks: Iterator[Task],
    undone: dict[str, Task],
) -> Iterator[Any]:
    """Results of the tasks `undone` and of `tasks`; `undone` has those of which there are none."""
    tasks = chain([*undone.values()], tasks)
    undone.clear()
    done: SimpleQueue = SimpleQueue()
    futures = {}  # Dask drops a task whose future nobody has
    scheduler, threads, looked, waits = "", 0, -LOOK_SECONDS, False
    try:
        while True:
            if time.monotonic() >= looked + LOOK_SECONDS:
                state = _state(client)
                if scheduler not in ("", state["id"]):
                    raise _Lost
                scheduler, threads, looked = state["id"], state["total_threads"], time.monotonic()
                if not threads and not waits:
                    print(
                        f"waiting for workers of {address}; in this folder on every machine: "
                        f"python -m dask worker {address} (one that ends at once says why)",
                        file=sys.stderr,
                    )
                waits = not threads
            for task in islice(tasks, max(0, WAITING * max(1, threads) - len(undone))):
                key = f"{run.name}-{uuid4()}"
                undone[key] = task
                futures[key] = client.submit(run, pickle.dumps(task), key=key)
                futures[key].add_done_callback(done.put)
            if not undone:
                return
            try:
                future = done.get(timeout=LOOK_SECONDS)
            except Empty:
                continue
            result = _result(future)
            del futures[future.key], undone[future.key], future
            yield result
    except _Lost:
        raise
    except BaseException:  # nobody waits for the others
        with suppress(OSError, TimeoutError, CancelledError):
            client.cancel([*futures.values()])
        raise


def _state(client: "Client") -> dict[str, Any]:
    """Raises `_Lost` if the scheduler does not answer."""
    try:
        return client.sync(client.scheduler.identity, n_workers=0, callback_timeout=CONNECT_SECONDS)
    except (OSError, TimeoutError, CancelledError, RuntimeError, AttributeError):
        raise _Lost from None


def _result(future: Any) -> Any:
    """Of a future of Dask that is done. Raises what the work raised."""
    from distributed import KilledWorker

    if future.status not in ("finished", "error"):
        raise _Lost
    failed = future.status == "error"
    try:
        return future.result(timeout=None if failed else GATHER_SECONDS)
    except KilledWorker as error:
        raise UserError(
            f"{error.allowed_failures + 1} workers died of the same work, the last of them at "
            f"{error.last_worker.address}, whose log says more; perhaps each needs more memory "
            "(--memory-limit)"
        ) from None
    except RuntimeError as error:
        if "deserialization of the task graph" not in str(error):
            raise
        raise UserError(
            "the scheduler does not find the package stages; start it in this folder, by "
            "`python -m dask scheduler`"
        ) from None
    except (OSError, TimeoutError, CancelledError):
        if failed:
            raise
        raise _Lost from None


# What is sent to a worker


@dataclass(frozen=True)
class _Run:
    """A task's work, at a worker that has what this machine has.

    Work and task come pickled, so that a worker loads none of its modules before it has compared
    them, and the scheduler none at all.
    """

    folder: str
    mark: str
    code: str
    work: bytes

    @property
    def name(self) -> str:
        work = pickle.loads(self.work)
        return getattr(work, "func", work).__name__

    def __call__(self, task: bytes) -> Any:
        if os.getcwd() != self.folder:
            raise UserError(f"{this_worker()} was started in {os.getcwd()}, not in {self.folder}")
        if not os.path.exists(self.mark):
            raise UserError(
                f"{this_worker()} does not see what this machine sees in {self.folder}; all "
                "machines have to share it, at the same path"
            )
        if code() != self.code:
            raise UserError(
                f"{this_worker()} runs other code than is in {self.folder}/stages; start it again"
            )
        from threadpoolctl import threadpool_limits

        work, argument = pickle.loads(self.work), pickle.loads(task)
        # For what has just been imported: another worker is on the other core.
        threadpool_limits(1)
        return work(argument)


def own_folder(parent: Path) -> Path:
    """A new folder in `parent` for the files of a task, which nobody else writes to.

    A worker that is taken for dead may go on and write when all is done: never into a file that
    counts. Whoever gets the result moves the files to their places.
    """
    folder = parent / uuid4().hex
    folder.mkdir()
    return folder


def this_worker() -> str:
    from distributed import get_worker

    return f"the worker {get_worker().address}"


@lru_cache(maxsize=1)
def code() -> str:
    """A digest of all source of this program, as this process found it when it first asked."""
    folder, digest = Path(__file__).parent, hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@contextmanager
def _mark() -> Iterator[str]:
    """An empty file that none but those who share this folder can see."""
    mark = CLUSTER / uuid4().hex
    CLUSTER.mkdir(parents=True, exist_ok=True)
    mark.touch()
    try:
        yield str(mark)
    finally:
        mark.unlink(missing_ok=True)
        with suppress(OSError):  # another stage may be at work
            CLUSTER.rmdir()
