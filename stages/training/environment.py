"""TensorFlow set up for a run: devices, determinism, seeds, number formats."""

import contextlib
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stages.errors import UserError
from stages.store.outputs import replace_file

if TYPE_CHECKING:
    import tensorflow as tf

    from stages.training.cluster import Cluster

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def start(
    devices: int = 1, deterministic: bool = True, cluster: "Cluster | None" = None
) -> "tf.distribute.Strategy | None":
    """Import TensorFlow and set the process up; call once, first.

    Returns None for one device, else a MirroredStrategy over that many GPUs. Without GPUs the
    CPU is split into as many devices: slower than one, but the same code. In a `cluster`, whose
    machines have met, a MultiWorkerMirroredStrategy over that many GPUs, or the CPU, of each.
    Raises `UserError` if there are fewer GPUs, or fewer cores.
    """
    import tensorflow as tf

    if deterministic:
        tf.config.experimental.enable_op_determinism()
    if devices == 1 and not cluster:
        return None
    gpus = tf.config.list_physical_devices("GPU")
    if gpus and len(gpus) < devices:
        raise UserError(f"train.devices = {devices}: this machine has {len(gpus)} GPU(s)")
    if cluster:
        if not gpus and devices > 1:
            raise UserError(
                f"train.devices = {devices}: of several machines each has one part for a CPU; set "
                "train.devices: 1"
            )
        tf.config.set_visible_devices(gpus[:devices], "GPU")
        return cluster.connect()
    if not gpus:
        most = max(2, cores())
        if devices > most:
            raise UserError(
                f"train.devices = {devices}: without a GPU the CPU is split, into {most} parts "
                "at most on this machine"
            )
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * devices
        )
    kind = "GPU" if gpus else "CPU"
    return tf.distribute.MirroredStrategy([f"{kind}:{number}" for number in range(devices)])


def reset(seed: int, precision: str) -> None:
    """Forget earlier Keras models' names, seed every generator, compute in `precision`."""
    import keras

    # Without the search for garbage, which takes most of a second: it walks all that TensorFlow is.
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(POLICIES[precision])


def scope(strategy: "tf.distribute.Strategy | None") -> AbstractContextManager:
    """The strategy's scope, or a context that does nothing."""
    return strategy.scope() if strategy else contextlib.nullcontext()


def describe(devices: int, precision: str) -> str:
    """One line that says what TensorFlow trains on, and how to get at a GPU that it cannot see."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    names = [each.get("device_name", "of unknown name") for each in details]
    return device_line(devices, precision, names, cores(), gpu_in_machine(), tf.__version__)


def device_line(
    devices: int, precision: str, gpus: list[str], cores: int, gpu_present: bool, version: str
) -> str:
    """What `describe` says, given the names of the `gpus` that TensorFlow `version` sees."""
    if gpus:
        count = f"{devices} GPU{'s' * (devices > 1)}"
        share = f" of {len(gpus)}" if len(gpus) > devices else ""
        return f"training on {count}{share} ({gpus[0]}, {precision})"
    parts = f" in {devices} parts" if devices > 1 else ""
    line = f"training on the CPU{parts}, {cores} core{'s' * (cores > 1)}, {precision}; "
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return line + "CUDA_VISIBLE_DEVICES hides every GPU"
    if gpu_present:
        return line + (
            "this machine has an NVIDIA GPU, but TensorFlow sees none: "
            f"pip install 'tensorflow[and-cuda]=={version}'"
        )
    return line + "no GPU is visible to TensorFlow"


def gpu_in_machine(root: str | Path = "/") -> bool:
    """Whether the system has an NVIDIA GPU, whatever TensorFlow says: its driver shows it."""
    root = Path(root)
    marks = ("dev/nvidia0", "dev/dxg")  # the second is that of WSL
    folder = root / "proc/driver/nvidia/gpus"
    return any((root / mark).exists() for mark in marks) or (
        folder.is_dir() and any(folder.iterdir())
    )


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory(root: str | Path = "/") -> int:
    """Bytes of memory this process may use: the machine's, or its container's if less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            total = min(total, int((Path(root) / name).read_text()))
    return total


# Which numbers to compute with: float32, or bfloat16 where the hardware has it.
#
# Weights, optimiser state, normalisation statistics, logits and loss are float32 either way.


PRECISIONS = ("float32", "bfloat16")

# Hardware with bfloat16 instructions runs the measurement 1.6 to 2.5 times faster in bfloat16,
# the lower figures on a crowded machine; other hardware is not measured. So a choice at this
# ratio is not a close one, and machines of one kind choose alike.
WORTHWHILE = 1.2


class Machine(NamedTuple):
    """What decides how fast the two are; `bfloat16`: whether it has instructions for it."""

    device: str
    bfloat16: bool
    cores: int | None
    tensorflow: str


def choose_precision(
    wanted: str, cache: str | Path | None = None, machine: Machine | None = None
) -> str:
    """`float32` or `bfloat16`: what `wanted` says, or for `auto` what is faster here.

    `auto` measures a convolution's forward and backward pass in both, once a kind of machine:
    the choice is kept in the folder `cache` (default: the user's cache folder), so that the next
    run, and a resumed one, compute with the same numbers. Hardware without bfloat16
    instructions is not measured. `machine` says what the hardware is (default: this machine).
    """
    if wanted != "auto":
        return wanted
    machine = machine or _machine()
    if not machine.bfloat16:
        return "float32"
    known = machine._asdict()
    name = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]
    path = Path(cache or _user_cache()) / f"precision-{name}.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))["precision"]
        if kept in PRECISIONS:
            return kept
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not measured yet, or damaged
    ratio = measure()
    precision = "bfloat16" if ratio >= WORTHWHILE else "float32"
    record = {"precision": precision, "bfloat16_speedup": round(ratio, 2), "machine": known}
    try:
        with replace_file(path) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    except OSError:
        pass  # a read-only home: measured anew next time
    return precision


def measure(rounds: int = 5) -> float:
    """How many times faster bfloat16 is than float32 here, best of interleaved rounds."""
    import tensorflow as tf

    def case(dtype: str) -> Callable[[], tf.Tensor]:
        images = tf.ones((64, 16, 16, 64), dtype)
        kernel = tf.Variable(tf.ones((3, 3, 64, 64), dtype) / 576)

        @tf.function(autograph=False)
        def step() -> tf.Tensor:
            with tf.GradientTape() as tape:
                tape.watch(images)
                out = tf.nn.conv2d(tf.nn.conv2d(images, kernel, 1, "SAME"), kernel, 1, "SAME")
                loss = tf.reduce_sum(tf.cast(tf.nn.relu(out), "float32"))
            return tf.add_n(
                [
                    tf.reduce_sum(tf.cast(g, "float32"))
                    for g in tape.gradient(loss, [images, kernel])
                ]
            )

        return step

    cases = {dtype: case(dtype) for dtype in ("float32", "bfloat16")}
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(rounds + 1):  # the first traces
        for dtype, step in cases.items():
            start = time.perf_counter()
            float(step())
            best[dtype] = min(best[dtype], time.perf_counter() - start)
    return best["float32"] / best["bfloat16"]


def _machine() -> Machine:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        capability = details.get("compute_capability", (0, 0))
        device, native = details.get("device_name", "GPU"), tuple(capability) >= (8, 0)
    else:
        device, flags = _cpu()
        native = bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    return Machine(device, native, os.cpu_count(), tf.__version__)


def _cpu() -> tuple[str, set[str]]:
    """Name and instruction-set flags of the CPU; no flags where the system does not tell."""
    name, flags = platform.processor() or platform.machine(), set[str]()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags = set(value.split())
    except OSError:
        pass
    return name, flags


def _user_cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "image-classification-pipeline"
