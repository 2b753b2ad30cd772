"""The Open Inference Protocol, version 2, over HTTP, with its extension for binary tensors.

https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md, and for
the extension Triton's docs/protocol/extension_binary_data.md.

The input `images` is what the model takes, UINT8 (n, height, width, channels), or image files,
BYTES (n,): as base64 in JSON, as they are in binary.
"""

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException

from stages.inference.seen import Seen
from stages.serving.bodies import JSON_BYTES, check_json, first_error, from_base64, too_large
from stages.store.exported import Exported

BINARY = "inference-header-content-length"  # bytes of JSON before the binary tensors
JSON_VALUES = 2_000_000  # 13 images of 224 x 224 pixels, and up to 100 MB while they are read
INPUT = "images"
DATATYPES = {"uint8": "UINT8", "float32": "FP32", "int32": "INT32"}
PLATFORMS = {".onnx": "onnx_onnxv1", ".tflite": "tensorflow_tflite"}
SERVER, VERSION = "image-classification-pipeline", "1"


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)

    name: str
    parameters: dict[str, Any] = {}


class _Input(_Part):
    shape: list[int] = Field(min_length=1, max_length=8)
    datatype: str
    data: list[Any] | None = None


class _Request(BaseModel):
    model_config = ConfigDict(strict=True)

    id: str | None = Field(None, max_length=1000)
    parameters: dict[str, Any] = {}
    inputs: list[_Input]
    outputs: list[_Part] | None = None


class Inference(NamedTuple):
    """Image files or pixels uint8 (n, height, width, channels), n > 0; and how to answer."""

    images: Sequence[bytes] | np.ndarray
    id: str | None
    outputs: dict[str, bool]  # their names, in the order asked for, and whether in binary


def read(
    body: bytes, header: str | None, shape: tuple[int, int, int], outputs: Sequence[str], most: int
) -> Inference:
    """The request `body`, to a model of images of this `shape` with these `outputs`.

    `header` is that of the extension, if it is there; `most` images are taken. Raises
    `HTTPException` for what is no such request.
    """
    text, tensors = body, b""
    if header is not None:
        if not header.isdecimal() or int(header[:20]) > len(body):
            raise HTTPException(400, f"{BINARY} is not the length of the JSON in the body")
        text, tensors = body[: int(header)], body[int(header) :]
    if len(text) > JSON_BYTES:
        raise too_large(f"the request has more than {JSON_BYTES:,} bytes of JSON")
    check_json(text, JSON_VALUES)
    try:
        request = _Request.model_validate_json(text)
    except ValidationError as error:
        raise HTTPException(400, first_error(error)) from None
    if [given.name for given in request.inputs] != [INPUT]:
        raise HTTPException(400, f"the model has one input, {INPUT}")
    given = request.inputs[0]
    size = given.parameters.get("binary_data_size")
    if (0 if size is None else size) != len(tensors):
        raise HTTPException(400, "binary_data_size is not the length of what follows the JSON")
    if (size is None) == (given.data is None):
        raise HTTPException(400, f"{INPUT} needs data, or binary_data_size")
    if given.shape[0] > most:
        raise too_large(f"the request has {given.shape[0]:,} images, where {most} are taken")
    if given.shape[0] < 1:
        raise HTTPException(400, "the request has no images")
    images = _read_images(given, None if size is None else tensors, shape)
    return Inference(images, request.id, _read_outputs(request, outputs))


def _read_images(
    given: _Input, tensor: bytes | None, shape: tuple[int, int, int]
) -> Sequence[bytes] | np.ndarray:
    count = given.shape[0]
    if given.datatype == "BYTES" and len(given.shape) == 1:
        files = _elements(tensor) if tensor is not None else _files(given.data or [])
        if len(files) != count:
            raise HTTPException(400, f"{INPUT} has {len(files):,} elements, not {count:,}")
        return files
    if given.datatype != "UINT8" or tuple(given.shape[1:]) != shape:
        raise HTTPException(
            400, f"{INPUT} must be UINT8 of shape {[-1, *shape]}, or BYTES of shape [-1]"
        )
    if tensor is not None:
        if len(tensor) != math.prod(given.shape):
            raise HTTPException(400, f"{INPUT} has {len(tensor):,} bytes, not as its shape says")
        return np.frombuffer(tensor, np.uint8).reshape(given.shape)
    try:
        # As int64 first: uint8 would take true, 1.5 and more for numbers.
        pixels = np.array(given.data)
        if pixels.dtype.kind != "i" or pixels.min() < 0 or pixels.max() > 255:
            raise ValueError
        return pixels.astype(np.uint8).reshape(given.shape)
    except ValueError:
        raise HTTPException(
            400, f"{INPUT} is not {math.prod(given.shape):,} whole numbers from 0 to 255"
        ) from None


def _files(data: list[Any]) -> list[bytes]:
    files: list[bytes] = []
    for text in data:
        content, error = from_base64(text) if isinstance(text, str) else (b"", "not base64")
        if error:
            raise HTTPException(400, f"element {len(files)} of {INPUT}: {error}")
        files.append(content)
    return files


def _elements(tensor: bytes) -> list[bytes]:
    """Each element of a BYTES tensor comes after its length."""
    files: list[bytes] = []
    at = 0
    while at < len(tensor):
        length = int.from_bytes(tensor[at : at + 4], "little")
        at += 4 + length
        if at > len(tensor):
            raise HTTPException(400, f"{INPUT} ends within an element")
        files.append(tensor[at - length : at])
    return files


def _read_outputs(request: _Request, known: Sequence[str]) -> dict[str, bool]:
    binary = request.parameters.get("binary_data_output", False) is True
    wanted: dict[str, bool] = {}
    for output in request.outputs or [_Part(name=name) for name in known]:
        if output.name not in known:
            raise HTTPException(400, f"the model has the outputs {', '.join(known)}")
        wanted[output.name] = output.parameters.get("binary_data", binary) is True
    return wanted


def answer(name: str, inference: Inference, seen: Seen) -> tuple[bytes, dict[str, str]]:
    """The body of the answer of the model `name`, and its headers."""
    outputs, tensors = [], []
    for output, binary in inference.outputs.items():
        values = getattr(seen, output)
        tensor: dict[str, Any] = {
            "name": output,
            "datatype": DATATYPES[values.dtype.name],
            "shape": list(values.shape),
        }
        if binary:
            tensors.append(np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<")))
            tensor["parameters"] = {"binary_data_size": values.nbytes}
        else:
            tensor["data"] = values.ravel().tolist()
        outputs.append(tensor)
    said = {"model_name": name, "id": inference.id, "outputs": outputs}
    text = json.dumps({key: value for key, value in said.items() if value is not None}).encode()
    if not tensors:
        return text, {"content-type": "application/json"}
    return b"".join([text, *(tensor.tobytes() for tensor in tensors)]), {
        "content-type": "application/octet-stream",
        BINARY: str(len(text)),
    }


def server_metadata() -> dict[str, Any]:
    """What GET /v2 tells."""
    return {"name": SERVER, "version": VERSION, "extensions": ["binary_tensor_data"]}


def model_metadata(
    name: str, suffix: str, exported: Exported, outputs: Sequence[str]
) -> dict[str, Any]:
    """What GET /v2/models/{name} tells."""
    tensors = [exported.input, *(one for one in exported.outputs if one.name in outputs)]
    given, *made = (
        {
            "name": one.name,
            "datatype": DATATYPES[one.dtype],
            "shape": [-1 if side is None else side for side in one.shape],
        }
        for one in tensors
    )
    return {"name": name, "platform": PLATFORMS[suffix], "inputs": [given], "outputs": made}
