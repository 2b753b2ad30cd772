"""The model in use: python -m stages.predict."""

import csv
import io
import json
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages import download, evaluate, features, predict, preprocess, split
from stages.errors import UserError
from stages.inference.inputs import Input, find_inputs, load
from stages.parameters.pixels import Preprocessing
from stages.store.model import ModelInfo, save_model
from stages.store.processed import Pixels
from stages.store.tables import read_table

ROOT = Path(__file__).parent.parent
CLASSES = ["blue", "green", "red"]
COLORS = {"red": (250, 20, 20), "green": (20, 250, 20), "blue": (20, 20, 250)}
PREPROCESS = {
    "size": [12, 10],
    "color": "rgb",
    "resize": "stretch",
    "interpolation": "area",
    "background": [255, 255, 255],
}


@pytest.fixture(scope="session")
def color_model(tmp_path_factory):
    """A model that tells images by their strongest colour."""
    import keras

    layers = [
        keras.Input((12, 10, 3), dtype="uint8"),
        keras.layers.Rescaling(1 / 25),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(3, activation="softmax"),
    ]
    model = keras.Sequential(layers)
    model.layers[-1].set_weights([np.eye(3)[::-1], np.zeros(3)])
    path = tmp_path_factory.mktemp("model") / "model.keras"
    info = ModelInfo(classes=CLASSES, shape=(12, 10, 3), preprocess=Preprocessing(**PREPROCESS))
    save_model(model, path, info)
    return path


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder with an image of each colour in photos/<colour>/, in three formats."""
    monkeypatch.chdir(tmp_path)
    for (name, color), suffix in zip(COLORS.items(), ("jpg", "png", "webp"), strict=True):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (40, 30), color).save(folder / f"1.{suffix}")
    return tmp_path / "photos"


@pytest.fixture
def run(color_model, monkeypatch, capsys):
    """Run the command with arguments; gives exit code, standard output, standard error."""

    def run(*arguments):
        command = ["predict", *map(str, arguments)]
        if "--model" not in arguments:
            command += ["--model", str(color_model)]
        monkeypatch.setattr(sys, "argv", command)
        code = predict.main()
        return code, *capsys.readouterr()

    return run


def read_csv(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_line_an_image_names_the_most_probable_classes(run, photos):
    code, out, _ = run("photos/red/1.jpg", "photos/green/1.png", "--top-k", 2)
    first, second = [line for line in out.splitlines() if line.startswith("photos/")]
    assert first.startswith("photos/red/1.jpg: red 100.0%, ")
    assert first.count("%") == 2
    assert second.startswith("photos/green/1.png: green 100.0%, ")
    assert code == 0


def test_folders_are_searched_to_any_depth_for_images(run, photos):
    (photos / "notes.txt").write_text("no image")
    (photos / ".hidden.jpg").write_text("no image")
    (photos / "red/more/deep").mkdir(parents=True)
    Image.new("RGB", (9, 9), COLORS["blue"]).save(photos / "red/more/deep/2.gif")
    code, _, _ = run("photos", "--output", "found.csv")
    assert code == 0
    assert [(line["file"], line["predicted"]) for line in read_csv("found.csv")] == [
        ("photos/blue/1.webp", "blue"),
        ("photos/green/1.png", "green"),
        ("photos/red/1.jpg", "red"),
        ("photos/red/more/deep/2.gif", "blue"),
    ]


def test_globs_and_a_list_on_standard_input_name_images_too(run, photos, monkeypatch):
    lines = b"photos/red/1.jpg\n\nphotos/red/1.jpg\nphotos/gre\xc3\xa9n.png\n"
    Image.new("RGB", (5, 5), COLORS["green"]).save(photos / "greén.png")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines), "utf-8"))
    run("photos/*/1.w*", "-", "--output", "found.csv")
    assert [line["file"] for line in read_csv("found.csv")] == [
        "photos/blue/1.webp",
        "photos/red/1.jpg",
        "photos/greén.png",
    ]


def test_urls_are_fetched(run, photos):
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=photos))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        code, _, err = run(f"{address}/red/1.jpg", f"{address}/9.jpg", "--output", "found.csv")
    finally:
        server.shutdown()
        server.server_close()
    found, missing = read_csv("found.csv")
    assert (found["predicted"], found["error"]) == ("red", "")
    assert (missing["predicted"], "404" in missing["error"]) == ("", True)
    assert code == 1
    assert f"unreadable: {address}/9.jpg: the server answers 404" in err


def test_unreadable_images_are_reported_and_the_others_done(run, photos):
    (photos / "red/2.jpg").write_bytes((photos / "red/1.jpg").read_bytes()[:300])
    (photos / "red/3.jpg").write_text("no image")
    code, out, err = run("photos/red", "nowhere.jpg", "none*.jpg")
    assert code == 1
    assert [line.split(":")[0] for line in out.splitlines() if "%," in line] == ["photos/red/1.jpg"]
    reasons = dict(line.split(": ")[1:3] for line in err.splitlines() if "unreadable" in line)
    assert reasons == {
        "photos/red/2.jpg": "truncated",
        "photos/red/3.jpg": "not an image",
        "nowhere.jpg": "there is no such file",
        "none*.jpg": "no file matches",
    }
    assert "error: 4 of 5 images could not be read" in err


def test_csv_and_json_hold_the_same_records(run, photos):
    (photos / "red/3.jpg").write_text("no image")
    run("photos", "--output", "found.csv", "--top-k", 2)
    run("photos", "--output", "found.json", "--top-k", 2)
    records = json.loads(Path("found.json").read_text(encoding="utf-8"))
    assert list(records[0]) == [
        *("file", "actual", "predicted", "confidence"),
        *("predicted_2", "confidence_2", "set", "unlike", "error"),
    ]
    assert records[-1] == dict.fromkeys(records[0]) | {
        "file": "photos/red/3.jpg",
        "actual": "red",
        "error": "not an image",
    }
    as_text = [{k: "" if v is None else str(v) for k, v in r.items()} for r in records]
    assert as_text == read_csv("found.csv")


def test_images_in_folders_named_after_classes_are_scored(run, photos):
    Image.new("RGB", (9, 9), COLORS["blue"]).save(photos / "red/2.png")
    Image.new("RGB", (9, 9), COLORS["blue"]).save(photos / "loose.png")
    _, out, _ = run("photos", "--output", "found.csv")
    assert "accuracy 75.00% (3 of 4, 95 % interval 30.06% to 95.44%)" in out
    assert "1 images lie in no folder named after a class" in out
    assert "precision" in out


def test_images_elsewhere_are_not_scored(run, photos):
    _, out, _ = run(Image.new("RGB", (9, 9)).save("x.png") or "x.png")
    assert "accuracy" not in out


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_change_nothing(run, photos, batch_size):
    for n in range(20):
        Image.new("RGB", (30, 20), (n * 12, 200 - n * 9, 90)).save(photos / f"{n:02d}.png")
    (photos / "05.png").write_text("no image")
    run("photos", "--output", "all.csv")
    run("photos", "--output", "some.csv", "--batch-size", batch_size)
    assert Path("some.csv").read_text() == Path("all.csv").read_text()


def test_batches_at_once_change_nothing_whichever_ends_first(run, photos, monkeypatch):
    for n in range(8):
        Image.new("RGB", (30, 20), (n * 30, 200 - n * 20, 90)).save(photos / f"{n}.png")
    arguments = ("photos", "--batch-size", 2)
    run(*arguments, "--output", "plain.csv")

    from stages.inference import probabilities

    observer = probabilities.observer
    both, second_done, turns = threading.Barrier(2), threading.Event(), count()

    def uneven(*given):
        observe = observer(*given)

        def observe_unevenly(images):
            if (turn := next(turns)) < 2:
                both.wait(timeout=60)
            if turn == 0:
                assert second_done.wait(timeout=60)
            seen = observe(images)
            if turn == 1:
                second_done.set()
            return seen

        return observe_unevenly

    monkeypatch.setattr(probabilities, "observer", uneven)
    run(*arguments, "--output", "uneven.csv")
    assert second_done.is_set()
    assert Path("uneven.csv").read_text() == Path("plain.csv").read_text()


@pytest.mark.parametrize("resize", ["stretch", "pad", "crop"])
def test_decoding_is_the_very_same_as_in_training(photos, resize):
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (90, 61, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    noise.resize((400, 270)).save(photos / "red/turned.jpg", exif=exif, quality=80)
    noise.convert("CMYK").save(photos / "red/cmyk.jpg")
    noise.convert("RGBA").rotate(30).save(photos / "green/transparent.png")
    noise.convert("P").save(photos / "green/palette.gif")
    Image.fromarray(rng.integers(0, 65536, (33, 70), np.uint16)).save(photos / "blue/16bit.png")
    settings = PREPROCESS | {"resize": resize}
    text = json.dumps({"download": {"source": "folder", "path": "photos"}, "preprocess": settings})
    Path("params.yaml").write_text(text, encoding="utf-8")
    download.main()
    preprocess.main()

    index = read_table("data/processed/index.csv", ["path", "shard", "row"])
    pixels = Pixels("data/processed")
    trained = pixels.take(pixels.rows(index["shard"].to_pylist(), index["row"].to_numpy()))
    inputs = find_inputs([f"photos/{path}" for path in index["path"].to_pylist()], CLASSES)
    (batch,) = load(inputs, Preprocessing(**settings), batch_size=100)
    assert len(batch.images) == 8
    np.testing.assert_array_equal(batch.images, trained)


def test_memory_holds_a_few_batches_whatever_the_number_of_images(photos):
    inputs = [Input("photos/red/1.jpg")] * 100
    batches = load(inputs, Preprocessing(**PREPROCESS), batch_size=10)
    assert [len(batch.images) for batch in batches] == [10] * 10
    unfinished = load(inputs, Preprocessing(**PREPROCESS), batch_size=10)
    next(unfinished)
    unfinished.close()  # as when a caller gives up: no thread is left waiting


def test_links_that_lead_in_circles_are_followed_once(photos):
    (photos / "red/again").symlink_to(photos)
    assert len(find_inputs([str(photos)], CLASSES)) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos", "--model", "none.keras"], "there is no model none.keras"),
        (["photos", "--model", "photos/red/1.jpg"], "is not a model of this pipeline"),
        (["empty"], "no images in empty"),
        (["nowhere"], "nowhere: there is no such file"),
        (["photos", "--output", "found.txt"], "found.txt: the name must end in .csv or .json"),
        (["photos", "--output", "folder.csv"], "cannot write folder.csv: Is a directory"),
        (["photos", "--output", "photos/red/1.jpg/found.csv"], "cannot write photos/red/1.jpg/"),
        (["photos", "--top-k", "0"], "argument --top-k: 0 is not a whole number of at least 1"),
        (["photos", "--size", "3"], "unrecognized arguments: --size 3"),
    ],
)
def test_a_mistake_is_one_line(run, photos, arguments, message):
    Path("empty").mkdir()
    Path("folder.csv").mkdir()
    with pytest.raises(UserError) as caught:
        run(*arguments)
    assert message in str(caught.value)


def test_an_earlier_output_survives_a_failure(run, photos):
    Path("found.csv").write_text("earlier")
    Path("empty").mkdir()
    with pytest.raises(UserError):
        run("empty", "--output", "found.csv")
    assert Path("found.csv").read_text() == "earlier"


def test_mistakes_are_found_before_tensorflow_is_imported(photos):
    code = "import sys, stages.predict; print(*sys.modules)"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert "stages.predict" in done.stdout.split()
    assert not {"tensorflow", "keras", "sklearn", "scipy"} & set(done.stdout.split())


# What the model was judged with


@pytest.fixture(scope="module")
def photo_job(tmp_path_factory):
    """Photos from download to evaluate, with test-time averaging; gives the job's folder."""
    folder = tmp_path_factory.mktemp("judged")
    rng = np.random.default_rng(0)
    for name, color in COLORS.items():
        (folder / "photos" / name).mkdir(parents=True)
        for n in range(20):
            pixels = np.clip(rng.normal(color, 90, (30, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"photos/{name}/{n:02d}.png")
    settings = {
        "download": {"source": "folder", "path": "photos"},
        "preprocess": PREPROCESS,
        "evaluate": {"tta": "flip_shift", "top_k": 2, "batch_size": 5},
    }
    (folder / "params.yaml").write_text(json.dumps(settings), encoding="utf-8")
    import keras

    keras.utils.set_random_seed(1)
    layers = [
        keras.Input((12, 10, 3), dtype="uint8"),
        keras.layers.Rescaling(1 / 255),
        keras.layers.Conv2D(8, 3),
        keras.layers.Flatten(),
        keras.layers.Dense(3, activation="softmax"),
    ]
    info = ModelInfo(classes=CLASSES, shape=(12, 10, 3), preprocess=Preprocessing(**PREPROCESS))
    (folder / "models/epochs").mkdir(parents=True)
    save_model(keras.Sequential(layers), folder / "models/model.keras", info)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in (download, preprocess, split, features):
            stage.main()
        count = len(Path("data/splits/train.csv").read_text().splitlines()) - 1
        np.save("models/label_confidence.npy", np.full(count, 0.9, np.float32))
        evaluate.main()
    return folder


def test_predict_gives_the_probabilities_that_evaluate_gave(photo_job, run, monkeypatch):
    monkeypatch.chdir(photo_job)
    judged = {line["path"]: line for line in read_csv("reports/predictions.csv")}
    model = ["--model", "models/model.keras"]
    paths = [f"photos/{path}" for path in judged]
    code, _, err = run(*paths, *model, "--output", "found.csv")
    assert (code, err) == (0, "")
    found = {line["file"].removeprefix("photos/"): line for line in read_csv("found.csv")}
    assert "predicted_2" in next(iter(found.values()))  # as many as evaluate's top_k
    assert "predicted_3" not in next(iter(found.values()))
    for path, line in judged.items():
        assert found[path]["predicted"] == line["predicted"]
        assert float(found[path]["confidence"]) == pytest.approx(
            float(line["confidence"]), abs=2e-6
        )
    # Looked at once, the same model is otherwise sure: the averaging is what made them agree.
    run(*paths, *model, "--output", "plain.csv", "--tta", "none")
    plain = [float(line["confidence"]) for line in read_csv("plain.csv")]
    averaged = [float(line["confidence"]) for line in read_csv("found.csv")]
    assert np.abs(np.subtract(plain, averaged)).max() > 1e-3


def test_a_model_judged_elsewhere_or_not_at_all_is_said_to_be(
    photo_job, run, monkeypatch, tmp_path
):
    monkeypatch.chdir(photo_job)
    copy = tmp_path / "other.keras"
    copy.write_bytes(Path("models/model.keras").read_bytes())
    _, _, err = run("photos/red", "--model", copy)
    assert err == (
        f"{tmp_path}/other.json does not tell how other.keras was judged: each image is looked "
        "at once (--tta none)\n"
    )
    assert run("photos/red", "--model", copy, "--tta", "flip")[2] == ""


# Broken inputs


def test_a_batch_of_nothing_but_unreadable_files_is_no_end(run, photos):
    for n in range(4):
        (photos / f"0{n}.png").write_bytes(b"broken")
    code, out, err = run("photos", "--batch-size", "2")
    assert code == 1
    assert "error: 4 of 7 images could not be read" in err
    assert sum("100.0%" in line for line in out.splitlines()) == 3


def test_a_single_broken_file_is_one_line_and_exit_1(run, photos):
    (photos / "0.png").write_bytes(b"broken")
    code, out, err = run("photos/0.png")
    assert (code, out) == (1, "")
    assert "unreadable: photos/0.png: not an image\n" in err


def test_a_model_that_diverged_is_one_line(run, photos, color_model, tmp_path):
    from stages.store.model import load_model

    model, info = load_model(color_model)
    model.layers[-1].set_weights([np.full((3, 3), np.nan), np.zeros(3)])
    save_model(model, tmp_path / "nan.keras", info)
    with pytest.raises(UserError, match="its training diverged"):
        run("photos", "--model", tmp_path / "nan.keras")


@pytest.fixture
def circles():
    """Address of a server that answers /a with /b, and /b with /a, for ever."""

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", "/b" if self.path == "/a" else "/a")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/a"
    server.shutdown()
    server.server_close()


def test_names_that_lead_nowhere_are_listed_and_the_rest_is_done(run, photos, monkeypatch, circles):
    os.mkfifo("pipe.png")
    os.symlink("loop.png", "loop.png")
    with open("huge.png", "wb") as file:
        file.truncate(2**33)
    (photos / "folder.png").mkdir()
    names = [
        *(b"pipe.png", b"loop.png", b"huge.png", b"/dev/zero", b"x" * 300 + b".png"),
        *(b"a\0b.png", b"caf\xe9.png", b"https://[::1", b"http://\0/", b"nonsense://x/y.png"),
        *(b"file://" + os.fsencode(os.path.abspath("pipe.png")), circles.encode()),
        *(b"http://" + b"a" * 300 + b"/x.png", b"[", b"**[", b"\x1b[31m.png"),
    ]
    lines = b"\n".join([*names, b"photos"])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines), "utf-8"))
    code, _, _ = run("-", "--output", "found.json")
    found = json.loads(Path("found.json").read_text(encoding="utf-8"))
    assert code == 1
    assert [record["file"] for record in found if not record["error"]] == [
        *("photos/blue/1.webp", "photos/green/1.png", "photos/red/1.jpg")
    ]
    reasons = {record["file"]: record["error"] for record in found if record["error"]}
    assert len(reasons) == len(names)
    assert reasons["pipe.png"] == reasons["/dev/zero"] == "not a regular file"
    assert reasons["huge.png"] == "larger than 512 MiB"
    assert "redirects" in reasons[circles]
    assert {"caf\\xe9.png", "a\\x00b.png", "\\x1b[31m.png"} <= reasons.keys()


@pytest.mark.parametrize("name", ["=cmd|' calc'!A0.png", "@SUM(1).png", "-2.png", "+3.png"])
def test_no_path_is_a_formula_to_a_spreadsheet(run, photos, name):
    (photos / "red/1.jpg").rename(name)
    run("*.png", "--output", "found.csv")
    (line,) = read_csv("found.csv")
    assert line["file"] == "./" + name  # the same file
    assert line["predicted"] == "red"


def test_escapes_in_names_reach_neither_terminal_nor_file(run, photos):
    Path("\x1b[31m").mkdir()
    for name in ("a\u202egnp.png", "b\x07.png", "c\n.png", "d\u2028.png"):
        os.link(photos / "green/1.png", f"\x1b[31m/{name}")
    Path("\x1b[31m/e\x9b2J.png").write_bytes(b"broken")
    _, out, err = run("\x1b[31m")
    run("\x1b[31m", "--output", "found.csv")
    for said in (out, err, Path("found.csv").read_text(encoding="utf-8")):
        assert not set("\x1b\u202e\x07\u2028\x9b") & set(said)
    assert "\\x1b[31m/a\\u202egnp.png: green 100.0%" in out
    assert len(read_csv("found.csv")) == 5


def test_a_foreign_models_class_names_are_no_formulas_and_no_escapes(run, photos, color_model):
    from stages.store.model import load_model

    model, info = load_model(color_model)
    names = ["=1+1", "\x1b[2J", "-5"]
    save_model(model, "named.keras", info.model_copy(update={"classes": names}))
    _, out, _ = run("photos", "--model", "named.keras")
    run("photos", "--model", "named.keras", "--output", "found.csv")
    assert "\x1b" not in out + Path("found.csv").read_text(encoding="utf-8")
    predicted = {line["file"]: line["predicted"] for line in read_csv("found.csv")}
    assert list(predicted.values()) == ["'=1+1", "\\x1b[2J", "-5"]


# When to believe it


@pytest.fixture
def judged_model(color_model, tmp_path):
    """The model with training and validation features of red, green and blue photos, judged."""
    from stages.store.model import (
        Calibration,
        Judgement,
        Limit,
        Reference,
        Score,
        file_sha256,
        load_model,
        write_judgement,
    )

    model, info = load_model(color_model)
    random = np.random.default_rng(0)
    colours = np.array(list(COLORS.values()))[np.arange(90) % 3] / 25
    features = [(colours + random.normal(0, 0.4, (90, 3))).astype(np.float16) for _ in range(2)]
    calibration = Calibration(temperature=1.0, images=90, predicted=[30, 30, 30])
    path = tmp_path / "judged.keras"
    save_model(
        model, path, info.model_copy(update={"calibration": calibration}), Reference(*features)
    )
    judgement = Judgement(
        sha256=file_sha256(path),
        tta="none",
        top_k=2,
        test=Score(accuracy=0.9, accuracy_low=0.8, accuracy_high=1.0, count=9),
        sets=Limit(share=0.9, threshold=0.2),
        unlike=Limit(share=0.01, threshold=0.05),
    )
    write_judgement(path.with_suffix(".json"), judgement)
    return path


def paint(path, color):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), color).save(path)


def test_an_image_gets_its_set_of_classes_or_is_called_unlike(run, photos, judged_model):
    paint(photos / "mixed.png", (220, 205, 0))
    paint(photos / "white.png", (255, 255, 255))
    _, out, _ = run("photos", "--model", judged_model)
    lines = dict(line.split(": ", 1) for line in out.splitlines() if line.startswith("photos"))
    assert lines["photos/red/1.jpg"].startswith("red (red 100.0%, ")
    assert lines["photos/white.png"].startswith("unlike the training images (")
    run("photos", "--model", judged_model, "--output", "found.csv")
    run("photos", "--model", judged_model, "--output", "found.json")
    rows = {row["file"]: row for row in read_csv("found.csv")}
    assert rows["photos/mixed.png"]["set"] == "red|green"
    assert rows["photos/red/1.jpg"]["set"] == "red"
    assert {row["unlike"] for row in rows.values()} == {"yes", "no"}
    records = {r["file"]: r for r in json.loads(Path("found.json").read_text(encoding="utf-8"))}
    assert records["photos/mixed.png"]["set"] == ["red", "green"]
    assert records["photos/white.png"]["unlike"] is True


def test_two_classes_are_joined_by_or_and_many_are_counted(run, photos, judged_model):
    content = judged_model.with_suffix(".json").read_text()
    judged_model.with_suffix(".json").write_text(content.replace("0.05", "2.0"))
    paint(photos / "mixed.png", (220, 205, 0))
    _, out, _ = run("photos/mixed.png", "--model", judged_model)
    assert "photos/mixed.png: red or green (red 64" in out


def test_sets_hold_with_the_views_that_the_model_was_judged_with_alone(run, photos, judged_model):
    _, out, err = run("photos/red/1.jpg", "--model", judged_model, "--tta", "flip")
    assert "photos/red/1.jpg: red 100.0%" in out
    assert "no prediction sets: the model was judged with --tta none" in err


def test_next_names_uncertain_images_that_differ(run, photos, judged_model):
    for number in range(20):
        paint(photos / f"{number:02}.png", (250 - number, 20, 20))
    for number, color in enumerate([(200, 199, 0), (199, 200, 0), (0, 200, 199)]):
        paint(photos / f"mixed {number}.png", color)
    code, out, _ = run("photos", "--model", judged_model, "--next", 2)
    assert code == 0
    assert len(out.splitlines()) == 2
    assert "photos/mixed 2.png" in out.splitlines()
    assert set(out.splitlines()) < {f"photos/mixed {number}.png" for number in range(3)}
    run("photos", "--model", judged_model, "--next", 2, "--output", "next.csv")
    assert [row["file"] for row in read_csv("next.csv")] == out.splitlines()


def test_next_reports_what_cannot_be_read(run, photos, judged_model):
    (photos / "red/3.jpg").write_text("no image")
    code, out, err = run("photos", "--model", judged_model, "--next", 9)
    assert code == 1
    assert len(out.splitlines()) == 3
    assert "unreadable: photos/red/3.jpg" in err


def test_drift_is_told_with_shares_of_classes_and_a_page(run, photos, judged_model):
    random = np.random.default_rng(1)

    def folder(name, change):
        for number in range(45):
            color = list(COLORS.values())[number % 3] + random.normal(0, 10, 3) + change
            paint(photos / name / f"<i>{number}.png", tuple(color.clip(0, 255).astype(int)))

    folder("same", 0)
    folder("bright", 60)
    code, out, _ = run("photos/same", "--model", judged_model, "--drift")
    assert code == 0
    assert out.startswith("no drift seen: nothing tells these images")
    assert "33.3%" in out
    page = Path("drift.html").read_text(encoding="utf-8")
    assert "No drift seen" in page
    assert "photos/same/&lt;i&gt;0.png" in page
    assert "<i>" not in page
    assert page.count("data:image/jpeg;base64,") == 45
    assert "http" not in page
    code, out, _ = run("photos/bright", "--model", judged_model, "--drift", "--output", "b.html")
    assert out.startswith("drift: these images do not come from where")
    assert "<h1>Drift</h1>" in Path("b.html").read_text(encoding="utf-8")


def test_drift_needs_images_on_both_sides(run, photos, judged_model):
    with pytest.raises(UserError, match="at least 20 images, not 3"):
        run("photos", "--model", judged_model, "--drift")
    with pytest.raises(UserError, match=r"split\.val"):
        run("photos", "--drift")
    with pytest.raises(UserError, match=r"must end in \.html"):
        run("photos", "--model", judged_model, "--drift", "--output", "found.csv")
