"""models/model.keras from anywhere: a sound one loads, every other is refused in one line."""

import copy
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from factory import ROOT, colour_model

from stages.errors import UserError
from stages.parameters.pixels import Preprocessing
from stages.store.model import (
    CONFIG,
    FEATURES,
    INFO,
    REFERENCE_IMAGES,
    WEIGHTS,
    Judgement,
    ModelInfo,
    Reference,
    Score,
    file_sha256,
    load_model,
    load_reference,
    read_info,
    read_judgement,
    save_model,
    write_judgement,
)

PREPROCESS = {"size": [16, 16], "color": "rgb"}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A model as train saves it."""
    path = tmp_path_factory.mktemp("sound") / "model.keras"
    info = ModelInfo(
        classes=["a", "b", "c"], shape=(16, 16, 3), preprocess=Preprocessing(**PREPROCESS)
    )
    random = np.random.default_rng(0)
    save_model(colour_model(), path, info, Reference(*random.random((2, 5, 3)).astype(np.float16)))
    return path


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(path: Path, content: dict[str, bytes], compression=zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def with_info(content, **changes):
    info = json.loads(content[INFO]) | changes
    return content | {INFO: json.dumps({k: v for k, v in info.items() if v is not ...}).encode()}


def with_layer(content, layer):
    """`layer` (a JSON object) put before the last layer of the outer model."""
    config = json.loads(content[CONFIG])
    config["config"]["layers"].insert(-1, layer)
    return content | {CONFIG: json.dumps(config).encode()}


def layer(name, module="keras.layers", registered=None, **config):
    return {
        "module": module,
        "class_name": name,
        "config": {"name": "foreign", "trainable": True, "dtype": "float32", **config},
        "registered_name": registered,
    }


def with_config(content, change):
    config = json.loads(content[CONFIG])
    change(config)
    return content | {CONFIG: json.dumps(config).encode()}


def with_weights(content, change):
    """The HDF5 file of weights after `change`(open file)."""
    import h5py

    buffer = io.BytesIO(content[WEIGHTS])
    with h5py.File(buffer, "r+") as file:
        change(file)
    return content | {WEIGHTS: buffer.getvalue()}


def first_dataset(file):
    import h5py

    found = []
    file.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
    return found[0]


def replaced(**options):
    """A change of weights: the first array made anew with `options`."""

    def change(file):
        name = first_dataset(file).name
        del file[name]
        file.create_dataset(name, **options)

    return change


def linked(file):
    import h5py

    name = first_dataset(file).name
    del file[name]
    file[name] = h5py.ExternalLink("/etc/passwd", "/")


CODE = "def _(x):\n    open('ran', 'w')\n    return x\n"
INFOS = {
    "no classes": {"classes": []},
    "classes missing": {"classes": ...},
    "classes text": {"classes": "abc"},
    "classes numbers": {"classes": [1, 2, 3]},
    "classes twice": {"classes": ["a", "a", "c"]},
    "classes too few": {"classes": ["a", "b"]},
    "shape negative": {"shape": [-16, 16, 3]},
    "shape short": {"shape": [16, 16]},
    "shape text": {"shape": "16 x 16"},
    "shape of others": {"shape": [32, 32, 3], "preprocess": PREPROCESS | {"size": [32, 32]}},
    "shape huge": {
        "shape": [60_000, 60_000, 3],
        "preprocess": PREPROCESS | {"size": [60_000, 60_000]},
    },
    "shape beside preprocess": {"preprocess": PREPROCESS | {"size": [8, 16]}},
    "preprocess missing": {"preprocess": ...},
    "preprocess a list": {"preprocess": [1]},
    "preprocess unknown": {"preprocess": PREPROCESS | {"resize": "rm -rf"}},
    "preprocess extra": {"preprocess": PREPROCESS | {"url": "http://localhost"}},
    "parameters text": {"parameters": "many"},
    "train a list": {"train": []},
    "temperature zero": {"calibration": {"temperature": 0.0, "images": 1, "predicted": [1, 0, 0]}},
    "temperature text": {"calibration": {"temperature": "1", "images": 1, "predicted": [1, 0, 0]}},
    "other calibration": {"calibration": {"temperature": 1.0, "images": 1, "predicted": [1]}},
    "negative counts": {"calibration": {"temperature": 1.0, "images": 1, "predicted": [2, -1, 0]}},
}
LAYERS = {
    "lambda": layer("Lambda", function={"class_name": "__lambda__", "config": {"value": [CODE]}}),
    "lambda by name": layer("Lambda", function="eval"),
    "custom class": layer("Backdoor", module="backdoor", registered="backdoor>Backdoor"),
    "other package": layer("Popen", module="subprocess"),
    "system": {"module": "os", "class_name": "function", "config": "system"},
    "registered": layer("Dense", registered="Custom>Dense", units=3),
    "get_file": {
        "module": "keras.utils",
        "class_name": "function",
        "config": "get_file",
        "registered_name": "get_file",
    },
    "get_file as a layer": layer("get_file", module="keras.utils", origin="http://localhost/x"),
    "file of words": layer("StringLookup", vocabulary="/etc/passwd"),
    "saved model": layer("TFSMLayer", module="keras.layers", filepath="/tmp"),
    "torch": layer("TorchModuleWrapper", module="torch"),
    "unknown layer": layer("Nonsense"),
    "private": layer("Layer", module="keras.src.saving.saving_lib"),
}
CONFIGS = {
    "empty": lambda c: c.clear(),
    "no layers": lambda c: c["config"].update(layers=[]),
    "layers text": lambda c: c["config"].update(layers="x"),
    "no class": lambda c: c.pop("class_name"),
    "other input": lambda c: c["config"]["layers"][0]["config"].update(batch_shape=[7, 16, 16, 3]),
    "untrusted initialiser": lambda c: c["config"]["layers"][-1]["config"].update(
        kernel_initializer={"module": "os", "class_name": "getcwd", "config": {}}
    ),
    "activation": lambda c: c["config"]["layers"][-1]["config"].update(activation="os.system"),
    "outputs": lambda c: c["config"]["layers"][-1]["config"].update(units=10**9),
    "wide": lambda c: _wide(c),
}
WEIGHTINGS = {
    "cut": lambda c: c | {WEIGHTS: c[WEIGHTS][:5000]},
    "garbage": lambda c: c | {WEIGHTS: bytes(30_000)},
    "empty": lambda c: c | {WEIGHTS: b""},
    "missing": lambda c: {name: c[name] for name in c if name != WEIGHTS},
    "npz": lambda c: {name: c[name] for name in c if name != WEIGHTS} | {"model.weights.npz": b"x"},
    "of another net": lambda c: with_weights(c, replaced(data=np.zeros(5))),
    "huge array": lambda c: with_weights(c, replaced(shape=(2**31,), dtype="f8")),
    "bomb": lambda c: with_weights(
        c, replaced(shape=(2**28,), dtype="f8", chunks=(2**20,), compression="gzip")
    ),
    "objects": lambda c: with_weights(c, replaced(data=[b"text"])),
    "link": lambda c: with_weights(c, linked),
    "outside": lambda c: with_weights(
        c, replaced(shape=(3,), dtype="f4", external=[("/etc/passwd", 0, 12)])
    ),
}
FILES = {
    "empty file": b"",
    "text": b"no model",
    "h5": b"\x89HDF\r\n\x1a\n" + bytes(2000),
    "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94.",
    "empty zip": b"PK\x05\x06" + bytes(18),
}


def foreign(path: Path, sound: Path) -> dict[str, Path]:
    """Files below `path` that are no sound models, by what is wrong with them."""
    path.mkdir(exist_ok=True)
    content = members(sound)
    made = {name: with_info(content, **changes) for name, changes in INFOS.items()}
    made |= {name: with_layer(content, copy.deepcopy(new)) for name, new in LAYERS.items()}
    made |= {f"config {name}": with_config(content, f) for name, f in CONFIGS.items()}
    made |= {f"weights {name}": change(content) for name, change in WEIGHTINGS.items()}
    made |= {
        "no info": {name: content[name] for name in content if name != INFO},
        "info garbage": content | {INFO: b"{not json"},
        "info not UTF-8": content | {INFO: b'{"classes": ["\xff"]}'},
        "info a list": content | {INFO: b"[]"},
        "info deep": content | {INFO: b"[" * 100_000},
        "config garbage": content | {CONFIG: b"\x00"},
        "config deep": content | {CONFIG: b'{"a":' * 100_000},
        "member more": content | {"assets/../../evil.py": b"import os"},
        "text too long": content | {"metadata.json": bytes(17 * 2**20)},
    }
    files = {name: pack(path / f"{name}.keras", parts) for name, parts in made.items()}
    bomb = content | {WEIGHTS: bytes(64 * 2**20)}
    files["deflated"] = pack(path / "deflated.keras", bomb, zipfile.ZIP_DEFLATED)
    whole = sound.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(b"\x89HDF") + 3000] ^= 0xFF  # the zip's checksum of it is wrong then
    for name, data in (FILES | {"truncated": whole[:-300], "flipped": bytes(flipped)}).items():
        files[name] = path / f"{name}.keras"
        files[name].write_bytes(data)
    files["folder"] = path / "folder.keras"
    files["folder"].mkdir(exist_ok=True)
    files["pipe"] = path / "pipe.keras"
    os.mkfifo(files["pipe"])
    files["absent"] = path / "absent.keras"
    return files


def test_foreign_and_damaged_models_are_one_line_each(sound, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = foreign(tmp_path / "files", sound)
    assert len(files) > 60
    for name, path in files.items():
        with pytest.raises(UserError) as caught:
            load_model(path)
        message = str(caught.value)
        assert str(path) in message, name
        assert "\n" not in message, name
        assert len(message) < 500 + len(str(path)), name
    assert sorted(os.listdir()) == ["files"]  # nothing ran, nothing was fetched or unpacked


def npy(array, version=(1, 0)) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    return file.getvalue()


def header(**changes) -> bytes:
    """The start of an .npy file that says what `changes` say, and one number."""
    fields = {"descr": "<f2", "fortran_order": False, "shape": (5, 3)} | changes
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, fields)
    return file.getvalue() + bytes(2)


SOUND = np.ones((5, 3), np.float16)
ARRAYS = {
    "empty": b"",
    "garbage": b"\x93NUMPY\x01\x00\xff\xff{",
    "objects": npy(np.array([[print]], object)),
    "float32": npy(SOUND.astype(np.float32)),
    "text": npy(np.array([["a"]])),
    "one axis": npy(SOUND[0]),
    "by columns": npy(np.asfortranarray(SOUND)),
    "newer": npy(SOUND, (2, 0)),
    "infinite": npy(SOUND * np.inf),
    "not a number": npy(SOUND * np.nan),
    "cut": npy(SOUND)[:-2],
    "longer": npy(SOUND) + b"xx",
    "wider than the other": npy(np.ones((5, 4), np.float16)),
    "many": npy(np.ones((REFERENCE_IMAGES + 1, 3), np.float16)),
    "claims much": header(shape=(2000, 2**40)),
    "claims less than nothing": header(shape=(-1, -1)),
    "claims no width": header(shape=(0, -3)),
    "long header": header(shape=(1, 1), descr=[("x" * 2000, "<f2")]),
    "too large": bytes(2**24 + 1),
}


def test_features_that_are_foreign_or_damaged_are_one_line_each(sound, tmp_path):
    content = members(sound)
    cases = {f"{at} {name}": (at, data) for at in FEATURES for name, data in ARRAYS.items()}
    for name, (at, data) in cases.items():
        path = pack(tmp_path / f"{name}.keras", content | {at: data})
        with pytest.raises(UserError, match="is not a model of this pipeline") as caught:
            load_reference(path)
        assert "\n" not in str(caught.value), name
    with pytest.raises(UserError, match=r"trained\.npy"):
        load_reference(
            pack(tmp_path / "half.keras", {n: content[n] for n in content if n != FEATURES[0]})
        )


def test_features_travel_with_the_model_and_may_be_absent(sound, tmp_path):
    trained, held_out = load_reference(sound)
    np.testing.assert_array_equal(
        [trained, held_out], np.random.default_rng(0).random((2, 5, 3)).astype(np.float16)
    )
    content = {n: data for n, data in members(sound).items() if n not in FEATURES}
    assert load_reference(pack(tmp_path / "without.keras", content)) is None
    load_model(tmp_path / "without.keras")


def test_what_a_model_claims_takes_no_memory_and_no_time(sound, tmp_path):
    """The claims that would take gigabytes, in a process of its own."""
    content = members(sound)
    claims = {
        "info": with_info(content, **INFOS["shape huge"]),
        "wide": with_config(content, CONFIGS["wide"]),
        "array": WEIGHTINGS["huge array"](content),
        "bomb": WEIGHTINGS["bomb"](content),
        "zoom": with_config(content, _zoom),
    }
    paths = [pack(tmp_path / f"{name}.keras", parts) for name, parts in claims.items()]
    unpacked = tmp_path / "unpacked.keras"
    with zipfile.ZipFile(unpacked, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in content.items():
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(data)
                if name == WEIGHTS:
                    for _ in range(1024):
                        member.write(bytes(2**20))
    code = """
import sys, stages.quiet, keras
from stages.errors import UserError
from stages.parameters.pixels import Preprocessing
from stages.store.model import load_model
def peak():  # not ru_maxrss, which begins with that of the process that started this one
    return next(int(line.split()[1]) for line in open("/proc/self/status") if "VmHWM" in line)
before = peak()
for path in sys.argv[1:]:
    try:
        load_model(path)
    except UserError as error:
        print(error)
print((peak() - before) // 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *paths, unpacked],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    *messages, mebibytes = done.stdout.splitlines()
    assert len(messages) == 6
    assert int(mebibytes) < 150


def _wide(config):
    """A layer of 10 million units before the last: 160 MB, and as much for the last."""
    head = config["config"]["layers"][-1]
    head["build_config"] = None
    config["config"]["layers"].insert(-1, layer("Dense", units=10_000_000))


def _zoom(config):
    """The image enlarged a thousand times in each direction, before the average is taken."""
    layers = config["config"]["layers"]
    at = next(k for k, one in enumerate(layers) if one["class_name"] == "Rescaling")
    zoom = layer("UpSampling2D", size=[1000, 1000], interpolation="nearest")
    layers.insert(at + 1, zoom)


def test_a_sound_model_loads_with_its_info(sound):
    model, info = load_model(sound)
    assert info == read_info(sound)
    assert info.classes == ["a", "b", "c"]
    assert info.preprocess.interpolation == "area"  # what is not said is the default
    assert model(np.zeros((1, 16, 16, 3), np.uint8)).shape == (1, 3)


def test_loading_a_model_leaves_nothing_behind_in_keras(sound):
    import keras

    load_model(sound)
    with keras.StatelessScope():
        pass  # would give values to the variables of a draft
    again, _ = load_model(sound)
    np.testing.assert_array_equal(again.layers[-1].get_weights()[0], np.eye(3))


def test_a_judgement_is_that_of_one_model_file(sound, tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(sound.read_bytes())
    assert read_judgement(path) is None
    score = Score(accuracy=0.5, accuracy_low=0.25, accuracy_high=0.75, count=9)
    judgement = Judgement(sha256=file_sha256(path), tta="flip", top_k=2, test=score)
    write_judgement(path.with_suffix(".json"), judgement)
    assert read_judgement(path) == judgement
    path.write_bytes(path.read_bytes() + b"x")
    assert read_judgement(path) is None
    path.with_suffix(".json").write_text("{")
    assert read_judgement(path) is None
