"""The folder of an exported model: all that inference needs, and nothing else.

    model.onnx, model.tflite, ...   the same net for several runtimes
    model.json                      an `Exported`: what goes in, what comes out, what to make of it
    golden/                         test images, and the tensors that have to be made of them
    neighbours.jpg                  thumbnails of the training images that distances are taken to
    README.md                       how to use it from any language, and how to check that

A folder may come from anywhere, so nothing in it is trusted: its JSON is checked, a file is read
only under the name it has here, and its bytes have to be those that the JSON is about.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stages.errors import UserError, brief
from stages.inference.seen import NEAREST, Sizes
from stages.parameters.export import Format
from stages.parameters.pixels import Preprocessing
from stages.store.model import Calibration, Judgement

RECORD, README, GOLDEN, NEIGHBOURS = "model.json", "README.md", "golden", "neighbours.jpg"
FILES: dict[Format, str] = {
    "onnx": "model.onnx",
    "litert": "model.tflite",
    "litert_float16": "model_float16.tflite",
    "litert_int8": "model_int8.tflite",
}
RECORD_BYTES = 16 * 2**20  # of model.json; 1,000 classes and 8 golden images take 0.3 MB
MODEL_BYTES = 2**31 - 1  # a protocol buffer and a flat buffer can hold no more

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^\w[\w.-]*$", max_length=100)]
GoldenName = Annotated[str, Field(pattern=r"^golden/\w[\w.-]*$", max_length=100)]


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Tensor(_Record):
    """`shape`, where None is the number of images."""

    name: str
    dtype: Literal["uint8", "int32", "float32"]
    shape: tuple[int | None, ...]


class File(_Record):
    """A file of this folder."""

    file: Name
    bytes: int = Field(ge=1, le=MODEL_BYTES)
    sha256: Sha256


class Golden(_Record):
    """A test image: its file `image`, the `tensor` (.npy) that has to be made of it, and the
    answer to that, of the Keras model."""

    image: GoldenName
    tensor: GoldenName
    probabilities: list[float]
    distance: float | None


class Neighbours(_Record):
    """One picture, `columns` squares of `side` pixels wide, row by row in the order of `nearest`:
    the training images with these `labels`, numbers of classes."""

    file: Name
    side: int = Field(ge=1)
    columns: int = Field(ge=1)
    labels: list[int]


class Exported(_Record):
    """What there is to know of an exported model.

    `preprocess` makes the `input` of an image file. `temperature` and `judgement.tta` are a part of
    the graph already. `judgement` and `calibration` are those of the Keras model.
    """

    classes: Annotated[list[str], Field(min_length=1)]
    preprocess: Preprocessing
    input: Tensor
    outputs: list[Tensor]
    temperature: float
    judgement: Judgement
    calibration: Calibration | None
    files: dict[Format, File]
    golden: list[Golden]
    neighbours: Neighbours | None

    @model_validator(mode="after")
    def _of_one_net(self) -> Self:
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("a class is named twice")
        if (self.input, self.outputs) != tensors(
            self.preprocess.shape, len(self.classes), self.sizes
        ):
            raise ValueError("input and outputs are not those of these classes and this size")
        if any(one.file != FILES[name] for name, one in self.files.items()):
            raise ValueError("a file has another name than that of its format")
        if any(len(one.probabilities) != len(self.classes) for one in self.golden):
            raise ValueError("a golden image has more or fewer probabilities than classes")
        if self.neighbours and not set(self.neighbours.labels) <= set(range(len(self.classes))):
            raise ValueError("a neighbour has a label that is no class")
        return self

    @property
    def sizes(self) -> Sizes:
        """How much comes out of an image."""
        shapes = {one.name: [side or 0 for side in one.shape[1:]] for one in self.outputs}
        features, heat = shapes.get("features"), shapes.get("heat", [])
        return Sizes(
            features[-1] if features else 0, (heat[0], heat[1]) if len(heat) == 2 else None
        )


def tensors(shape: tuple[int, int, int], classes: int, sizes: Sizes) -> tuple[Tensor, list[Tensor]]:
    """What goes into a net for images of `shape` (height, width, channels), and what comes out
    (stages/inference/seen.py)."""
    heat = [Tensor(name="heat", dtype="float32", shape=(None, *sizes.heat))] if sizes.heat else []
    return Tensor(name="images", dtype="uint8", shape=(None, *shape)), [
        Tensor(name="probabilities", dtype="float32", shape=(None, classes)),
        Tensor(name="features", dtype="float32", shape=(None, sizes.features)),
        Tensor(name="distance", dtype="float32", shape=(None,)),
        Tensor(name="nearest", dtype="int32", shape=(None, NEAREST)),
        *heat,
    ]


def describe_file(path: Path) -> File:
    content = path.read_bytes()
    return File(file=path.name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def write_exported(folder: Path, exported: Exported) -> None:
    text = json.dumps(exported.model_dump(), indent=2, ensure_ascii=False)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def read_exported(path: Path) -> tuple[Exported, Format]:
    """What the folder of the file `path` says of it, and the format that it has.

    Raises `UserError` where there is no sound model.json, or none that is about this file.
    """
    if not path.exists():
        raise UserError(f"there is no model {path}; make one with dvc repro export")
    record = path.with_name(RECORD)
    try:
        with open(record, "rb") as file:
            content = file.read(RECORD_BYTES + 1)
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(
            f"{record} is missing, which belongs to {path.name}: take the whole folder, or make "
            "it anew with dvc repro export"
        ) from None
    try:
        if len(content) > RECORD_BYTES:
            raise ValueError(f"more than {RECORD_BYTES:,} bytes")
        exported = Exported.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        raise refused(record, f"{key}: {said}" if key else said) from None
    except ValueError as error:
        raise refused(record, error) from None
    for name, one in exported.files.items():
        if one.file == path.name:
            return exported, name
    raise refused(record, f"it does not know {path.name}")


def read_model(path: Path, file: File) -> bytes:
    """The bytes of the exported model `path`; `UserError` unless they are those of `file`."""
    with open(path, "rb") as opened:
        content = opened.read(file.bytes + 1)
    if len(content) != file.bytes or hashlib.sha256(content).hexdigest() != file.sha256:
        raise refused(path, f"its bytes are not those that {RECORD} is about")
    return content


def refused(path: Path, reason: object) -> UserError:
    """The error that `path` is no exported model, with the `reason` in brief."""
    return UserError(
        f"{path} is not an exported model of this pipeline, or is damaged ({brief(reason)}); "
        "make it anew with dvc repro export"
    )
