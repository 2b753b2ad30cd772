"""The trained model: one .keras file that Keras opens as it is, with what a user of it must know.

Inside the archive, beside Keras' own members, `pipeline.json` holds a `ModelInfo`, and two arrays
hold the `Reference`, features to compare new images with. Beside the file, `model.json` holds the
`Judgement`: what it was judged with, and how well it did. How long that took differs from run to
run, so it is kept apart from every result.

A model may come from anywhere, so nothing in it is trusted: what it says of itself is checked
before it is believed, its layers must be Keras' own, and its weights must fit its layers before
memory is given to either.
"""

import io
import json
import math
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from stages.errors import UserError, brief
from stages.parameters.pixels import Preprocessing
from stages.store.blobs import file_sha256
from stages.store.outputs import replace_file

INFO = "pipeline.json"
CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
TEMPERATURE = "temperature"  # the layer that divides the logits by it
FEATURES = ("trained.npy", "held_out.npy")  # of the `Reference`, in its order
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date a zip can hold

# Layers and their options; those of the largest nets of keras.applications take half a MiB.
TEXT_BYTES = 16 * 2**20
# What HDF5 may add to the numbers it holds: in all, and for each variable.
H5_BYTES, H5_BYTES_EACH = 2**20, 2**14
# Numbers that one layer may give for one image: so many, and so many for each pixel, at most 2 GiB
# of float32. The widest of keras.applications give 64 for each pixel.
NUMBERS, NUMBERS_A_PIXEL, MOST_NUMBERS = 2**20, 512, 2**29

# Of a `Reference`: images in each array, and bytes of one.
REFERENCE_IMAGES = 2000
FEATURES_BYTES = 2**24

# Layers that run code of the file, or read other files: no classifier of pixels needs them.
UNSAFE = {
    *("Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"),
    *("StringLookup", "IntegerLookup", "TextVectorization", "__typespec__"),
}


class Calibration(BaseModel):
    """The temperature that the model's logits are divided by, and what it was found with.

    `images`, the number of validation images, of which `predicted` were taken for each class.
    """

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)

    temperature: float = Field(gt=0)
    images: int = Field(ge=0)
    predicted: list[Annotated[int, Field(ge=0)]]

    def describe(self) -> str:
        """The temperature and where it comes from, in a line."""
        if not self.images:
            return (
                "temperature 1, prediction sets and drift unknown: no validation images to find "
                "them with; set split.val above 0"
            )
        return f"temperature {self.temperature:g}, by {self.images:,} validation images"


class ModelInfo(BaseModel):
    """What travels with the model.

    `classes` in the order of its outputs; `shape` (height, width, channels) of the uint8 images
    it takes; `preprocess`, the settings that make such images of files; `parameters`, their
    number; `calibration`, if it has one; `model` and `train`, the settings and figures it came
    about with.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    classes: Annotated[list[str], Field(min_length=1)]
    shape: tuple[int, int, int]
    preprocess: Preprocessing
    parameters: int = Field(0, ge=0)
    calibration: Calibration | None = None
    model: dict[str, Any] = {}
    train: dict[str, Any] = {}

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: list[str]) -> list[str]:
        if len(set(classes)) < len(classes):
            raise ValueError("a class is named twice")
        return classes

    @model_validator(mode="after")
    def _one_shape(self) -> Self:
        if self.shape != self.preprocess.shape:
            raise ValueError(
                f"shape {self.shape} is not that of preprocess, {self.preprocess.shape}"
            )
        if self.calibration and len(self.calibration.predicted) != len(self.classes):
            raise ValueError("calibration.predicted is not about these classes")
        return self


class Score(BaseModel):
    """Accuracy on the test images, its 95 % interval, and their number."""

    model_config = ConfigDict(strict=True, frozen=True)

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    count: int


class Limit(BaseModel):
    """A threshold, and the share of images it was chosen for (stages/inference/trust.py)."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)

    share: float = Field(ge=0, le=1)
    threshold: float


class Judgement(BaseModel):
    """With which settings evaluate judged the model whose file has this `sha256`, and the score.

    `sets` is the least probability of a class in a prediction set, `unlike` the greatest distance
    of an image that is like the training images; None if there were too few validation images.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    sha256: str
    tta: Literal["none", "flip", "flip_shift"]
    top_k: int = Field(ge=1)
    test: Score
    sets: Limit | None = None
    unlike: Limit | None = None


class Reference(NamedTuple):
    """Last features (stages/inference/probabilities.py) of images known when training ended.

    `trained` float16 (n, d) of a sample of the training images, `held_out` float16 (m, d) of the
    validation images; n and m are at most `REFERENCE_IMAGES`.
    """

    trained: np.ndarray
    held_out: np.ndarray


def save_model(
    model: Any, path: str | Path, info: ModelInfo, reference: Reference | None = None
) -> None:
    """Write all to `path`; the same model gives the same bytes."""
    save_members(_members(model, Path(path)), path, info, reference)


def save_unfitted(model: Any, path: str | Path) -> None:
    """Write a Keras `model` in which NaN stands for the weights that `fitted` fills in."""
    _write(Path(path), _members(model, Path(path)))


def fitted(unfitted: Path, weights: list[np.ndarray], temperature: float) -> dict[str, bytes]:
    """Keras' members of the archive, by name, of the model that `save_unfitted` left in `unfitted`,
    with its `weights` and its `temperature`: those that Keras would write, without its seconds.

    Raises `FileNotFoundError`, or `ValueError` if the file is damaged or lacks other weights.
    """
    try:
        with zipfile.ZipFile(unfitted) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        config = json.loads(members[CONFIG])
        layers = {layer["name"]: layer["config"] for layer in config["config"]["layers"]}
        layers[TEMPERATURE]["scale"] = 1 / temperature
        members[CONFIG] = json.dumps(config).encode()
        members[WEIGHTS] = _filled(members[WEIGHTS], weights)
        return members
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # zip, JSON and HDF5 each have many ways to say so
        raise ValueError(f"{unfitted} is damaged: {error}") from None


def save_members(
    members: dict[str, bytes],
    path: str | Path,
    info: ModelInfo,
    reference: Reference | None = None,
) -> None:
    """As `save_model`, of Keras' `members` of the archive."""
    text = json.dumps(info.model_dump(), indent=2, ensure_ascii=False)
    arrays = zip(FEATURES, reference or (), strict=bool(reference))
    ours = {INFO: text.encode()} | {name: _array_bytes(features) for name, features in arrays}
    _write(Path(path), members | ours)


def load_model(path: str | Path) -> tuple[Any, ModelInfo]:
    """The Keras model in `path` and its info: uint8 (n, h, w, c) in, probabilities out.

    Raises `UserError` for a file that is no sound model of this pipeline. Takes no more memory
    than a few times the size of the file, whatever it claims, and runs none of its code.
    """
    info = read_info(path)
    import keras

    try:
        with zipfile.ZipFile(path) as archive:
            config = archive.read(CONFIG)
            for part in _parts(json.loads(config)):
                _check_part(part)
            weights = archive.read(WEIGHTS)
        try:
            # Variables without values: their shapes are known before they take memory.
            with keras.StatelessScope(initialize_variables=False):
                model = keras.saving.deserialize_keras_object(json.loads(config))
            _check_net(model, info)
            _check_weights(model, weights)
            with keras.StatelessScope():  # whose end gives them values
                pass
        finally:
            keras.utils.clear_session(free_memory=False)  # or they would get values later
        with tempfile.TemporaryDirectory() as folder:  # Keras reads weights from files only
            file = Path(folder, WEIGHTS)
            file.write_bytes(weights)
            model.load_weights(file)
        return model, info
    except Exception as error:  # Keras and HDF5 raise nearly anything on a file that is not sound
        raise _refused(path, error) from None


def read_info(path: str | Path) -> ModelInfo:
    """What `save_model` was told of the model, without importing TensorFlow."""
    if not os.path.exists(path):
        raise UserError(f"there is no model {path}; train one with dvc repro")
    if not os.path.isfile(path):
        raise UserError(f"{path} is not a file; name a model, e.g. models/model.keras")
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive, os.path.getsize(path))
            text = archive.read(INFO)
        return ModelInfo.model_validate_json(text)
    except PermissionError:
        raise
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join([INFO, *map(str, first["loc"])])
        raise _refused(path, f"{key}: {first['msg'].removeprefix('Value error, ')}") from None
    except KeyError:
        raise _refused(path, f"no {INFO} inside") from None
    # NotImplementedError and RuntimeError: a compression or an encryption that Python lacks.
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, RuntimeError) as error:
        raise _refused(path, error) from None


def load_reference(path: str | Path) -> Reference | None:
    """What `save_model` was given to compare images with; None if nothing.

    Raises `UserError` for anything but two sound arrays.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive, os.path.getsize(path))
            if not set(FEATURES) & set(archive.namelist()):
                return None
            trained, held_out = (_read_features(archive, name) for name in FEATURES)
        if trained.shape[1] != held_out.shape[1]:
            raise ValueError(f"{FEATURES} differ in width")
        return Reference(trained, held_out)
    except PermissionError:
        raise
    except Exception as error:  # a header may be any text, which NumPy reads as Python's literals
        raise _refused(path, error) from None


def write_judgement(path: Path, judgement: Judgement) -> None:
    with replace_file(path) as temporary:
        text = json.dumps(judgement.model_dump(), indent=2)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_judgement(model: Path) -> Judgement | None:
    """The judgement of the file `model`, from the .json file beside it; None if it has none."""
    try:
        judgement = Judgement.model_validate_json(model.with_suffix(".json").read_bytes())
    except (OSError, ValidationError):
        return None
    return judgement if judgement.sha256 == file_sha256(model) else None


def record_times(path: str | Path, section: str, times: dict, model: str | Path) -> None:
    """Set `section` of the JSON file `path` to `times` (figures by name), keep the others.

    The section says which `model` file it is about: the file `path` belongs to no revision, so
    another model may be checked out beside it.
    """
    times = {"model": file_sha256(model), **times}
    with replace_file(path) as temporary:
        text = json.dumps(_read_sections(path) | {section: times}, indent=2)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_times(path: str | Path, sha256: str | None) -> dict[str, dict]:
    """The sections of `path` about the model whose file has this `sha256`.

    None if the file is missing or was cut short.
    """
    return {
        section: {name: value for name, value in times.items() if name != "model"}
        for section, times in _read_sections(path).items()
        if isinstance(times, dict) and sha256 and times.get("model") == sha256
    }


def _read_sections(path: str | Path) -> dict:
    try:
        sections = json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return sections if isinstance(sections, dict) else {}


def _refused(path: str | Path, reason: object) -> UserError:
    """The error that `path` is no model, with the `reason` in brief."""
    return UserError(
        f"{path} is not a model of this pipeline, or is damaged ({brief(reason)}); "
        "train one with dvc repro"
    )


def _check_members(archive: zipfile.ZipFile, size: int) -> None:
    """Raise ValueError unless the members are those of `save_model` and no larger than they lie.

    They are stored, not compressed, so that reading one takes what it takes on the disk.
    """
    infos = archive.infolist()
    for info in infos:
        if info.filename not in (INFO, CONFIG, METADATA, WEIGHTS, *FEATURES):
            raise ValueError(f"unknown member {info.filename!r}")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise ValueError(f"{info.filename} is compressed")
        most = FEATURES_BYTES if info.filename in FEATURES else TEXT_BYTES
        if info.filename != WEIGHTS and info.file_size > most:
            raise ValueError(f"{info.filename} takes {info.file_size:,} bytes")
    if len({info.filename for info in infos}) < len(infos):
        raise ValueError("a member is there twice")
    if sum(info.file_size for info in infos) > size:
        raise ValueError("its members overlap")


def _parts(config: Any) -> Iterator[dict[str, Any]]:
    """Every object that is described somewhere in `config`, JSON; not by recursion."""
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "class_name" in value or "module" in value:
                yield value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _check_part(part: dict) -> None:
    """Raise ValueError if `part` of the configuration is code of others, or unsafe."""
    name, module = part.get("class_name"), part.get("module") or "keras"
    registered = part.get("registered_name")
    if str(module).split(".")[0] not in ("keras", "builtins") or ">" in str(registered or ""):
        raise ValueError(f"custom code: {module}.{name}")
    if name in UNSAFE:
        raise ValueError(f"a layer that may run code or read files: {name}")


def _check_net(net: Any, info: ModelInfo) -> None:
    """Raise ValueError unless `net` turns images as `info` says into one number a class."""
    takes, gives = (None, *info.shape), (None, len(info.classes))
    if net.input_shape != takes or net.output_shape != gives:
        raise ValueError(
            f"it turns {net.input_shape} into {net.output_shape}, not {takes} into {gives}"
        )
    most = min(NUMBERS + NUMBERS_A_PIXEL * math.prod(info.shape[:2]), MOST_NUMBERS)
    if (count := largest_activation(net)) > most:
        raise ValueError(f"a layer gives {count:,} numbers for an image")


def largest_activation(net: Any) -> int:
    """The most numbers that a layer of `net` gives for one image."""
    shapes = [shape for layer in net._flatten_layers() for shape in _output_shapes(layer)]
    return max(math.prod(side for side in shape[1:] if side) for shape in shapes)


def _output_shapes(layer: Any) -> list[tuple]:
    """Shapes of what `layer` gives, with the batch; none where it is called more than once."""
    import keras

    try:
        return [tuple(output.shape) for output in keras.tree.flatten(layer.output)]
    except (AttributeError, ValueError):
        return []


def _check_weights(net: Any, content: bytes) -> None:
    """Raise ValueError unless the HDF5 file `content` holds the weights of `net` and no more."""
    import h5py

    variables = len(net.variables)
    parameters = sum(math.prod(variable.shape) for variable in net.variables)
    if not parameters <= len(content) <= 8 * parameters + H5_BYTES + H5_BYTES_EACH * variables:
        raise ValueError(f"{len(content):,} bytes of weights for {parameters:,} parameters")

    stored = 0

    def elsewhere(name: str, link: Any) -> str | None:
        return None if isinstance(link, h5py.HardLink) else f"{name} leads elsewhere"

    def unsound(name: str, item: Any) -> str | None:
        nonlocal stored
        if isinstance(item, h5py.Dataset):
            plain = item.chunks is None and not item.is_virtual and not item.external
            if not plain or item.dtype.kind not in "biuf":
                return f"{name} is no plain array"
            stored += item.size * item.dtype.itemsize
            if stored > len(content):
                return f"{name} claims more than the file holds"
        return None

    with h5py.File(io.BytesIO(content), "r") as file:
        # The first answer that is not None ends the visit.
        if wrong := file.visititems_links(elsewhere) or file.visititems(unsound):
            raise ValueError(f"{WEIGHTS}: {wrong}")


def _members(model: Any, beside: Path) -> dict[str, bytes]:
    """The members of the archive that Keras makes of `model`, by way of a file `beside`."""
    saved = beside.with_name(f".{beside.stem}.saving.keras")
    saved.parent.mkdir(parents=True, exist_ok=True)
    try:
        model.save(saved)
        with zipfile.ZipFile(saved) as archive:
            names = sorted(archive.namelist())
            return {name: _repeatable(name, archive.read(name)) for name in names}
    finally:
        saved.unlink(missing_ok=True)


def _write(path: Path, members: dict[str, bytes]) -> None:
    with replace_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, content in members.items():
            _add(archive, name, content)


def _filled(content: bytes, weights: list[np.ndarray]) -> bytes:
    """The HDF5 file `content` with `weights` in the place of the arrays of NaN, in their order."""
    import h5py

    file, unknown = io.BytesIO(content), []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.size and np.isnan(item[()]).all():
            unknown.append(item)

    with h5py.File(file, "r+") as variables:
        variables.visititems(visit)
        shapes, given = [item.shape for item in unknown], [array.shape for array in weights]
        if shapes != given:
            raise ValueError(f"it lacks weights of the shapes {shapes}, not {given}")
        for item, array in zip(unknown, weights, strict=True):
            item[...] = array
    return file.getvalue()


def _array_bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(array), (1, 0), allow_pickle=False)
    return file.getvalue()


def _read_features(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """The array `name`; raises ValueError unless it is float16 (n, d), finite and whole."""
    file = io.BytesIO(archive.read(name))
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError(f"{name} is of another version")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=1000)
    if dtype != np.dtype("<f2") or fortran or len(shape) != 2:
        raise ValueError(f"{name} is no float16 (n, d)")
    content = file.read()
    if not 0 <= shape[0] <= REFERENCE_IMAGES or len(content) != 2 * shape[0] * shape[1]:
        raise ValueError(f"{name} is not as long as it says")
    features = np.frombuffer(content, np.float16).reshape(shape)
    if not np.isfinite(features).all():
        raise ValueError(f"{name} holds values that are not finite")
    return features


def _repeatable(name: str, content: bytes) -> bytes:
    """`content` of Keras' member `name` without what differs from one saving to the next."""
    if name == METADATA:
        metadata = json.loads(content)
        metadata.pop("date_saved", None)
        return json.dumps(metadata, sort_keys=True).encode()
    if name == CONFIG:  # shared objects are named by their addresses in memory
        numbers: dict[bytes, int] = {}
        return re.sub(
            rb'(?<="shared_object_id": )\d+',
            lambda found: str(numbers.setdefault(found[0], len(numbers) + 1)).encode(),
            content,
        )
    return content


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    member = zipfile.ZipInfo(name, _EPOCH)
    member.external_attr = 0o644 << 16
    archive.writestr(member, content)
