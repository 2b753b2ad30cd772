"""Which numbers to compute with: float32, or bfloat16 where the hardware has it.

Weights, optimiser state, normalisation statistics, logits and loss are float32 either way.
"""

import hashlib
import json
import os
import platform
import time
from pathlib import Path

from stages.store.atomic import replace_file

PRECISIONS = ("float32", "bfloat16")

# Hardware with bfloat16 instructions runs the measurement 1.6 to 2.5 times faster in bfloat16,
# the lower figures on a crowded machine; other hardware is not measured. So a choice at this
# ratio is not a close one, and machines of one kind choose alike.
WORTHWHILE = 1.2


def choose_precision(
    wanted: str, cache: str | Path | None = None, machine: dict | None = None
) -> str:
    """`float32` or `bfloat16`: what `wanted` says, or for `auto` what is faster here.

    `auto` measures a convolution's forward and backward pass in both, once a kind of machine:
    the choice is kept in the folder `cache` (default: the user's cache folder), so that the next
    run, and a resumed one, compute with the same numbers. Hardware without bfloat16
    instructions is not measured. `machine` says what the hardware is (default: what is found),
    `bfloat16` among it.
    """
    if wanted != "auto":
        return wanted
    machine = machine or _machine()
    if not machine["bfloat16"]:
        return "float32"
    name = hashlib.sha256(json.dumps(machine, sort_keys=True).encode()).hexdigest()[:16]
    path = Path(cache or _user_cache()) / f"precision-{name}.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))["precision"]
        if kept in PRECISIONS:
            return kept
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not measured yet, or damaged
    ratio = measure()
    precision = "bfloat16" if ratio >= WORTHWHILE else "float32"
    record = {"precision": precision, "bfloat16_speedup": round(ratio, 2), "machine": machine}
    try:
        with replace_file(path) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    except OSError:
        pass  # a read-only home: measured anew next time
    return precision


def measure(rounds: int = 5) -> float:
    """How many times faster bfloat16 is than float32 here, best of interleaved rounds."""
    import tensorflow as tf

    def case(dtype):
        images = tf.ones((64, 16, 16, 64), dtype)
        kernel = tf.Variable(tf.ones((3, 3, 64, 64), dtype) / 576)

        @tf.function(autograph=False)
        def step():
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


def _machine() -> dict:
    """What decides how fast the two are: the device, its instructions, TensorFlow's version."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        capability = details.get("compute_capability", (0, 0))
        device, native = details.get("device_name", "GPU"), tuple(capability) >= (8, 0)
    else:
        device, flags = _cpu()
        native = bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    return {
        "device": device,
        "bfloat16": native,
        "cores": os.cpu_count(),
        "tensorflow": tf.__version__,
    }


def _cpu() -> tuple[str, set[str]]:
    """Name and instruction-set flags of the CPU; no flags where the system does not tell."""
    name, flags = platform.processor() or platform.machine(), set()
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
