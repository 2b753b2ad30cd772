"""TensorFlow set up for a run: devices, determinism, seeds, number formats, memory."""

import contextlib
import os
from pathlib import Path

from stages.errors import UserError

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def start(devices: int = 1, deterministic: bool = True):
    """Import TensorFlow and set the process up; call once, first.

    Returns None for one device, else a MirroredStrategy over that many GPUs. Without GPUs the
    CPU is split into as many devices: slower than one, but the same code. Raises `UserError`
    if there are fewer GPUs, or fewer cores.
    """
    import tensorflow as tf

    if deterministic:
        tf.config.experimental.enable_op_determinism()
    if devices == 1:
        return None
    gpus = tf.config.list_physical_devices("GPU")
    if gpus and len(gpus) < devices:
        raise UserError(f"train.devices = {devices}: this machine has {len(gpus)} GPU(s)")
    if not gpus:
        parts = max(2, cores())
        if devices > parts:
            raise UserError(
                f"train.devices = {devices}: without a GPU the CPU is split, into {parts} parts "
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

    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(POLICIES[precision])


def scope(strategy):
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
        of = f" of {len(gpus)}" if len(gpus) > devices else ""
        return f"training on {count}{of} ({gpus[0]}, {precision})"
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
