"""An exported model at work, without TensorFlow: ONNX Runtime or LiteRT, as its file asks for."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from stages.errors import UserError, standard_error_closed
from stages.inference.seen import Seen
from stages.store.exported import Exported, read_exported, read_model, refused

SUFFIXES = (".onnx", ".tflite")

Observe = Callable[[np.ndarray], Seen]
Run = Callable[[np.ndarray], dict[str, np.ndarray]]


def load_exported(path: Path, threads: int | None = None) -> tuple[Exported, Observe]:
    """What there is to know of the exported model in the file `path`, and a function from uint8
    (n, height, width, channels), any n, to what it makes of them; one call at a time.

    `threads` that it may use; None: one for each core. Raises `UserError` for a file that is no
    sound model, or whose runtime is not installed. Runs no code of the file.
    """
    exported, (observe,) = load_runtimes(path, 1, threads or len(os.sched_getaffinity(0)))
    return exported, observe


def load_runtimes(path: Path, count: int, threads: int = 1) -> tuple[Exported, list[Observe]]:
    """As `load_exported`, `count` functions that may be called at the same time, each of which uses
    `threads`. They share what they can of the memory."""
    exported, format = read_exported(path)
    content = read_model(path, exported.files[format])
    try:
        with standard_error_closed():
            if format == "onnx":  # takes calls from several threads
                runs = [_start_onnx(content, exported, threads)] * count
            else:
                runs = [_start_litert(content, exported, threads) for _ in range(count)]
    except ImportError:
        raise UserError(f"{path} needs packages that are not installed: run make export") from None
    except Exception as error:  # runtimes raise nearly anything on a file that is not sound
        raise refused(path, error) from None

    def observer_of(run: Run) -> Observe:
        def observe(images: np.ndarray) -> Seen:
            if not len(images):
                return Seen.empty(len(exported.classes), exported.sizes)
            return Seen.of(run(images))

        return observe

    return exported, [observer_of(run) for run in runs]


def _start_onnx(content: bytes, exported: Exported, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # A thread that waits must not burn a core that another process could use.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Weights in other files are not part of the bytes that were checked: there is no such folder.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", os.devnull
    )
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    _check(
        exported,
        {one.name: (one.type, tuple(one.shape)) for one in session.get_inputs()},
        {one.name: (one.type, tuple(one.shape)) for one in session.get_outputs()},
        {"uint8": "tensor(uint8)", "int32": "tensor(int32)", "float32": "tensor(float)"},
    )
    names = [one.name for one in exported.outputs]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, {"images": images}), strict=True))

    return run


def _start_litert(content: bytes, exported: Exported, threads: int) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=threads)
    runner = interpreter.get_signature_runner()
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    del runner  # the interpreter allocates nothing while others hold a part of it

    def described(tensors: dict[str, dict]) -> dict[str, tuple[str, tuple]]:
        return {
            name: (one["dtype"].__name__, tuple(one["shape_signature"]))
            for name, one in tensors.items()
        }

    types = {name: name for name in ("uint8", "int32", "float32")}
    _check(exported, described(inputs), described(outputs), types)
    index = inputs["images"]["index"]
    made = {name: one["index"] for name, one in outputs.items()}
    interpreter.allocate_tensors()
    size = 1

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        nonlocal size
        if len(images) != size:
            interpreter.resize_tensor_input(index, images.shape)
            interpreter.allocate_tensors()
            size = len(images)
        interpreter.set_tensor(index, images)
        interpreter.invoke()
        return {name: interpreter.get_tensor(at) for name, at in made.items()}

    return run


def _check(
    exported: Exported,
    inputs: dict[str, tuple[str, tuple]],
    outputs: dict[str, tuple[str, tuple]],
    types: dict[str, str],
) -> None:
    """Raise ValueError unless `inputs` and `outputs` (type and shape by name) are as `exported`
    says. A number of images may have any name."""
    for expected, found in (([exported.input], inputs), (exported.outputs, outputs)):
        if {one.name for one in expected} != set(found):
            raise ValueError(f"it has {', '.join(sorted(found))} where others are expected")
        for one in expected:
            type, shape = found[one.name]
            if type != types[one.dtype] or shape[1:] != one.shape[1:] or len(shape) < 1:
                raise ValueError(f"{one.name} is {type} {shape}, not {one.dtype} {one.shape}")
            if isinstance(shape[0], int) and shape[0] >= 0:
                raise ValueError(f"{one.name} is for {shape[0]} images only")
