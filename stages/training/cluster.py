"""Training on several machines: who they are, and what the chief tells the others.

TF_CONFIG names them, as TensorFlow's documentation says, one process a machine. The gradients are
summed by TensorFlow's MultiWorkerMirroredStrategy, and so is all that goes from one machine to the
others here: no file that one of them writes is read by another.

The first machine is the chief. It decides and writes; the others compute their share of each batch.
A machine that ends before the others ends them all: at their next sum TensorFlow raises, once the
connection is gone or the machine has not been heard of for ten seconds.
"""

import contextlib
import faulthandler
import json
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.errors import UserError
from stages.training.checkpoint import Checkpoint, State

if TYPE_CHECKING:
    import tensorflow as tf

VARIABLE = "TF_CONFIG"
EXAMPLE = (
    '{"cluster": {"worker": ["host0:port", "host1:port"]}, "task": {"type": "worker", "index": 0}}'
)
WAIT, DEFAULT_WAIT = "CLUSTER_WAIT", 600.0  # seconds for the others to come
# Machines that have just met start TensorFlow within seconds. It cannot be interrupted while it
# looks for one that has gone in between.
CONNECT = 120
LEAVE = 3.0  # seconds from the moment a machine breaks off to when its port is closed


class Cluster:
    """Machines that train together.

    Args:
        addresses: host:port of each, the chief first.
        number: which of them this process is, from 0.
        patience: seconds to wait for the others to come.
    """

    def __init__(self, addresses: list[str], number: int, patience: float = DEFAULT_WAIT):
        self.addresses, self.number, self.patience = addresses, number, patience
        self.strategy: tf.distribute.Strategy | None = None

    def __len__(self) -> int:
        return len(self.addresses)

    @property
    def chief(self) -> bool:
        """Whether this is the machine that decides and writes."""
        return self.number == 0

    def name(self, number: int) -> str:
        """A machine in words."""
        return f"machine {number + 1} of {len(self)} ({self.addresses[number]})"

    # Meeting

    def wait_for_chief(self) -> None:
        """Return when the chief waits for the others; raises `UserError` if it does not come."""
        self._wait([0])

    def connect(self) -> "tf.distribute.Strategy":
        """The strategy over all machines; call before TensorFlow does anything.

        Raises `UserError` if a machine does not come. TensorFlow's own waiting has no end and hears
        no Ctrl-C, so it begins when every port is open.
        """
        import tensorflow as tf

        port = int(self.addresses[self.number].rpartition(":")[2])
        try:
            listening = socket.create_server(("", port), backlog=4 * len(self))
        except OSError as error:
            raise UserError(
                f"{VARIABLE}: port {port} of this machine, {self.name(self.number)}, cannot be "
                f"used ({error.strerror}); end what uses it, or name another port on all machines"
            ) from None
        with listening:
            self._wait([number for number in range(len(self)) if number != self.number])
        faulthandler.dump_traceback_later(CONNECT, exit=True)
        terminate = signal.getsignal(signal.SIGTERM)
        self.strategy = tf.distribute.MultiWorkerMirroredStrategy()
        # TensorFlow takes SIGTERM for a notice of what is to come, and would go on.
        signal.signal(signal.SIGTERM, terminate)
        faulthandler.cancel_dump_traceback_later()
        return self.strategy

    def _wait(self, numbers: list[int]) -> None:
        """Return when each of these machines has been seen; raises `UserError` for one that is
        not."""
        end, said = time.monotonic() + self.patience, False
        while numbers := self._absent(numbers):
            names = self._names(numbers)
            if not said:
                print(f"waiting for {names}", flush=True)
            said = True
            if time.monotonic() > end:
                raise UserError(
                    f"{names} did not come within {self.patience:g} s; start python -m "
                    f"stages.train there with the same {VARIABLE} (dvc repro on the chief, which "
                    f"must have something to train), or wait longer with {WAIT}=seconds"
                )
            time.sleep(0.2)

    def _absent(self, numbers: Iterable[int]) -> list[int]:
        """Those of the machines on which nobody answers."""
        return [
            number
            for number in numbers
            if number != self.number and not _answers(self.addresses[number])
        ]

    def _names(self, numbers: list[int]) -> str:
        """At most three machines in words, and how many more there are."""
        more = f" and {len(numbers) - 3} more" if len(numbers) > 3 else ""
        return ", ".join(map(self.name, numbers[:3])) + more

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Around all that machines do together: one that has gone is said in one line."""
        from tensorflow import errors

        try:
            yield
        except (
            errors.UnavailableError,
            errors.AbortedError,
            errors.CancelledError,
            errors.DeadlineExceededError,
            errors.InternalError,
        ) as error:
            if not _about_others(error):
                raise
            end = time.monotonic() + LEAVE
            while not (absent := self._absent(range(len(self)))) and time.monotonic() < end:
                time.sleep(0.1)
            gone = self._names(absent) or "a machine"
            raise UserError(
                f"{gone} has ended or cannot be reached, which ends all; what it printed says why. "
                "Start all again to continue from the last checkpoint"
            ) from None

    # What they tell each other

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The sum over all machines of `values`, float64 or int64, the same on each machine.

        All machines call this at once, each with an array of the same shape.
        """
        import tensorflow as tf

        strategy = self.strategy
        assert strategy
        devices = strategy.num_replicas_in_sync // len(self)

        def own(context: Any) -> "tf.Tensor":
            first = context.replica_id_in_sync_group % devices == 0
            return tf.constant(values.ravel() if first else np.zeros_like(values.ravel()))

        parts = strategy.experimental_distribute_values_from_function(own)
        total = strategy.experimental_local_results(self._sum(parts))[0]
        return total.numpy().reshape(values.shape)

    @cached_property
    def _sum(self) -> Callable:
        import tensorflow as tf

        def reduce(part: "tf.Tensor") -> "tf.Tensor":
            context = tf.distribute.get_replica_context()
            return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(part))

        def step(parts: "tf.Tensor") -> "tf.Tensor":
            assert self.strategy
            return self.strategy.run(reduce, args=(parts,))

        return tf.function(step, autograph=False, reduce_retracing=True)

    def told(self, state: State | None) -> State:
        """What the chief has for `state`, bit for bit; the others pass None."""
        header = b""
        if state:
            shapes = [[array.dtype.str, array.shape] for array in state.arrays]
            header = json.dumps([state.document, shapes]).encode()
        size = int(self.sum(np.array([len(header)], np.int64))[0])
        document, shapes = json.loads(self._bytes(header, size))
        arrays = []
        for number, (kind, shape) in enumerate(shapes):
            empty = np.empty(shape, kind)
            content = np.ascontiguousarray(state.arrays[number]).tobytes() if state else b""
            found = np.frombuffer(self._bytes(content, empty.nbytes), kind)
            arrays.append(found.reshape(shape).copy())
        return State(arrays, document)

    def _bytes(self, content: bytes, size: int) -> bytes:
        """The `size` bytes of the chief: all others add zeros to them, as whole numbers."""
        whole = np.zeros(-(-size // 8), np.int64)
        if self.chief:
            whole.view(np.uint8)[:size] = np.frombuffer(content, np.uint8)
        return self.sum(whole).tobytes()[:size] if size else b""

    def check_same(self, digests: dict[str, str]) -> None:
        """Raise `UserError`, on the chief, if a machine has others than the chief's `digests`.

        `digests` are of at most 64 hex digits, by the name of what they are of. The chief ends,
        and that ends the others.
        """
        table = np.zeros((len(self), len(digests), 64), np.int64)
        for column, digest in enumerate(digests.values()):
            table[self.number, column, : len(digest)] = np.frombuffer(digest.encode(), np.uint8)
        table = self.sum(table)
        differs = (table != table[0]).any(axis=2)
        if self.chief and differs.any():
            number = int(differs.any(axis=1).argmax())
            what = [name for name, other in zip(digests, differs[number], strict=True) if other]
            raise UserError(
                f"{self.name(number)} has other {', '.join(what)} than the chief, "
                f"{self.addresses[0]}; bring both to the same state (git checkout, dvc checkout, "
                "make repro) and start all again"
            )

    def end(self) -> None:
        """Let the others end, which wait here until the chief has written all."""
        nothing = np.zeros(1, np.int64)
        # The chief has written all: whoever has gone since is not missed.
        with contextlib.suppress(Exception) if self.chief else contextlib.nullcontext():
            self.sum(nothing)
        # Whoever ends takes with it what another one may still have to fetch of that sum. A machine
        # that is not there for this one has everything.
        with contextlib.suppress(Exception):
            self.sum(nothing)


class SharedCheckpoint(Checkpoint):
    """The chief's checkpoint, from which all machines go on; the others have no files."""

    def __init__(self, folder: str | Path, job: str, cluster: Cluster):
        self._cluster = cluster
        if cluster.chief:
            super().__init__(folder, job)

    def load(self) -> State | None:
        state = super().load() if self._cluster.chief else None
        if state and "failure" in state.document:
            return state  # with which the chief ends, and that ends the others
        found = State([], {"none": True}) if state is None else state
        told = self._cluster.told(found if self._cluster.chief else None)
        return None if "none" in told.document else told

    def save(self, arrays: list[np.ndarray], document: dict[str, Any]) -> None:
        if self._cluster.chief:
            super().save(arrays, document)

    def save_weights(self, arrays: list[np.ndarray], epoch: int) -> None:
        if self._cluster.chief:
            super().save_weights(arrays, epoch)

    def weights(self, epoch: int) -> list[np.ndarray] | None:
        """On the chief as in `Checkpoint`; the others have no use for them."""
        return super().weights(epoch) if self._cluster.chief else []


def read_cluster(config: str | None, patience: str | None = None) -> Cluster | None:
    """The machines that `config`, the value of TF_CONFIG, names; None for a single one.

    `patience` is the value of CLUSTER_WAIT. Raises `UserError` for what is not as TensorFlow's
    documentation has it.
    """
    if not config:
        return None
    try:
        content = json.loads(config)
        if not content.get("cluster"):
            return None
        jobs, task = content["cluster"], content["task"]
        chiefs, workers = jobs.get("chief", []), jobs.get("worker", [])
        addresses = [*chiefs, *workers]
        kind, index = task["type"], int(task["index"])
        known = set(jobs) <= {"chief", "worker"} and len(chiefs) <= 1
        ports = [int(address.rpartition(":")[2]) for address in addresses]
    except (ValueError, LookupError, TypeError, AttributeError):
        known = False
    if not known or not addresses or not all(0 < port < 65536 for port in ports):
        raise UserError(f"{VARIABLE} is not as {EXAMPLE}: {config}")
    if len(set(addresses)) < len(addresses):
        raise UserError(f"{VARIABLE} names an address twice; each machine has one: {config}")
    if kind not in jobs or not 0 <= index < len(jobs[kind]):
        raise UserError(f"{VARIABLE}: its cluster has no task {kind} {index}: {config}")
    number = index + (len(chiefs) if kind == "worker" else 0)
    if len(addresses) == 1:
        return None
    return Cluster(addresses, number, _seconds(patience))


def _seconds(value: str | None) -> float:
    try:
        seconds = float(value or DEFAULT_WAIT)
        if seconds > 0:
            return seconds
    except ValueError:
        pass
    raise UserError(f"{WAIT} = {value!r}: how many seconds to wait for other machines, above 0")


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
        return True
    except OSError:  # or its name is not known yet
        return False


def _about_others(error: Exception) -> bool:
    """Whether TensorFlow's `error` is of a sum which another machine has no part in any more."""
    said = str(error)
    return any(part in said for part in ("Collective", "collective", "/task:", "coordination"))
