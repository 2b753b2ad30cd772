"""TensorFlow set up for a run: devices, determinism, seeds, number formats."""

import contextlib

from stages.errors import UserError

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def start(devices: int = 1, deterministic: bool = True):
    """Import TensorFlow and set the process up; call once, first.

    Returns None for one device, else a MirroredStrategy over that many GPUs. Without GPUs the
    CPU is split into as many devices: slower than one, but the same code. Raises `UserError`
    if there are fewer GPUs.
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
