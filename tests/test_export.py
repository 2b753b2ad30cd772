"""The exported model: the folder that the stage writes, and what runs it without TensorFlow."""

import csv
import hashlib
import io
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import keras
import numpy as np
import psutil
import pytest
import yaml
from PIL import Image

from stages import download, evaluate, export, features, predict, preprocess, split, train
from stages.architectures import adapt_model
from stages.errors import UserError
from stages.images.decode import decode
from stages.inference import parity
from stages.inference.convert import keras_turn, name_by_content
from stages.inference.exported import load_exported
from stages.inference.fold import folded
from stages.inference.probabilities import graph_of, observer
from stages.inference.seen import NEAREST, Seen
from stages.parameters.export import Limits
from stages.parameters.model import Model
from stages.parameters.pixels import Preprocessing
from stages.store.exported import FILES, describe_file, read_exported, tensors, write_exported
from stages.store.image_set import load_image_set
from stages.store.model import ModelInfo, Reference, load_reference, save_model

ROOT = Path(__file__).parent.parent
COLORS = {"red": (160, 90, 90), "green": (90, 160, 90), "blue": (90, 90, 160)}
FORMATS = ["onnx", "litert", "litert_int8"]
FLOAT = ["onnx", "litert"]
SETTINGS = {
    "download": {"source": "folder", "path": "photos"},
    "preprocess": {"size": [20, 24], "color": "rgb", "resize": "pad"},
    "model": {"settings": {"filters": [4, 4, 4], "dense": 8}},
    "train": {
        "epochs": 2,
        "batch_size": 16,
        "precision": "float32",
        "debug": {"data_fraction": 0.8},
    },
    "evaluate": {"tta": "flip", "coverage": 0.7, "unlike": 0.2},
    "export": {"formats": FORMATS, "calibration_images": 20},
}


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A folder in which all stages up to export have run on a few photos."""
    folder = tmp_path_factory.mktemp("job")
    random = np.random.default_rng(0)
    for name, color in COLORS.items():
        (folder / "photos" / name).mkdir(parents=True)
        for n in range(30):
            rough = random.normal(color, 60, (4, 5, 3)).clip(0, 255).astype(np.uint8)
            photo = Image.fromarray(rough).resize((50, 40))
            photo.save(folder / f"photos/{name}/{n:02d}.{('png', 'jpg', 'webp')[n % 3]}")
    (folder / "params.yaml").write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    (folder / "reports").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in (download, preprocess, split, features, train, evaluate, export):
            stage.main()
    return folder


@pytest.fixture
def copied(job, tmp_path, monkeypatch):
    """A copy of the exported folder, free to be damaged; tests run in the folder above it."""
    shutil.copytree(job / "models/export", tmp_path / "export")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "export"


def image_set(job, side):
    return load_image_set(job / "data/processed", job / f"data/splits/{side}.csv")


def test_the_folder_holds_what_inference_needs_and_nothing_else(job):
    folder = job / "models/export"
    exported, _ = read_exported(folder / "model.onnx")
    names = {one.file for one in exported.files.values()} | {"model.json", "README.md", "golden"}
    assert {path.name for path in folder.iterdir()} == names | {"neighbours.jpg"}
    golden = {file for one in exported.golden for file in (one.image, one.tensor)}
    assert {f"golden/{path.name}" for path in (folder / "golden").iterdir()} == golden
    assert exported.classes == ["blue", "green", "red"]
    assert exported.preprocess.shape == (20, 24, 3)
    assert exported.judgement.tta == "flip"
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert f"{100 * exported.judgement.test.accuracy:.2f} %" in text


@pytest.mark.parametrize("format", FLOAT)
def test_a_float_format_gives_the_answers_that_evaluate_gave(job, format):
    _, observe = load_exported(job / "models/export" / FILES[format])
    seen = observe(image_set(job, "test").images())
    expected = np.load(job / "reports/evaluation/probabilities.npy")
    np.testing.assert_allclose(seen.probabilities, expected, atol=1e-5)
    distance = np.load(job / "reports/evaluation/unlike.npy")
    np.testing.assert_allclose(seen.distance, distance, atol=2e-5)


def test_parity_is_told_of_each_format_on_all_test_images(job):
    found = json.loads((job / "reports/parity.json").read_text(encoding="utf-8"))
    test = image_set(job, "test")
    expected = np.load(job / "reports/evaluation/probabilities.npy")
    assert list(found) == FORMATS
    for name, told in found.items():
        (of,) = told["figures"]
        path = job / "models/export" / FILES[name]
        _, observe = load_exported(path)
        answers = observe(test.images()).probabilities
        same = answers.argmax(axis=1) == expected.argmax(axis=1)
        right = answers.argmax(axis=1) == test.labels
        assert of["bytes"] == path.stat().st_size
        assert of["count"] == len(test)
        assert of["accuracy"] == pytest.approx(right.mean(), abs=1e-6)
        assert told["agreement"] == of["agreement"] == pytest.approx(same.mean(), abs=1e-6)
        change = right.mean() - (expected.argmax(axis=1) == test.labels).mean()
        assert told["accuracy_change"] == pytest.approx(change, abs=1e-6)
        difference = np.abs(answers.astype(float) - expected).max()
        assert of["largest_difference"] == pytest.approx(difference, rel=0.01, abs=1e-6)
    times = json.loads((job / "reports/timing.json").read_text(encoding="utf-8"))["export"]
    assert {"keras", *FORMATS} <= times.keys()


def test_a_format_past_a_limit_fails_in_one_line_that_says_what_to_do(job, capsys):
    exported, _ = read_exported(job / "models/export/model.onnx")
    expected = np.load(job / "reports/evaluation/probabilities.npy")

    def prove(answers, limits):
        keras = partial(keras_turn, job / "models/model.keras", exported.judgement.tta)
        folders = job / "models/export", exported, keras, job / "data/raw"
        parity.prove(*folders, image_set(job, "test"), answers, limits)

    with pytest.raises(UserError) as caught:
        prove(np.roll(expected, 1, axis=0), Limits())
    (line,) = str(caught.value).splitlines()
    assert "a probability of onnx differs by" in line
    assert "export.limits.float_difference = 0.0001" in line
    assert "what was exported before is kept" in line
    prove(expected, Limits(int8_loss=0))
    assert "litert: 0." in capsys.readouterr().out


def test_the_same_graph_by_other_names_gives_the_same_bytes():
    """As tf2onnx makes them: which of two equal constants stays is another on every run, and so is
    the number in the name of an unknown size."""
    from onnx import helper, numpy_helper
    from onnx.checker import check_model

    def graph(names, order):
        ones = numpy_helper.from_array(np.ones(3, np.float32), names[0])
        twos = numpy_helper.from_array(np.full(3, 2, np.float32), names[1])
        nodes = [
            helper.make_node("Add", ["images", names[0]], ["a"], name=names[2]),
            helper.make_node("Mul", ["images", names[1]], ["b"]),
            helper.make_node("Sub", ["a", "b"], ["probabilities"]),
        ]
        ends = [
            helper.make_tensor_value_info("images", 1, [names[3], 3]),
            helper.make_tensor_value_info("probabilities", 1, [names[4], 3]),
        ]
        inner = [nodes[at] for at in order] + nodes[2:]
        made = helper.make_graph(
            inner, "net", ends[:1], ends[1:], [ones, twos][:: order[1] * 2 - 1]
        )
        name_by_content(made)
        check_model(helper.make_model(made))
        return made.SerializeToString(deterministic=True)

    one, other = ("x", "y", "z", "unk__551", "unk__552"), ("p", "q", "", "unk__552", "unk__553")
    assert graph(one, (0, 1)) == graph(other, (1, 0))


def test_8_bits_stay_inside_the_net(job):
    """Images come as they are, whole layers have a scale for each channel; distances, the nearest
    image and small probabilities are as exact as the features."""
    from ai_edge_litert.interpreter import Interpreter

    path = job / "models/export/model_int8.tflite"
    interpreter = Interpreter(model_path=str(path))
    assert interpreter.get_input_details()[0]["dtype"] == np.uint8
    kinds = {
        one["name"]: (one["dtype"].__name__, len(one["quantization_parameters"]["scales"]))
        for one in interpreter.get_tensor_details()
    }
    assert ("int8", 4) in kinds.values()  # a convolution of 4 filters
    kernels = [
        interpreter._get_tensor_details(one["inputs"][1], 0)["dtype"].__name__
        for one in interpreter._get_ops_details()
        if one["op_name"] in ("CONV_2D", "DEPTHWISE_CONV_2D")
    ]
    assert set(kernels) == {"int8"}
    images = image_set(job, "test").images()
    _, exact = load_exported(job / "models/export/model.tflite")
    _, rough = load_exported(path)
    expected, seen = exact(images), rough(images)
    assert np.abs(seen.features - expected.features).max() > 0
    assert np.abs(seen.probabilities - expected.probabilities).max() < 0.02
    assert np.abs(seen.distance - expected.distance).max() < 0.01
    assert len(set(np.round(seen.probabilities[:, 0] * 256, 3) % 1)) > 1  # no steps of 1/256


@pytest.mark.parametrize("format", FORMATS)
def test_any_number_of_images_at_a_time_gives_the_same(job, format):
    exported, observe = load_exported(job / "models/export" / FILES[format], threads=1)
    images = image_set(job, "test").images(0, 7)
    together = observe(images)
    parts = [observe(images[at:stop]) for at, stop in ((0, 1), (1, 2), (2, 5), (5, 7))]
    apart = [np.concatenate(each) for each in list(zip(*parts, strict=True))[:4]]
    for one, other in zip(together[:4], apart, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
    none = observe(images[:0])
    shapes = [(0, 3), (0, exported.sizes.features), (0,), (0, NEAREST)]
    assert [part.shape for part in none[:4]] == shapes


def test_golden_images_become_their_tensors_and_those_the_answers(job):
    folder = job / "models/export"
    exported, observe = load_exported(folder / "model.onnx")
    assert len(exported.golden) == 8
    for one in exported.golden:
        tensor = np.load(folder / one.tensor)
        pixels = decode((folder / one.image).read_bytes(), exported.preprocess)
        assert np.array_equal(pixels, tensor)
        seen = observe(tensor[None])
        np.testing.assert_allclose(seen.probabilities[0], one.probabilities, atol=1e-4)
        np.testing.assert_allclose(seen.distance[0], one.distance, atol=1e-4)


def test_thumbnails_are_the_images_that_nearest_counts(job):
    """Also where training used a part of the images only."""
    folder, images = job / "models/export", image_set(job, "train")
    exported, observe = load_exported(folder / "model.tflite")
    sheet = np.asarray(Image.open(folder / "neighbours.jpg"), int)
    known, side = exported.neighbours, exported.neighbours.side
    count = len(load_reference(job / "models/model.keras").trained)
    assert len(known.labels) == count < len(images)
    seen = observe(images.images())
    itself = np.flatnonzero(seen.distance < 1e-5)
    assert sorted(seen.nearest[itself, 0]) == list(range(count))
    for at in itself:
        place = seen.nearest[at, 0]
        row, column = divmod(int(place), known.columns)
        tile = sheet[row * side : (row + 1) * side, column * side : (column + 1) * side]
        smooth = Image.fromarray(images.images(at, at + 1)[0]).resize((side, side * 20 // 24))
        top = (side - smooth.height) // 2
        difference = tile[top : top + smooth.height] - np.asarray(smooth, int)
        assert np.abs(difference).mean() < 12
        assert known.labels[place] == images.labels[at]


def test_a_second_export_gives_the_same_bytes(job, tmp_path, monkeypatch):
    """Also beside other formats; TensorFlow is in the processes of these only."""
    for folder in ("data", "models", "reports"):
        shutil.copytree(job / folder, tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    again = SETTINGS["export"] | {"formats": ["litert_int8", "onnx"]}
    Path("params.yaml").write_text(yaml.safe_dump(SETTINGS | {"export": again}), encoding="utf-8")
    code = "import sys\nfrom stages import export\nexport.main()\nprint('keras' in sys.modules)"
    command, paths = [sys.executable, "-c", code], os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=paths, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False"
    made = sorted(path for path in Path("models/export").rglob("*") if path.is_file())
    assert len(made) == len(list((job / "models/export").rglob("*.*"))) - 1  # model.tflite
    for path in made:
        if path.name not in ("model.json", "README.md"):  # which name the formats
            assert path.read_bytes() == (job / path).read_bytes(), path
    first, second = (
        json.loads((folder / "reports/parity.json").read_text(encoding="utf-8"))
        for folder in (job, tmp_path)
    )
    assert second == {name: first[name] for name in again["formats"]}


def covered(source: int, target: int) -> np.ndarray:
    """Shares (target, source) of `source` pixels in each of `target` equal parts."""
    edges = np.arange(target + 1)[:, None] * source / target
    ends = np.clip(edges, np.arange(source), np.arange(source) + 1)
    return np.diff(ends, axis=0) * target / source


def as_the_readme_says(pixels: np.ndarray, text: str, size: tuple[int, int]) -> np.ndarray:
    """What a stranger makes of its words: uint8 (h, w, 3) resized to `size`, whole levels."""
    (height, width), (rows, columns), image = size, pixels.shape[:2], Image.fromarray(pixels)
    if "`area`" not in text:
        name = re.search(r"is Pillow's ([A-Z]+)", text)[1]
        return np.asarray(image.resize((width, height), Image.Resampling[name]))
    if min(rows / height, columns / width) >= 1:
        name = "BOX" if min(rows / height, columns / width) >= 1.5 else "BILINEAR"
        return np.asarray(image.resize((width, height), Image.Resampling[name]))
    smaller = image.resize((min(width, columns), min(height, rows)), Image.Resampling.BOX)
    found = np.asarray(smaller, float)
    if height > rows:
        found = np.einsum("or,rwc->owc", covered(rows, height), found)
    if width > columns:
        found = np.einsum("oc,hcd->hod", covered(columns, width), found)
    return np.rint(found)


@pytest.mark.parametrize("interpolation", ["area", "nearest", "bilinear", "bicubic", "lanczos"])
def test_who_follows_the_readme_gets_the_same_pixels(job, interpolation):
    model, _ = read_exported(job / "models/export/model.onnx")
    random = np.random.default_rng(3)
    for rows, columns in ((48, 64), (28, 30), (26, 64), (9, 11), (9, 64), (60, 20)):
        settings = {"size": [20, 24], "color": "rgb", "resize": "stretch"}
        preprocess = Preprocessing(**settings, interpolation=interpolation)
        text = export.readme(model.model_copy(update={"preprocess": preprocess}))
        assert f"by `{interpolation}`" in text
        pixels = random.integers(64, 192, (rows, columns, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        tensor = decode(file.getvalue(), preprocess).astype(int)
        assert np.abs(tensor - as_the_readme_says(pixels, text, (20, 24))).max() <= 1


def test_nothing_is_exported_where_no_format_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("export: {formats: []}", encoding="utf-8")
    Path("models").mkdir()
    Path("models/model.keras").touch()
    export.main()
    assert [path.name for path in Path("models/export").iterdir()] == ["README.md"]
    assert Path("reports/parity.json").read_text(encoding="utf-8") == "{}\n"
    assert capsys.readouterr().out == "export.formats is empty: nothing is exported\n"


def test_a_converter_that_fails_is_one_line(job, tmp_path, monkeypatch):
    (tmp_path / "tf2onnx.py").write_text("raise ValueError('odd\\nnet')")
    monkeypatch.syspath_prepend(tmp_path)
    model, images = job / "models/model.keras", np.zeros((1, 20, 24, 3), np.uint8)
    with (
        pytest.raises(UserError, match=r"onnx cannot be made of this model \(odd\); leave it out"),
        export.converting(["onnx"], model, "none", images, tmp_path) as (jobs, _),
    ):
        export.made(jobs, tmp_path)


def test_the_process_of_the_last_format_times_the_keras_model(job, tmp_path):
    model, images = job / "models/model.keras", np.zeros((3, 20, 24, 3), np.uint8)
    before = set(multiprocessing.active_children())
    with export.converting(["litert"], model, "flip", images, tmp_path) as (jobs, keras):
        export.made(jobs, tmp_path)
        singles, batch = keras(images)
        assert len(singles) == parity.SINGLES
        assert min(*singles, batch) > 0
        (process,) = set(multiprocessing.active_children()) - before
        process.kill()
        with pytest.raises(UserError, match="the process of litert was ended, perhaps for"):
            keras(images)
    assert set(multiprocessing.active_children()) <= before


def test_the_processes_of_an_export_that_is_killed_end_too():
    code = (
        "import os, time\nfrom stages import export\n"
        "with export._process() as process:\n"
        "    print(process.submit(os.getpid).result(), flush=True)\n"
        "    time.sleep(60)"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as killed:
        process = psutil.Process(int(killed.stdout.readline()))
        killed.kill()
    process.wait(30)


def test_a_converter_that_is_not_installed_is_one_line(job, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    images = np.zeros((1, 20, 24, 3), np.uint8)
    with pytest.raises(ImportError) as caught:  # as it leaves the process of the format
        export._convert("onnx", job / "models/model.keras", "none", images, tmp_path / "new")
    said = export._failure("onnx", caught.value)
    assert said == "export.formats: onnx needs packages that are not installed; run make export"


# Every architecture


@pytest.mark.parametrize(
    ("name", "settings", "output", "tta", "heat"),
    [
        # One output; the layers of binary_photo are those of the convnet above.
        ("speednet", {}, "sigmoid", "flip_shift", None),
        ("gap", {"filters": 6}, "softmax", "flip", (6, 6)),
        # Six views of so many layers are six times as long to convert.
        ("backbone", {"network": "MobileNetV2"}, "softmax", "none", (1, 1)),
    ],
)
def test_an_architecture_is_the_same_function_after_export(
    name, settings, output, tta, heat, tmp_path
):
    from stages.inference.convert import convert
    from stages.inference.deployable import Deployable

    random = np.random.default_rng(0)
    images = random.integers(0, 256, (6, 32, 32, 3), np.uint8)
    classes = 2
    deployable = Deployable(
        Model(name=name, settings=settings, output=output), (32, 32, 3), classes
    )
    adapt_model(name, deployable.net, images)
    fast = folded(deployable.model)
    trained = observer(fast)(images[:3]).features.astype(np.float16)
    graph = graph_of(fast, tta, trained, heat=True)
    expected = Seen.of({name: part.numpy() for name, part in graph(images).items()})
    info = ModelInfo(
        classes=["a", "b"], shape=(32, 32, 3), preprocess=Preprocessing(size=[32, 32], color="rgb")
    )
    save_model(deployable.model, tmp_path / "model.keras", info, Reference(trained, trained))
    for format in FLOAT:
        path = tmp_path / FILES[format]
        sizes = convert(format, tmp_path / "model.keras", tta, images, path)
        assert sizes == (trained.shape[1], heat)
        exported = as_exported(tmp_path, info, sizes, format)
        write_exported(tmp_path, exported)
        _, observe = load_exported(path)
        seen = observe(images)
        np.testing.assert_allclose(seen.probabilities, expected.probabilities, atol=1e-5)
        np.testing.assert_allclose(seen.distance, expected.distance, atol=1e-4)
        np.testing.assert_array_equal(seen.nearest, expected.nearest)
        if heat:
            np.testing.assert_allclose(seen.heat, expected.heat, atol=1e-4)
        else:
            assert seen.heat is None


def test_in_8_bits_the_class_is_seen_where_it_is_in_32(tmp_path):
    from stages.inference.convert import convert

    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    images = np.repeat(np.repeat(random.integers(0, 256, (20, 4, 4, 3)), 4, 1), 4, 2)
    images = images.astype(np.uint8)
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3), dtype="uint8"),
            keras.layers.Rescaling(1 / 50),
            keras.layers.Conv2D(6, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    info = ModelInfo(
        classes=["a", "b"], shape=(16, 16, 3), preprocess=Preprocessing(size=[16, 16], color="rgb")
    )
    save_model(model, tmp_path / "model.keras", info)
    path = tmp_path / FILES["litert_int8"]
    sizes = convert("litert_int8", tmp_path / "model.keras", "none", images, path)
    write_exported(tmp_path, as_exported(tmp_path, info, sizes, "litert_int8"))
    seen = load_exported(path)[1](images)
    expected = graph_of(model, heat=True)(images)["heat"].numpy()
    assert expected.max() == 1
    assert np.abs(seen.heat - expected).mean() < 0.02
    assert (seen.nearest == -1).all()


def as_exported(folder, info, sizes, format):
    from stages.store.exported import Exported
    from stages.store.model import Judgement, Score

    takes, gives = tensors(info.shape, len(info.classes), sizes)
    score = Score(accuracy=1.0, accuracy_low=0.9, accuracy_high=1.0, count=6)
    return Exported(
        classes=info.classes,
        preprocess=info.preprocess,
        input=takes,
        outputs=gives,
        temperature=1.0,
        judgement=Judgement(sha256="0" * 64, tta="flip_shift", top_k=1, test=score),
        calibration=None,
        files={format: describe_file(folder / FILES[format])},
        golden=[],
        neighbours=None,
    )


# In use


def read_csv(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


PREDICT = """
import sys
from stages import predict
sys.argv = ["predict", *sys.argv[1:]]
code = predict.main()
heavy = {"tensorflow", "keras", "pyarrow", "sklearn"} & set(sys.modules)
assert not heavy, heavy
sys.exit(code)
"""


@pytest.mark.parametrize("format", FLOAT)
def test_predict_gives_the_same_answers_without_tensorflow(job, format, tmp_path):
    judged = {line["path"]: line for line in read_csv(job / "reports/predictions.csv")}
    paths = [f"photos/{path}" for path in judged]
    output = tmp_path / "found.csv"
    command = [sys.executable, "-c", PREDICT, "--model", f"models/export/{FILES[format]}"]
    done = subprocess.run(
        [*command, "--output", output, "-"],
        input="\n".join(paths),
        cwd=job,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    # scikit-learn is for the report on images whose folder names their class.
    assert done.returncode == 0 or "{'sklearn'}" in done.stderr, done.stderr
    found = {line["file"].removeprefix("photos/"): line for line in read_csv(output)}
    for path, line in judged.items():
        for column in ("predicted", "set", "unlike"):
            assert found[path][column] == line[column]
        assert float(found[path]["confidence"]) == pytest.approx(
            float(line["confidence"]), abs=1e-5
        )


def run_predict(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["predict", *map(str, arguments)])
    return predict.main()


def test_next_works_and_what_cannot_is_said_in_a_line(job, monkeypatch, capsys):
    monkeypatch.chdir(job)
    model = ["--model", "models/export/model.onnx"]
    assert run_predict(monkeypatch, "photos/red", "--next", 3, *model) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("photos/red/") for line in lines)
    assert run_predict(monkeypatch, "photos/red", "--tta", "flip", *model) == 0
    with pytest.raises(UserError, match="exported with --tta flip, which is a part of it"):
        run_predict(monkeypatch, "photos/red", "--tta", "none", *model)
    with pytest.raises(UserError, match=r"--drift compares .* no exported model knows"):
        run_predict(monkeypatch, "photos/red", "--drift", *model)


# Folders from anywhere


def rewrite(folder, change):
    """Change model.json, and make its digests those of the files."""
    record = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    for one in record["files"].values():
        content = (folder / one["file"]).read_bytes()
        one |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    change(record)
    (folder / "model.json").write_text(json.dumps(record), encoding="utf-8")


def change(key, value):
    def apply(record):
        record[key] = value

    return apply


def test_a_model_without_its_folder_is_one_line(copied):
    (copied / "model.tflite").unlink()
    with pytest.raises(UserError, match=r"there is no model export/model\.tflite"):
        load_exported(Path("export/model.tflite"))
    (copied / "model.json").unlink()
    with pytest.raises(UserError, match=r"model\.json is missing, which belongs to model\.onnx"):
        load_exported(Path("export/model.onnx"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (change("classes", ["a", "a", "b"]), "a class is named twice"),
        (change("classes", ["a", "b"]), "not those of these classes"),
        (change("golden", [{"image": "../../x", "tensor": "golden/0.npy"}]), r"golden\.0\.image"),
        (change("neighbours", {"file": "/etc/passwd"}), "neighbours"),
        (lambda record: record["neighbours"]["labels"].append(3), "a label that is no class"),
        (lambda record: record["golden"][1]["probabilities"].pop(), "fewer probabilities"),
        (change("files", {"onnx": {"file": "../model.onnx"}}), r"files\.onnx\.file"),
        (change("files", {}), r"it does not know model\.onnx"),
        (change("more", 1), "more"),
    ],
)
def test_a_record_that_is_not_sound_is_one_line(copied, changes, message):
    rewrite(copied, changes)
    with pytest.raises(UserError, match=message) as caught:
        load_exported(copied / "model.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.onnx", "model.tflite"])
@pytest.mark.parametrize("consistent", [False, True])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"\0" * 1000,
        lambda content: b"<html>" + content,
        lambda content: content[:8] + bytes(reversed(content[8:])),
    ],
)
def test_a_damaged_model_is_one_line(copied, name, damage, consistent, capfd):
    path = copied / name
    path.write_bytes(damage(path.read_bytes()))
    if consistent:  # as one who means harm would leave it
        path.write_bytes(path.read_bytes() or b"\0")
        rewrite(copied, lambda record: None)
    with pytest.raises(UserError, match="is not an exported model of this pipeline") as caught:
        load_exported(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_an_onnx_model_reads_no_other_file(copied):
    import onnx

    net = onnx.load(copied / "model.onnx")
    largest = max(net.graph.initializer, key=lambda one: len(one.raw_data))
    content = largest.raw_data
    largest.ClearField("raw_data")
    largest.data_location = onnx.TensorProto.EXTERNAL
    for place in (copied / "weights.bin", copied.parent / "weights.bin"):
        place.write_bytes(content)
    for location in ("weights.bin", "../weights.bin", str(copied / "weights.bin")):
        del largest.external_data[:]
        entry = largest.external_data.add()
        entry.key, entry.value = "location", location
        (copied / "model.onnx").write_bytes(net.SerializeToString())
        rewrite(copied, lambda record: None)
        with pytest.raises(UserError, match="is not an exported model"):
            load_exported(copied / "model.onnx")


def test_a_sound_model_of_another_kind_is_one_line(copied):
    """Whose inputs or outputs are not those that the record tells of."""

    def other(record):
        record["preprocess"]["size"] = [40, 24]
        record["input"]["shape"][1] = 40

    rewrite(copied, other)
    for name in ("model.onnx", "model.tflite"):
        with pytest.raises(UserError, match=r"images is .* not uint8"):
            load_exported(copied / name)
