"""Foreign and damaged model files: `python -m stages.predict` refuses each with one line.

No code in them may run, no file be touched. The numbers up to the last of `on_purpose` are made so,
further ones are the sound model, cut or flipped at random.
"""

import base64
import functools
import io
import json
import marshal
import os
import pickle
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from bench.faults.archives import make_zip
from bench.faults.cases import ACCEPTED, Outcome, Place, case_random, first, tree
from bench.faults.images import _saved, picture
from bench.faults.watched import GIB, SECONDS, Done, judge, run_program, run_stage

INFO, CONFIG, WEIGHTS, METADATA = (
    *("pipeline.json", "config.json", "model.weights.h5", "metadata.json"),
)
ZEROS = 6 * 2**30
REFUSE, ACCEPT = "refuse", "accept"
Make = Callable[[bytes, Path], None]  # writes a model to a path, given the bytes of a sound one


def baseline(folder: Path) -> Done:
    """What importing TensorFlow takes: a model is judged by what it takes beyond."""
    return run_program([sys.executable, "-c", "import tensorflow"], folder, 120, 8 * GIB)


def members(model: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(model)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def content(data: bytes) -> Make:
    return lambda model, path: path.write_bytes(data)


def with_member(name: str, data: bytes | None) -> Make:
    """The sound model with other bytes for one member, or without it."""

    def make(model: bytes, path: Path) -> None:
        files = members(model) | {name: data}
        files = {key: value for key, value in files.items() if value is not None}
        path.write_bytes(make_zip(files, zipfile.ZIP_STORED))

    return make


def with_json(name: str, change: Callable[[dict], object]) -> Make:
    """The sound model with a JSON member put through `change`."""

    def make(model: bytes, path: Path) -> None:
        value = change(json.loads(members(model)[name]))
        with_member(name, json.dumps(value).encode())(model, path)

    return make


def info(**values) -> Make:
    return with_json(INFO, lambda value: value | values)


def preprocess(**values) -> Make:
    return with_json(INFO, lambda value: value | {"preprocess": value["preprocess"] | values})


def with_layer(layer: dict) -> Make:
    """The sound model with `layer` in place of the last one of the same net."""

    def change(config: dict) -> dict:
        net = {"name": "net", "layers": [_input_layer(config), layer]}
        model = {"module": "keras", "class_name": "Sequential", "config": net}
        return model | {"registered_name": None, "build_config": None}

    return with_json(CONFIG, change)


def _input_layer(config: dict) -> dict:
    shape = [None, 8, 8, 3]
    for layer in config["config"].get("layers", []):
        shape = layer["config"].get("batch_shape", shape)
        break
    values = {"batch_shape": shape, "dtype": "uint8", "name": "in"}
    return {"module": "keras.layers", "class_name": "InputLayer", "config": values}


def layer(name: str, module: str = "keras.layers", registered: str | None = None, **config) -> dict:
    config = {"name": "l", "trainable": True, "dtype": "float32"} | config
    kind = {"module": module, "class_name": name, "config": config, "registered_name": registered}
    return kind | {"build_config": None}


def lambda_code() -> dict:
    """A function that writes a file, as Keras keeps the code of a Lambda layer."""
    touch = (lambda x: open("escaped", "w") and x).__code__  # noqa: SIM115  never runs
    code = base64.b64encode(marshal.dumps(touch)).decode()
    return {"class_name": "__lambda__", "config": {"code": code, "defaults": None, "closure": None}}


def function(module: str, name: str) -> dict:
    """A function of any module, as Keras keeps those that a layer is given."""
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


def get_file(model: bytes, path: Path) -> None:
    """A layer made by `keras.utils.get_file`, which would fetch into a folder of its choice."""
    source = path.with_name("source.txt")
    source.write_text("fetched")
    config = {"fname": "escaped", "origin": source.as_uri(), "cache_dir": str(path.parent)}
    config |= {"cache_subdir": "", "extract": False}
    one = {"module": "keras.utils", "class_name": "get_file", "config": config}
    with_layer(layer("Lambda", function=one, arguments={}))(model, path)


class _Touch:
    def __reduce__(self):
        return os.system, ("touch escaped",)


def pickled(model: bytes, path: Path) -> None:
    path.write_bytes(pickle.dumps(_Touch()))


def torch_like(model: bytes, path: Path) -> None:
    path.write_bytes(make_zip({"m/data.pkl": pickle.dumps(_Touch()), "m/version": b"3\n"}))


def h5(write: Callable) -> bytes:
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        write(file)
    return buffer.getvalue()


def legacy_h5(model: bytes, path: Path) -> None:
    """A model as Keras 2 kept it, with a Lambda layer."""
    code = lambda_code()["config"]["code"]
    config = {"name": "l", "function": [code, None, None], "function_type": "lambda"}
    layers = [{"class_name": "Lambda", "config": config | {"batch_input_shape": [None, 8, 8, 3]}}]
    net = {"class_name": "Sequential", "config": {"name": "s", "layers": layers}}

    def write(file):
        file.attrs["model_config"] = json.dumps(net)
        file.attrs["keras_version"], file.attrs["backend"] = "2.15.0", "tensorflow"
        file.create_group("model_weights")

    path.write_bytes(h5(write))


def huge_dataset(file) -> None:
    file.create_dataset("layers/dense/vars/0", (10**6, 10**6), "f4", chunks=(1000, 1000))


def external_dataset(file) -> None:
    file.create_dataset("layers/dense/vars/0", (4,), "u1", external=[("/etc/passwd", 0, 4)])


def bomb(name: str) -> Make:
    """A member that unpacks to 6 GiB of zeros and, as the zip says, has so many."""

    def make(model: bytes, path: Path) -> None:
        step = 64 * 2**20
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        block = deflate.compress(bytes(step)) + deflate.flush(zlib.Z_FULL_FLUSH)
        stream = block * (ZEROS // step) + b"\x03\0"
        data = make_zip(members(model) | {name: stream}, zipfile.ZIP_STORED)
        claim = struct.pack("<II", len(stream), 2**32 - 2)
        for mark, method, sizes in ((b"PK\3\4", 8, 18), (b"PK\1\2", 10, 20)):
            header = 30 if mark == b"PK\3\4" else 46
            at = data.index(name.encode(), data.index(mark))
            while data[at - header : at - header + 4] != mark:
                at = data.index(name.encode(), at + 1)
            at -= header
            data = data[: at + method] + b"\x08\0" + data[at + method + 2 :]
            data = data[: at + sizes] + claim + data[at + sizes + 8 :]
        path.write_bytes(data)

    return make


def cut(model: bytes, path: Path) -> None:
    path.write_bytes(model[: len(model) * 2 // 3])


def loop(model: bytes, path: Path) -> None:
    path.symlink_to(path.name)


def missing(model: bytes, path: Path) -> None:
    pass


def wide(units: int) -> Make:
    return with_layer(layer("Dense", units=units, activation="softmax"))


def large_input(config: dict) -> dict:
    text = json.dumps(config)
    first_layer = _input_layer(config)["config"]["batch_shape"]
    old, new = json.dumps(first_layer), json.dumps([None, 60_000, 60_000, first_layer[3]])
    return json.loads(text.replace(old, new))


DEEP = b'{"a":' * 50_000 + b"1" + b"}" * 50_000


@functools.cache
def on_purpose() -> list[tuple[str, Make, str]]:
    """What it is, the function that makes it, and what must come of it.

    The first are those that a short run tries: of them only one gets as far as TensorFlow.
    """
    return [
        ("an empty file", content(b""), REFUSE),
        ("a folder", lambda model, path: path.mkdir(), REFUSE),
        ("cut short", cut, REFUSE),
        ("no info", with_member(INFO, None), REFUSE),
        ("a pickle", pickled, REFUSE),
        (
            "a Lambda layer",
            with_layer(layer("Lambda", function=lambda_code(), arguments={})),
            REFUSE,
        ),
        ("sound", lambda model, path: path.write_bytes(model), ACCEPT),
        ("a pickle in a zip", torch_like, REFUSE),
        ("missing", missing, REFUSE),
        ("a loop of links", loop, REFUSE),
        ("a FIFO", lambda model, path: os.mkfifo(path), REFUSE),
        ("text", content(b"a model\n" * 100), REFUSE),
        ("a photo", content(_saved(picture("RGB"), "PNG")), REFUSE),
        ("an old .h5 with a Lambda layer", legacy_h5, REFUSE),
        ("info that is a list", with_json(INFO, lambda value: [value]), REFUSE),
        ("info that is null", with_member(INFO, b"null"), REFUSE),
        ("info that is no JSON", with_member(INFO, b"{"), REFUSE),
        ("info that is not UTF-8", with_member(INFO, b'{"classes": "\xff\xfe"}'), REFUSE),
        ("info 50,000 deep", with_member(INFO, DEEP), REFUSE),
        ("info that unpacks to 6 GiB", bomb(INFO), REFUSE),
        ("info without classes", info(classes=None), REFUSE),
        ("classes that are a text", info(classes="ab"), REFUSE),
        ("classes that are numbers", info(classes=[1, 2]), REFUSE),
        ("no classes", info(classes=[]), REFUSE),
        (
            "more classes than outputs",
            info(classes=[str(number) for number in range(1000)]),
            REFUSE,
        ),
        ("no preprocess", info(preprocess=None), REFUSE),
        ("preprocess without size", info(preprocess={}), REFUSE),
        ("60,000 x 60,000 pixels", preprocess(size=[60_000, 60_000]), REFUSE),
        ("negative size", preprocess(size=[-8, 8]), REFUSE),
        ("a size that is a text", preprocess(size="88"), REFUSE),
        ("a size with a fraction", preprocess(size=[8.5, 8]), REFUSE),
        ("another size than the net's", preprocess(size=[31, 33]), REFUSE),
        ("an unknown interpolation", preprocess(interpolation="__class__"), REFUSE),
        ("an unknown resize", preprocess(resize="bend"), REFUSE),
        ("an unknown colour", preprocess(color="cmyk"), REFUSE),
        ("a background of two", preprocess(background=[1, 2]), REFUSE),
        ("no config", with_member(CONFIG, None), REFUSE),
        ("config that is no JSON", with_member(CONFIG, b"{"), REFUSE),
        ("config 50,000 deep", with_member(CONFIG, DEEP), REFUSE),
        ("config of an unknown class", with_layer(layer("Nothing")), REFUSE),
        ("a registered class of its own", with_layer(layer("Mine", "mine", "pack>Mine")), REFUSE),
        ("a class of os", with_layer(layer("system", "os", command="touch escaped")), REFUSE),
        (
            "a function of os",
            with_layer(layer("Activation", activation=function("os", "system"))),
            REFUSE,
        ),
        ("keras.utils.get_file", get_file, REFUSE),
        ("a billion units", wide(10**9), REFUSE),
        ("an input of 60,000 x 60,000", with_json(CONFIG, large_input), REFUSE),
        ("metadata of another Keras", with_member(METADATA, b'{"keras_version": "99.0"}'), ""),
        ("no metadata", with_member(METADATA, None), ""),
        ("no weights", with_member(WEIGHTS, None), REFUSE),
        ("weights that are noise", with_member(WEIGHTS, bytes(range(256)) * 9), REFUSE),
        ("weights that unpack to 6 GiB", bomb(WEIGHTS), REFUSE),
        ("weights of a huge shape", with_member(WEIGHTS, h5(huge_dataset)), REFUSE),
        ("weights in another file", with_member(WEIGHTS, h5(external_dataset)), REFUSE),
        ("a member outside", with_member("../../escaped", b"x"), ""),
    ]


def damaged(seed: int, number: int) -> Make:
    """The sound model, cut or flipped at random."""
    random = case_random(seed, "models", number)

    def make(model: bytes, path: Path) -> None:
        data = bytearray(model)
        if random.random() < 0.2:
            data = data[: random.randrange(len(data))]
        else:
            for _ in range(random.choice((1, 1, 4, 100))):
                data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        path.write_bytes(data)

    return make


def run_case(seed: int, top: Path, sound: bytes, basis: Done, number: int) -> Outcome:
    """Classify a photo with model `number`; `sound` is a model of this pipeline.

    `basis` is what importing TensorFlow takes.
    """
    what, make, must = "damaged at random", damaged(seed, number), ""
    if number < len(on_purpose()):
        what, make, must = on_purpose()[number]
    place = Place(top / str(number))
    project = place.project
    model = project / "model.keras"
    make(sound, model)
    picture("RGB").save(project / "photo.png")
    before = _files(project)
    memory = basis.peak + GIB
    limits = {"seconds": basis.seconds + SECONDS, "memory": memory}
    done = run_stage("predict", project, "photo.png", "--model", "model.keras", **limits)
    outcome = judge(done, memory)
    if outcome.verdict == ACCEPTED and must == REFUSE:
        outcome = Outcome("accepted what is damaged", done.out)
    elif outcome.verdict != ACCEPTED and must == ACCEPT and not outcome.is_fault:
        outcome = Outcome("refused", outcome.detail)
    if touched := [*place.written_outside(), *map(str, before ^ _files(project))]:
        outcome = Outcome("outside", first(touched))
    return outcome._replace(detail=f"{what}: {outcome.detail}")


def _files(project: Path) -> set[Path]:
    return set(tree(project))
