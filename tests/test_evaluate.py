"""The evaluate stage: the trained model on images it never saw."""

import csv
import hashlib
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from factory import (
    COLOUR_CLASSES,
    ROOT,
    colour_images,
    colour_model,
    exported_figures,
    write_colour_job,
)

from stages import evaluate
from stages.errors import UserError
from stages.inference.explain import grad_cam, last_convolution, layer_table
from stages.inference.probabilities import probabilities
from stages.metrics.paired import summary
from stages.store.names import markdown


def read_rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def digest(folder):
    """sha256 of every file below `folder` that a run has to reproduce."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "timing.json"
    }


def test_every_test_image_has_its_prediction(finished_job):
    rows = read_rows(finished_job / "reports/predictions.csv")
    metrics = json.loads((finished_job / "reports/metrics.json").read_text(encoding="utf-8"))
    assert list(rows[0]) == ["id", "actual", "predicted", "confidence", "path", "set", "unlike"]
    assert len(rows) == metrics["test"]["count"] == 90
    right = sum(row["actual"] == row["predicted"] for row in rows)
    assert metrics["test"]["accuracy"] == pytest.approx(right / 90, abs=1e-6)
    assert 0.5 < right / 90 < 1  # the job is made to have both


def test_doubts_are_told_for_every_test_image_and_in_all(finished_job):
    rows = read_rows(finished_job / "reports/predictions.csv")
    trust = json.loads((finished_job / "reports/scores.json").read_text(encoding="utf-8"))["trust"]
    sets = [
        [name.replace("\\|", "|") for name in re.split(r"(?<!\\)\|", row["set"])] for row in rows
    ]
    assert all(row["predicted"] == names[0] for row, names in zip(rows, sets, strict=True))
    assert {name for names in sets for name in names} == set(COLOUR_CLASSES)
    held = sum(row["actual"] in names for row, names in zip(rows, sets, strict=True))
    assert {row["unlike"] for row in rows} == {""}  # 30 validation images are too few for 1 %
    assert held / 90 == pytest.approx(trust["coverage"], abs=1e-6)
    assert trust["coverage_low"] < trust["coverage"] < trust["coverage_high"]
    assert trust["coverage_high"] > trust["coverage_asked"] == 0.9
    assert 1 <= trust["set_size"] <= 3
    assert trust["ece_before"] > 0
    places = np.load(finished_job / "reports/evaluation/map.npy")
    distances = np.load(finished_job / "reports/evaluation/unlike.npy")
    assert (places.dtype, places.shape) == (np.float32, (90, 2))
    assert (distances.dtype, distances.shape) == (np.float32, (90,))
    card = (finished_job / "models/README.md").read_text(encoding="utf-8")
    assert "- Prediction sets: " in card
    assert "- Calibration: a confidence is off by" in card


def test_images_unlike_those_trained_on_are_called_so_at_the_rate_asked_for(tmp_path, monkeypatch):
    write_colour_job(tmp_path, test=300, val=200)
    shard = tmp_path / "data/processed/images-00002.npy"
    images = np.load(shard)
    images[:100] = 0  # black: features in no direction
    np.save(shard, images)
    settings = tmp_path / "params.yaml"
    settings.write_text(
        settings.read_text(encoding="utf-8").replace("unlike: 0.01", "unlike: 0.05")
    )
    monkeypatch.chdir(tmp_path)
    evaluate.main()
    unlike = np.array([row["unlike"] for row in read_rows("reports/predictions.csv")]) == "yes"
    assert unlike[:100].all()
    assert 0 < unlike[100:].mean() < 0.15
    trust = json.loads((tmp_path / "reports/scores.json").read_text(encoding="utf-8"))["trust"]
    assert trust["unlike"] == pytest.approx(unlike.mean(), abs=1e-6)
    judgement = json.loads((tmp_path / "models/model.json").read_text())
    assert judgement["unlike"]["share"] == 0.05


def test_too_few_validation_images_are_said_and_leave_no_sets(tmp_path, monkeypatch, capsys):
    write_colour_job(tmp_path, test=6, val=6)
    monkeypatch.chdir(tmp_path)
    evaluate.main()
    said = "no prediction sets: evaluate.coverage = 0.9 needs at least 9 validation images, not 6"
    assert said in capsys.readouterr().out
    assert {row["set"] for row in read_rows("reports/predictions.csv")} == {""}
    assert json.loads((tmp_path / "models/model.json").read_text())["sets"] is None


def test_predictions_are_those_of_the_model(finished_job):
    images = colour_images(np.arange(90) % 3, seed=2)  # the test images
    brightest = images.mean(axis=(1, 2)).argmax(axis=1)
    rows = read_rows(finished_job / "reports/predictions.csv")
    assert [row["predicted"] for row in rows] == [COLOUR_CLASSES[k] for k in brightest]


def test_metrics_cover_test_validation_extra_and_model(finished_job):
    metrics = json.loads((finished_job / "reports/metrics.json").read_text(encoding="utf-8"))
    assert list(metrics) == ["test", "val", "extra", "model"]
    assert metrics["model"]["parameters"] == colour_model().count_params()
    low, high = metrics["test"]["accuracy_interval"]
    assert low < metrics["test"]["accuracy"] < high
    scores = json.loads((finished_job / "reports/scores.json").read_text(encoding="utf-8"))
    for side, figures in metrics.items():
        figures.pop("accuracy_interval", None)
        assert figures.items() <= scores[side].items()
    rows = read_rows(finished_job / "reports/curves/per_class.csv")
    assert [row["class"] for row in rows] == COLOUR_CLASSES


def test_the_extra_set_is_scored_after_each_saved_epoch(finished_job):
    first, second = read_rows(finished_job / "reports/curves/extra.csv")
    metrics = json.loads((finished_job / "reports/metrics.json").read_text(encoding="utf-8"))
    assert (first["epoch"], second["epoch"]) == ("1", "2")
    assert float(first["accuracy"]) < 1 / 3 < float(second["accuracy"])  # epoch 1 says the darkest
    assert float(second["accuracy"]) == metrics["extra"]["accuracy"]


def test_times_stay_out_of_the_results(finished_job):
    times = json.loads((finished_job / "reports/timing.json").read_text())["evaluate"]
    figures = {"seconds", "images_per_second", "milliseconds_per_single_image"}
    assert set(times) == {"model", *figures}


def test_the_same_inputs_give_the_same_bytes(finished_job, tmp_path, monkeypatch):
    from stages import plot

    folder = tmp_path / "again"
    shutil.copytree(finished_job, folder)
    for name in ("metrics.json", "scores.json", "report.html"):
        (folder / "reports" / name).unlink()
    monkeypatch.chdir(folder)
    evaluate.main()
    plot.main()
    assert digest(folder) == digest(finished_job)


def test_without_validation_and_extra_images_their_scores_are_left_out(tmp_path, monkeypatch):
    write_colour_job(tmp_path, test=6, val=0)
    monkeypatch.chdir(tmp_path)
    evaluate.main()
    assert list(json.loads((tmp_path / "reports/metrics.json").read_text())) == ["test", "model"]
    assert read_rows(tmp_path / "reports/curves/extra.csv") == []


def test_a_model_trained_for_other_classes_is_refused(tmp_path, monkeypatch):
    write_colour_job(tmp_path, test=6)
    dataset = tmp_path / "data/processed/dataset.json"
    fields = json.loads(dataset.read_text(encoding="utf-8"))
    for name in COLOUR_CLASSES[2:]:
        fields["classes"].remove(name)
    fields["classes"].append("violet")
    dataset.write_text(json.dumps(fields))
    for side in ("train", "val", "test"):
        path = tmp_path / f"data/splits/{side}.csv"
        path.write_text(path.read_text(encoding="utf-8").replace(COLOUR_CLASSES[2], "violet"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="other classes"):
        evaluate.main()
    assert not (tmp_path / "reports/metrics.json").exists()


def test_probabilities_do_not_depend_on_the_batch_size():
    model, images = colour_model(), colour_images(np.arange(7) % 3)
    whole = np.concatenate(list(probabilities(model, [images])))
    parts = np.concatenate(list(probabilities(model, [images[:3], images[3:6], images[6:]])))
    assert whole.shape == (7, 3)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


def test_averaging_over_mirror_images_makes_a_prediction_mirror_proof():
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3), dtype="uint8"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    images = colour_images(np.arange(4) % 3)
    mirrored = images[:, :, ::-1]

    def predict(images, tta):
        return next(probabilities(model, [images], tta))

    assert np.abs(predict(images, "none") - predict(mirrored, "none")).max() > 1e-3
    np.testing.assert_allclose(predict(images, "flip"), predict(mirrored, "flip"), rtol=1e-4)
    geometric = np.sqrt(predict(images, "none") * predict(mirrored, "none"))
    geometric /= geometric.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(predict(images, "flip"), geometric, rtol=1e-4)


def test_shifted_views_move_by_one_pixel_and_weigh_a_quarter_each():
    import keras

    # The log-odds of the two classes is the value of the centre pixel.
    pick = np.zeros((9, 2), np.float32)
    pick[4, 1] = 1
    layers = [
        keras.Input((3, 3, 1), dtype="uint8"),
        keras.layers.Rescaling(0.1),
        keras.layers.Flatten(),
        keras.layers.Dense(2, activation="softmax"),
    ]
    model = keras.Sequential(layers)
    model.layers[-1].set_weights([pick, np.zeros(2)])
    image = np.arange(9, dtype=np.uint8).reshape(1, 3, 3, 1)
    first, second = next(probabilities(model, [image], "flip_shift"))[0]
    # Centre 4 (both mirror images), down-right of it 8 or 6, up-left 0 or 2.
    expected = 0.1 * (0.5 * 4 + 0.25 * (8 + 6) / 2 + 0.25 * (0 + 2) / 2)
    assert np.log(second / first) == pytest.approx(expected, rel=1e-4)


def test_grad_cam_points_at_what_spoke_for_the_class():
    model = colour_model()
    image = np.zeros((1, 16, 16, 3), np.uint8)
    image[0, 2:6, 4:8, 1] = 40  # a green patch
    layer = last_convolution(model)
    assert layer.name == "last"  # found inside the nested model
    heat = grad_cam(model, layer, image, np.array([[1]]))[0][0, 0]
    expected = np.zeros((8, 8), np.uint8)
    expected[1:3, 2:4] = 255
    np.testing.assert_array_equal(heat, expected)
    assert not grad_cam(model, layer, image, np.array([[0]]))[0].any()  # nothing is red


def test_grad_cam_sees_through_full_confidence():
    model = colour_model()
    model.get_layer("head").set_weights([60 * np.eye(3), np.zeros(3)])
    image = np.zeros((1, 16, 16, 3), np.uint8)
    image[0, 2:5, 2:5, 1] = 255
    assert model(image).numpy().max() == 1
    maps, probabilities = grad_cam(model, last_convolution(model), image, np.array([[1]]))
    assert maps.max() == 255
    assert probabilities.tolist() == model(image).numpy().tolist()


def test_a_model_without_convolutions_has_no_grad_cam():
    import keras

    assert last_convolution(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])) is None


def test_layer_table_lists_nested_models_and_counts_once():
    rows = layer_table(colour_model())
    assert [(row["depth"], row["name"]) for row in rows][1:3] == [(0, "features"), (1, "same")]
    assert rows[-1]["shape"] == [3]
    top = sum(row["parameters"] for row in rows if row["depth"] == 0)
    assert top == colour_model().count_params()


def test_the_model_card_gives_data_interval_limits_settings_and_room_for_a_license(finished_job):
    card = (finished_job / "models/README.md").read_text(encoding="utf-8")
    metrics = json.loads((finished_job / "reports/metrics.json").read_text(encoding="utf-8"))
    for end in metrics["test"]["accuracy_interval"]:
        assert f"{100 * end:.1f} %" in card
    for heading in ("How good it is", "Limits", "Data", "Settings", "License"):
        assert f"\n## {heading}\n" in card
    assert "| images.test | 90 |" in card
    assert '`{"name": "colour"}`' in card
    assert markdown(COLOUR_CLASSES[0]) in card


def test_class_names_cannot_break_the_model_card(finished_job):
    card = (finished_job / "models/README.md").read_text(encoding="utf-8")
    assert "<b>" not in card
    rows = [line for line in card.splitlines() if line.startswith("|")]
    assert all(line.replace("\\|", "").count("|") in (3, 6) for line in rows)


def test_times_are_shown_for_the_model_they_were_taken_with(finished_job, tmp_path):
    from stages.store.model import read_times, record_times

    path, one, other = tmp_path / "timing.json", tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"one")
    other.write_bytes(b"other")
    record_times(path, "train", {"seconds": 3.0}, one)
    record_times(path, "evaluate", {"seconds": 1.0}, other)
    sha256 = hashlib.sha256(b"one").hexdigest()
    assert read_times(path, sha256) == {"train": {"seconds": 3.0}}
    assert read_times(path, None) == {}
    path.write_text('{"train": {"seconds": 9}, "evaluate": 3}')  # as an earlier version wrote it
    assert read_times(path, sha256) == {}
    assert read_times(finished_job / "reports/timing.json", _sha256(finished_job))["evaluate"]


def _sha256(job):
    return hashlib.sha256((job / "models/model.keras").read_bytes()).hexdigest()


def test_what_the_model_was_judged_with_lies_beside_it(finished_job):
    judgement = json.loads((finished_job / "models/model.json").read_text())
    scores = json.loads((finished_job / "reports/scores.json").read_text(encoding="utf-8"))
    score = {
        name: scores["test"][name]
        for name in ("accuracy", "accuracy_low", "accuracy_high", "count")
    }
    settings = {"tta": "none", "top_k": 2}
    sets = {"share": 0.9, "threshold": pytest.approx(scores["trust"]["set_threshold"], abs=1e-6)}
    assert judgement.pop("sets") == sets
    assert judgement.pop("unlike") is None  # 30 validation images are too few for 1 %
    assert judgement == {"sha256": _sha256(finished_job), **settings, "test": score}


@pytest.mark.parametrize("classes", [2, 3])
def test_a_single_test_image_can_be_judged_and_shown(tmp_path, monkeypatch, classes):
    """With classes that no test image has."""
    from stages import plot

    write_colour_job(tmp_path, test=1, val=0)
    if classes == 2:
        _drop_third_class(tmp_path)
    monkeypatch.chdir(tmp_path)
    evaluate.main()
    plot.main()
    metrics = json.loads((tmp_path / "reports/metrics.json").read_text(encoding="utf-8"))
    assert metrics["test"]["count"] == len(read_rows(tmp_path / "reports/predictions.csv"))
    assert (tmp_path / "reports/report.html").exists()


def _drop_third_class(job):
    """The job with two classes and one channel, its model with a sigmoid split in two."""
    import keras

    from stages.parameters.pixels import Preprocessing
    from stages.store.model import ModelInfo, save_model
    from stages.store.processed import Dataset

    classes = COLOUR_CLASSES[:2]
    shape, settings = (16, 16, 1), Preprocessing(size=[16, 16], color="grayscale")
    Dataset(classes=classes, shape=shape, preprocess=settings).save(job / "data/processed")
    for shard in (job / "data/processed").glob("images-*.npy"):
        np.save(shard, np.load(shard)[..., :1])
    for path in (job / "data/processed/index.csv", *(job / "data/splits").glob("*.csv")):
        header = path.read_text(encoding="utf-8").splitlines()[0].split(",")
        rows = [row for row in read_rows(path) if row["label"] in classes]
        with open(path, "w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, header)
            table.writeheader()
            table.writerows(rows)
    images = keras.Input((16, 16, 1), dtype="uint8")
    means = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 99)(images))
    logit = keras.layers.Dense(1)(means)
    halves = [keras.layers.Rescaling(scale)(logit) for scale in (-0.5, 0.5)]
    both = keras.layers.Softmax()(keras.layers.Concatenate()(halves))
    info = ModelInfo(classes=classes, shape=shape, preprocess=settings, train={"best_epoch": 2})
    save_model(keras.Model(images, both), job / "models/model.keras", info)
    np.save(job / "models/augmented.npy", np.zeros((20, 16, 16, 1), np.uint8))
    np.save(job / "models/label_confidence.npy", np.full(20, 0.9, np.float32))


def test_a_model_that_diverged_is_one_line_and_earlier_results_stay(tmp_path, monkeypatch):
    from stages.store.model import load_model, save_model

    write_colour_job(tmp_path, test=6)
    monkeypatch.chdir(tmp_path)
    model, info = load_model("models/model.keras")
    model.layers[-1].set_weights([np.full((3, 3), np.nan), np.zeros(3)])
    save_model(model, tmp_path / "models/model.keras", info)
    with pytest.raises(UserError, match=r"NaN\) for 6 of 6 test images: its training diverged"):
        evaluate.main()
    assert not (tmp_path / "reports/metrics.json").exists()


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("data/processed/dataset.json", "preprocess"),
        ("data/processed/index.csv", "preprocess"),
        ("data/processed/images-00002.npy", "preprocess"),
        ("data/splits/test.csv", "split"),
        ("data/splits/extra.csv", "split"),
        ("reports/data.json", "split"),
    ],
)
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "garbage"])
def test_inputs_that_are_missing_or_damaged_are_one_line_that_names_file_and_stage(
    tmp_path, monkeypatch, name, stage, damage
):
    write_colour_job(tmp_path, test=6)
    monkeypatch.chdir(tmp_path)
    _damage(tmp_path / name, damage)
    with pytest.raises(UserError) as caught:
        evaluate.main()
    message = str(caught.value)
    assert "\n" not in message
    assert f"dvc repro {stage}" in message
    assert name in message or name.rpartition("/")[0] in message
    assert not (tmp_path / "reports/metrics.json").exists()


def _damage(path, how):
    content = path.read_bytes()
    path.unlink()
    if how != "missing":
        damaged = {"empty": b"", "cut": content[: len(content) // 2], "garbage": b"\xff\x00[1"}
        path.write_bytes(damaged[how])


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("reports/scores.json", "evaluate"),
        ("reports/curves/per_class.csv", "evaluate"),
        ("reports/evaluation/probabilities.npy", "evaluate"),
        ("reports/evaluation/grad_cam.csv", "evaluate"),
        ("reports/evaluation/model.json", "evaluate"),
        ("reports/curves/roc.csv", "evaluate"),
        ("reports/train/metrics.json", "train"),
        ("models/augmented.npy", "train"),
        ("reports/data.json", "split"),
        ("reports/data_issues.csv", "split"),
        ("data/processed/rejects.csv", "preprocess"),
    ],
)
def test_what_plot_reads_may_be_missing_or_damaged_too(
    finished_job, tmp_path, monkeypatch, name, stage
):
    from stages import plot

    folder = tmp_path / "job"
    shutil.copytree(finished_job, folder)
    monkeypatch.chdir(folder)
    before = (folder / "reports/report.html").read_bytes()
    content = (folder / name).read_bytes()
    for damage in ("missing", "empty", "garbage", "cut"):
        if damage == "cut" and name.endswith(".csv"):
            continue  # lines less may be a sound table
        (folder / name).write_bytes(content)
        _damage(folder / name, damage)
        with pytest.raises(UserError) as caught:
            plot.main()
        message = str(caught.value)
        assert "\n" not in message
        assert f"dvc repro {stage}" in message
        assert (folder / "reports/report.html").read_bytes() == before


def test_a_model_that_always_names_one_class_is_said_to_be_no_better(tmp_path, monkeypatch, capsys):
    """In the terminal, on the page and in the model card."""
    from stages import plot
    from stages.store.model import load_model, save_model

    write_colour_job(tmp_path, test=30)
    monkeypatch.chdir(tmp_path)
    model, info = load_model("models/model.keras")
    model.layers[-1].set_weights([np.zeros((3, 3)), np.array([1.0, 0, 0])])
    save_model(model, tmp_path / "models/model.keras", info)
    evaluate.main()
    plot.main()
    test = json.loads((tmp_path / "reports/metrics.json").read_text(encoding="utf-8"))["test"]
    assert test["base_rate"] == test["accuracy"] == pytest.approx(1 / 3, abs=1e-6)
    said = "No better than always naming the commonest class, which is right for 33.3 %"
    judged, *others = capsys.readouterr().out.splitlines()
    warning = next(line for line in others if "commonest class" in line)
    assert " test" in judged
    assert "images judged; test accuracy" in judged
    assert said in warning
    assert said in (tmp_path / "reports/report.html").read_text(encoding="utf-8")
    assert said in (tmp_path / "models/README.md").read_text(encoding="utf-8")


def test_the_first_screen_of_dvcs_table_shows_an_experiment_its_accuracy_and_its_change(
    finished_job, tmp_path
):
    """On a terminal 160 columns wide, whatever else the experiment changed."""

    def call(*command):
        done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout

    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    metrics = [
        name for stage in stages.values() for out in stage.get("metrics", []) for name in out
    ]
    # After those of the test images those of the exported models, which come of another stage.
    assert metrics == ["reports/metrics.json", "reports/parity.json"]
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"metrics": metrics}))
    (tmp_path / "reports").mkdir()
    for name in ("params.yaml", metrics[0]):
        shutil.copy(finished_job / name, tmp_path / name)
    parity = {name: exported_figures(30, broken=0) for name in ("onnx", "litert")}
    (tmp_path / metrics[1]).write_text(json.dumps(summary(parity)))
    call("git", "init", "--quiet")
    call("git", "config", "user.email", "a@example.org")
    call("git", "config", "user.name", "A")
    call(sys.executable, "-m", "dvc", "init", "--quiet")
    call("git", "add", "--all")
    call("git", "commit", "--quiet", "--message", "base")

    settings = yaml.safe_load((tmp_path / "params.yaml").read_text(encoding="utf-8"))
    settings["train"]["epochs"] += 1
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings))
    figures = json.loads((tmp_path / metrics[0]).read_text(encoding="utf-8"))
    for side in ("test", "val", "extra"):  # all that a run changes, if images and model stay
        for name in figures[side].keys() - {"count", "base_rate", "accuracy_interval"}:
            figures[side][name] = round(figures[side][name] / 1.234567, 6)
    (tmp_path / metrics[0]).write_text(json.dumps(figures))
    parity = {name: of | {"accuracy": 0.3, "bytes": 9} for name, of in parity.items()}
    (tmp_path / metrics[1]).write_text(json.dumps(summary(parity)))
    call(sys.executable, "-m", "dvc", "exp", "save", "--quiet", "--name", "search-001")

    table = call(sys.executable, "-m", "dvc", "exp", "show", "--only-changed").splitlines()
    for shown in ("Experiment", "test.accuracy", "train.epochs"):
        assert any(shown in line[:160] for line in table), table
    assert any("[search-001]" in line[:160] for line in table)
    diff = json.loads(call(sys.executable, "-m", "dvc", "metrics", "diff", "--json"))
    assert 5 < len(diff["reports/metrics.json"]) <= 12


def test_a_good_model_is_not_warned_of(finished_job):
    assert "commonest" not in (finished_job / "models/README.md").read_text(encoding="utf-8")
    assert "commonest" not in (finished_job / "reports/report.html").read_text(encoding="utf-8")


def test_paths_in_predictions_are_no_formulas_and_hide_nothing(tmp_path, monkeypatch):
    hostile = ["=cmd|' calc'!A0.png", "-1.png", "\x1b[31m.png", "\u202ex.png"]
    write_colour_job(tmp_path, test=6, val=0)
    index = tmp_path / "data/processed/index.csv"
    rows = read_rows(index)
    for number, name in enumerate(hostile):
        row = next(row for row in rows if row["path"].endswith(f"test {number}.jpg"))
        row["path"] = name
    with open(index, "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    monkeypatch.chdir(tmp_path)
    evaluate.main()
    paths = [row["path"] for row in read_rows(tmp_path / "reports/predictions.csv")]
    assert paths[:4] == [f"./{hostile[0]}", "./-1.png", "\\x1b[31m.png", "\\u202ex.png"]
