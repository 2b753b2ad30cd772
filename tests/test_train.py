"""The train stage: same bytes every time, whatever happens in between."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from training_workspace import make_workspace, outputs, pictures, set_parameters

from stages import train
from stages.errors import UserError
from stages.files import PRETRAINED
from stages.store.image_set import load_image_set
from stages.store.model import load_model, load_reference, read_info
from stages.training.checkpoint import Checkpoint

ROOT = Path(__file__).parent.parent
OWN_PROCESS = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """Makes a workspace and works in it."""

    def make(name="work", **settings):
        folder = make_workspace(tmp_path / name, **settings)
        monkeypatch.chdir(folder)
        return folder

    return make


# All that could make two runs differ: dropout, augmentation, averages, two optimisers.
RICH = {
    "train": {
        "epochs": 4,
        "batch_size": 20,
        "optimizer": {"groups": [{"match": "bias", "name": "sgd", "epochs": 2}]},
        "schedule": {"name": "one_cycle", "warmup": 0.3},
        "averaging": {"name": "ema", "decay": 0.9},
        "label_smoothing": 0.1,
        "clip_norm": 1.0,
        "save_epochs": True,
    },
    "augment": {"width_shift": 0.1, "horizontal_flip": "alternating", "cutout": 3},
    "model": {"settings": {"filters": [4, 4, 4], "dense": 8, "dropout": 0.3}},
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The outputs of `RICH` trained in one go."""
    folder = make_workspace(tmp_path_factory.mktemp("train") / "work", **RICH)
    before = os.getcwd()
    os.chdir(folder)
    try:
        train.main()
    finally:
        os.chdir(before)
    return outputs(folder)


def test_a_training_writes_model_log_and_variants_and_leaves_no_checkpoint(uninterrupted):
    assert sorted(uninterrupted) == [
        "models/augmented.npy",
        *(f"models/epochs/epoch-00{number}.weights.h5" for number in range(1, 5)),
        "models/epochs/saved.csv",
        "models/label_confidence.npy",
        "models/model.keras",
        "reports/train/learning_curve.csv",
        "reports/train/metrics.json",
        "reports/train/plots/metrics/learning_rate.tsv",
        *(f"reports/train/plots/metrics/{name}.tsv" for name in ("train/accuracy", "train/loss")),
        *(
            f"reports/train/plots/metrics/val/{name}.tsv"
            for name in ("accuracy", "f1_macro", "loss")
        ),
    ]


def test_the_same_job_gives_the_same_bytes(workspace, uninterrupted):
    folder = workspace(**RICH)
    train.main()
    assert outputs(folder) == uninterrupted


def test_streaming_gives_the_same_bytes_but_for_the_settings(workspace):
    folders = [
        workspace(name, train={"memory_limit": limit}) for name, limit in (("a", 1.0), ("b", 1e-9))
    ]
    for folder in folders:
        os.chdir(folder)
        train.main()
    first, second = (outputs(folder) for folder in folders)
    assert first == second


class Unplugged(BaseException):
    pass


@pytest.mark.parametrize("saves", [2, 6, 11])
def test_an_interrupted_training_ends_as_if_it_had_not_been(
    workspace, uninterrupted, monkeypatch, saves
):
    settings = RICH["train"] | {"checkpoint_minutes": 1e-9}  # after every step
    monkeypatch.setattr(Checkpoint, "save", unplug_after(saves, Checkpoint.save))
    folder = workspace(**RICH | {"train": settings})
    with pytest.raises(Unplugged):
        train.main()
    assert not (folder / "models/model.keras").exists()
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    train.main()
    assert outputs(folder) == uninterrupted


def unplug_after(saves, save):
    def save_and_count(self, arrays, document):
        nonlocal saves
        save(self, arrays, document)
        saves -= 1
        if not saves:
            raise Unplugged

    return save_and_count


@pytest.mark.parametrize(
    ("kill", "code", "message"),
    [
        (signal.SIGKILL, -signal.SIGKILL, ""),
        (signal.SIGINT, 130, "error: interrupted; run the same command again to continue\n"),
    ],
)
def test_a_training_ended_by_a_signal_continues_where_it_was(
    workspace, uninterrupted, capsys, kill, code, message
):
    settings = RICH["train"] | {"checkpoint_minutes": 1e-9}  # after every step
    folder = workspace(**RICH | {"train": settings})
    state = folder / "models/checkpoints/state.npz"
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.train"],
        env=OWN_PROCESS,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        # Whoever runs this in the background may have Ctrl-C ignored, which a child inherits.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        text=True,
    )
    while not state.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(kill)
    assert process.communicate()[1] == message
    assert process.returncode == code
    assert not (folder / "models/model.keras").exists()
    train.main()
    assert "continuing after" in capsys.readouterr().out
    assert outputs(folder) == uninterrupted
    assert not state.exists()


def test_a_changed_setting_starts_afresh(workspace, monkeypatch, capsys):
    folder = workspace()
    monkeypatch.setattr(Checkpoint, "save", unplug_after(2, Checkpoint.save))
    with pytest.raises(Unplugged):
        train.main()
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    set_parameters(folder, train={"epochs": 2, "seed": 1})
    train.main()
    shown = capsys.readouterr().out
    assert "changed: training starts afresh" in shown
    assert "epoch 1/2" in shown


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path):
    checkpoint = Checkpoint(tmp_path, "job")
    checkpoint.save([np.arange(3.0)], {"epoch": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            checkpoint.save([np.zeros(100_000)], {"epoch": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    arrays, document = checkpoint.load()
    assert document == {"epoch": 1}
    np.testing.assert_array_equal(arrays[0], [0, 1, 2])


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "empty":
        content = b""
    elif how == "noise":
        content = b"\x93NUMPY noise" * 50
    elif how == "cut":
        del content[len(content) // 2 :]
    elif how == "flipped":
        content[len(content) // 3] ^= 4
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how != "gone":
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["empty", "noise", "cut", "flipped", "folder"])
@pytest.mark.parametrize("file", ["state.npz", "weights-2.npz"])
def test_a_damaged_checkpoint_is_left_behind(tmp_path, capsys, file, how):
    checkpoint = Checkpoint(tmp_path / "state", "job")
    checkpoint.save_weights([np.arange(300.0)], 2)
    checkpoint.save([np.arange(300.0)], {"kept": [2]})
    assert checkpoint.load() is not None
    path = tmp_path / "state" / file
    damage(path, how)
    assert checkpoint.load() is None
    assert f"{path} is damaged: training starts afresh" in capsys.readouterr().out
    assert not any((tmp_path / "state").iterdir())


def test_lost_weights_make_a_checkpoint_useless(tmp_path, capsys):
    checkpoint = Checkpoint(tmp_path / "state", "job")
    checkpoint.save([np.arange(3.0)], {"kept": [2]})
    assert checkpoint.load() is None
    assert "the weights of epoch 2 are gone: training starts afresh" in capsys.readouterr().out


def test_weights_that_no_state_names_are_removed_and_those_of_others_are_not_taken(tmp_path):
    Checkpoint(tmp_path, "other").save_weights([np.zeros(3)], 3)
    checkpoint = Checkpoint(tmp_path, "job")
    assert checkpoint.weights(3) is None
    for epoch in (1, 2):
        checkpoint.save_weights([np.ones(3)], epoch)
    checkpoint.save([], {"kept": [2]})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state.npz", "weights-2.npz"]


def test_what_else_lies_beside_a_checkpoint_is_left_alone(workspace):
    folder = workspace(train={"epochs": 1, "save_epochs": True})
    own = folder / "models/checkpoints/epoch-007.weights.h5"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    train.main()
    assert [path.name for path in own.parent.iterdir()] == [own.name]
    assert [path.name for path in sorted((folder / "models/epochs").iterdir())] == [
        "epoch-001.weights.h5",
        "saved.csv",
    ]


@pytest.mark.parametrize("name", ["models/checkpoints", "models/checkpoints/log"])
def test_a_file_where_the_checkpoint_goes_is_named(workspace, name):
    path = workspace() / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(UserError, match=f"{name} is no folder"):
        train.main()
    assert path.read_bytes() == b"mine"


def test_a_training_that_diverges_is_one_line_and_changes_no_output(workspace, capsys, monkeypatch):
    folder = workspace()
    train.main()
    before = outputs(folder)
    set_parameters(folder, train={"optimizer": {"learning_rate": 1e20}})
    message = (
        r"^training diverged in epoch 1: .*loss (nan|inf), at a learning rate of 1e\+20; lower"
    )
    with pytest.raises(UserError, match=message) as first:
        train.main()

    def unchanged():
        now = outputs(folder)
        return {name: now[name] for name in now if "checkpoints" not in name} == before

    assert unchanged()
    with monkeypatch.context() as patch:
        patch.delattr("stages.training.learner.Learner.train")  # no step is taken
        with pytest.raises(UserError) as again:
            train.main()
    assert str(again.value) == str(first.value)
    assert unchanged()
    capsys.readouterr()
    set_parameters(folder, train={"epochs": 2})
    train.main()
    assert "epoch 1/2" in capsys.readouterr().out
    assert not (folder / "models/checkpoints").exists()


def test_an_interrupted_run_leaves_the_log_of_the_one_before(workspace, monkeypatch):
    folder = workspace()
    train.main()
    before = outputs(folder)
    set_parameters(folder, train={"seed": 5, "save_epochs": True})
    monkeypatch.setattr(Checkpoint, "save", unplug_after(2, Checkpoint.save))
    with pytest.raises(Unplugged):
        train.main()
    now = outputs(folder)
    assert {name: now[name] for name in now if "checkpoints" not in name} == before
    live = folder / "models/checkpoints/log/plots/metrics/train/loss.tsv"
    assert len(live.read_text().splitlines()) == 2  # head and first epoch


def test_the_architecture_adapts_to_a_sample_of_all_classes(workspace, monkeypatch):
    folder = workspace(
        train_images=60,
        model={"name": "speednet", "settings": {"widths": [4]}},
        train={"epochs": 1},
    )
    for path in sorted((folder / "data/processed").glob("*.npy")):
        np.save(path, np.full_like(np.load(path), 0))  # class by class, each of one brightness
    shards = [np.load(path) for path in sorted((folder / "data/processed").glob("*.npy"))]
    lines = (folder / "data/splits/train.csv").read_text().splitlines()
    by_class = sorted(lines[1:], key=lambda line: line.rpartition(",")[2])
    (folder / "data/splits/train.csv").write_text("\n".join([lines[0], *by_class, ""]))
    for at, line in enumerate(by_class):
        row = int(line.partition(",")[0], 16)
        shards[row // len(shards[0])][row % len(shards[0])] = 100 * (at // 20)
    for path, shard in zip(sorted((folder / "data/processed").glob("*.npy")), shards, strict=True):
        np.save(path, shard)
    monkeypatch.setattr("stages.training.job.ADAPT_IMAGES", 18)
    means = []
    for _ in range(2):
        train.main()
        (layer,) = [
            layer
            for layer in load_model("models/model.keras")[0]._flatten_layers()
            if layer.name == "normalize"
        ]
        means.append(float(np.squeeze(layer.mean)))
    assert means[0] == means[1]
    assert 60 < means[0] < 140  # of the first 18 it is 0


BACKBONE = """
import keras
def build(shape, outputs, weights=None):
    parts = [keras.Input(shape), keras.layers.Conv2D(2, 3), keras.layers.Flatten()]
    net = keras.Sequential(parts, name="backbone")
    if weights:
        net.load_weights(weights)
    return keras.Sequential([keras.Input(shape), net, keras.layers.Dense(outputs)])
"""


def test_a_random_backbone_is_not_frozen(workspace, tmp_path, monkeypatch):
    import stages.architectures

    (tmp_path / "own.py").write_text(BACKBONE)
    monkeypatch.setattr(stages.architectures, "__path__", [str(tmp_path)])
    model = {"name": "own", "settings": {}}
    folder = workspace(model=model, train={"fine_tune": {"frozen_epochs": 1}})
    with pytest.raises(UserError, match=r"weights: null would freeze a backbone of random weights"):
        train.main()
    set_parameters(folder, model=model)
    train.main()
    shape, own = (18, 18, 1), stages.architectures.build_model
    weights = PRETRAINED / "backbone.weights.h5"
    weights.parent.mkdir()
    own("own", shape, 3).get_layer("backbone").save_weights(weights)
    set_parameters(
        folder,
        model=model | {"weights": str(weights)},
        train={"fine_tune": {"frozen_epochs": 1}},
    )
    train.main()
    assert read_info("models/model.keras").train["epochs"] == 3


def test_the_model_takes_raw_pixels_and_tells_how_it_was_made(workspace):
    workspace(train={"epochs": 12, "optimizer": {"learning_rate": 0.01}})
    train.main()
    model, info = load_model("models/model.keras")
    images, labels = pictures(60, 3, seed=1)
    probabilities = model(images).numpy()
    assert probabilities.shape == (60, 3)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (probabilities.argmax(axis=1) == labels).mean() > 0.9
    assert info.classes == ["kind 0", "kind 1", "kind 2"]
    assert info.shape == (18, 18, 1)
    assert info.parameters == model.count_params()
    assert info == read_info("models/model.keras")


def test_the_validation_scores_logged_are_those_of_the_saved_model(workspace):
    folder = workspace(train={"epochs": 5, "averaging": {"name": "ema", "decay": 0.8}})
    train.main()
    metrics = json.loads((folder / "reports/train/metrics.json").read_text())
    rows = (folder / "reports/train/plots/metrics/val/accuracy.tsv").read_text().split()[2:]
    logged = dict(zip(rows[::2], rows[1::2], strict=True))
    validation = load_image_set("data/processed", "data/splits/val.csv")
    model, _ = load_model("models/model.keras")
    predicted = model(validation.images()).numpy().argmax(axis=1)
    accuracy = (predicted == validation.labels).mean()
    assert float(logged[str(metrics["best_epoch"])]) == pytest.approx(accuracy)
    assert accuracy == pytest.approx(max(float(value) for value in logged.values()))


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_the_model_has_the_temperature_that_suits_the_validation_images(workspace, capsys, output):
    """Label smoothing makes a net less sure than it may be."""
    workspace(
        classes=2,
        val_images=60,
        model={"output": output, "settings": {"filters": [4, 4, 4], "dense": 8}},
        train={"epochs": 8, "optimizer": {"learning_rate": 0.01}, "label_smoothing": 0.4},
    )
    train.main()
    model, info = load_model("models/model.keras")
    temperature = info.calibration.temperature
    assert f"temperature {temperature:g}, by 60 validation images" in capsys.readouterr().out
    assert 0.25 < temperature < 0.9
    assert model.get_layer("temperature").scale == pytest.approx(1 / temperature)
    validation = load_image_set("data/processed", "data/splits/val.csv")
    logits = np.log(model(validation.images()).numpy())

    def loss(factor):
        powers = np.exp(factor * logits)
        own = powers[np.arange(len(powers)), validation.labels]
        return -np.log(own / powers.sum(axis=1)).mean()

    assert loss(1) < loss(temperature)  # than as the net was trained


def test_features_of_images_seen_and_held_out_travel_with_the_model(workspace, capsys):
    workspace()
    train.main()
    reference, info = load_reference("models/model.keras"), read_info("models/model.keras")
    assert [features.shape for features in reference] == [(48, 8), (24, 8)]
    assert sum(info.calibration.predicted) == info.calibration.images == 24
    workspace("alone", val_images=0)
    train.main()
    assert "no validation images to find them with; set split.val" in capsys.readouterr().out
    assert [len(features) for features in load_reference("models/model.keras")] == [48, 0]
    assert read_info("models/model.keras").calibration.temperature == 1


def test_two_classes_may_end_in_one_sigmoid_or_two_softmax_outputs(workspace):
    losses = {}
    for output, parameters in (("sigmoid", 9), ("softmax", 18)):
        model = {"output": output, "settings": {"filters": [4, 4, 4], "dense": 8}}
        folder = workspace(
            output,
            classes=2,
            model=model,
            train={"epochs": 8, "batch_size": 8, "optimizer": {"learning_rate": 0.01}},
        )
        train.main()
        trained, _ = load_model("models/model.keras")
        images, labels = pictures(40, 2, seed=2)
        probabilities = trained(images).numpy()
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
        assert (probabilities.argmax(axis=1) == labels).mean() > 0.9
        assert sum(np.prod(w.shape) for w in trained.weights[-2:]) == parameters
        metrics = json.loads((folder / "reports/train/metrics.json").read_text())
        losses[output] = metrics["val"]["loss"]
    assert losses["sigmoid"] < 0.69
    assert losses["softmax"] < 0.69


def test_sigmoid_is_for_two_classes(workspace):
    workspace(model={"output": "sigmoid"})
    with pytest.raises(UserError, match=r"model\.output: sigmoid is for two classes, not 3"):
        train.main()


def test_without_validation_images_the_last_epoch_is_kept(workspace):
    folder = workspace(val_images=0)
    train.main()
    metrics = json.loads((folder / "reports/train/metrics.json").read_text())
    assert metrics["best_epoch"] == 3
    assert "val" not in metrics


def test_early_stopping_ends_a_training_that_gets_no_better(workspace):
    folder = workspace(
        train={
            "epochs": 20,
            "monitor": "val/loss",
            "optimizer": {"name": "sgd", "learning_rate": 1e-12},
            "early_stopping": {"patience": 2, "min_delta": 0.01},
        }
    )
    train.main()
    metrics = json.loads((folder / "reports/train/metrics.json").read_text())
    assert metrics["epochs"] == 3


def test_early_stopping_needs_validation_images(workspace):
    workspace(val_images=0, train={"early_stopping": {"patience": 2}})
    with pytest.raises(UserError, match=r"set split\.val above 0"):
        train.main()


def test_only_an_architecture_with_a_backbone_can_be_fine_tuned(workspace):
    workspace(train={"fine_tune": {"frozen_epochs": 1}})
    with pytest.raises(UserError, match="no layer named backbone"):
        train.main()


def test_debug_settings_overfit_one_batch_on_part_of_the_data(workspace):
    folder = workspace(
        train={
            "epochs": 40,
            "batch_size": 8,
            "optimizer": {"learning_rate": 0.01},
            "debug": {"data_fraction": 0.5, "max_steps": 3, "overfit_batch": True},
        }
    )
    train.main()
    metrics = json.loads((folder / "reports/train/metrics.json").read_text())
    assert metrics["train"]["accuracy"] == 1
    assert metrics["train"]["loss"] < 0.05
    assert read_info("models/model.keras").train["images"] == 24


@pytest.mark.parametrize(("batch_size", "epochs"), [(4, 1), (20, 3), (48, 1)])
def test_debug_settings_write_tensorboard_log_and_profile(workspace, batch_size, epochs):
    debug = {"tensorboard": True, "profile": True}
    folder = workspace(train={"epochs": epochs, "batch_size": batch_size, "debug": debug})
    train.main()
    names = [path.name for path in (folder / "reports/tensorboard").rglob("*")]
    assert any("tfevents" in name for name in names)
    assert any(name.endswith("xplane.pb") for name in names)


def test_a_resumed_training_is_profiled_too(workspace, monkeypatch):
    folder = workspace(train={"batch_size": 4, "epochs": 3, "debug": {"profile": True}})
    monkeypatch.setattr(Checkpoint, "save", unplug_after(2, Checkpoint.save))
    with pytest.raises(Unplugged):
        train.main()
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    shutil.rmtree(folder / "reports/tensorboard")
    train.main()
    assert list((folder / "reports/tensorboard").rglob("*.xplane.pb"))


def sizes_first(size):
    sections = {"model": {"name": "gap", "settings": {"filters": 2}}}
    return sections | {"train": {"image_sizes": [{"until": 0.5, "size": size}]}}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"train": {"devices": 60}},
            r"devices = 60: without a GPU the CPU is split, into \d+ parts",
        ),
        (sizes_first(19), "size = 19 is more than the 18x18 of the images"),
        (sizes_first(5), "size = 5 is too small for the net gap"),
        ({"model": {"settings": {"filters": [10**6] * 3}}}, "training its weights takes more than"),
        (
            {"model": {"weights": f"{PRETRAINED}/nowhere.h5"}},
            f"there is no file {PRETRAINED}/nowhere.h5",
        ),
        (
            {"model": {"weights": "own.h5"}},
            f"own.h5 is not in {PRETRAINED}/, whose files DVC watches: copy it there and set "
            f"model.weights: {PRETRAINED}/own.h5",
        ),
        ({"train": {"optimizer": {"groups": [{"match": "stem"}]}}}, "no weight's path has 'stem'"),
    ],
)
def test_what_cannot_end_well_is_refused_before_training(workspace, sections, message):
    settings = {"train": {"batch_size": 64} | sections.get("train", {})}
    workspace(**{**sections, **settings})
    with pytest.raises(UserError, match=message):
        train.main()


def test_a_step_that_cannot_fit_into_memory_is_refused(workspace, monkeypatch):
    workspace()
    monkeypatch.setattr("stages.training.environment.memory", lambda: 50_000)
    with pytest.raises(UserError, match=r"train\.batch_size = 20: a step takes at least 0\.0 GiB"):
        train.main()


# Every setting of training and augmentation that can change a result, in real trainings.
COMBINATIONS = {
    "muon": {
        "train": {
            "optimizer": {
                "name": "muon",
                "learning_rate": 0.02,
                "normalize_weights": True,
                "groups": [
                    {"match": "beta", "name": "sgd", "learning_rate": 0.05, "epochs": 2},
                    {"match": "whiten", "name": "adam", "weight_decay": 0.01, "epochs": 1},
                ],
            },
            "schedule": {"name": "linear", "end": 0.1, "warmup": 0.1},
            "averaging": {"name": "mean", "start": 0.5},
            "sampling": "balanced",
            "image_sizes": [{"until": 0.5, "size": 12}],
            "memory_limit": 1e-9,
            "label_smoothing": 0.1,
        },
        "augment": {"randaugment": {"layers": 1, "magnitude": 0.2}, "crop_padding": 1},
        "model": {"name": "speednet", "settings": {"widths": [6], "residual": True}},
    },
    "sgd": {
        "train": {
            "optimizer": {"name": "sgd", "learning_rate": 0.02, "weight_decay": 0.0005},
            "schedule": {"name": "cosine", "warmup": 0.2, "start": 0.1, "end": 0.01},
            "averaging": {"name": "ema", "decay": 0.8},
            "class_weights": "balanced",
            "clip_norm": 1.0,
            "save_epochs": True,
            "monitor": "val/loss",
        },
        "augment": {"mixup": 0.2, "cutmix": 1.0, "vertical_flip": "random", "fill": "wrap"},
        "model": {"name": "residual", "settings": {"widths": [6, 8], "blocks": 1}},
    },
    "adamw": {
        "train": {
            "optimizer": {"name": "adamw", "learning_rate": 0.005, "weight_decay": 0.05},
            "schedule": {"name": "step", "step_epochs": 2, "step_factor": 0.5},
            "precision": "bfloat16",
            "monitor": "val/f1_macro",
            "validate_every": 2,
            "deterministic": False,
        },
        "augment": {"rotation": 5.0, "zoom": 0.1, "shear": 3.0, "mixup": 0.1, "fill": "reflect"},
        "model": {"name": "gap", "settings": {"filters": 6, "dropout": 0.0}},
    },
    "rmsprop": {
        "train": {
            "optimizer": {"name": "rmsprop", "learning_rate": 0.002},
            "schedule": {"name": "one_cycle", "warmup": 0.4},
            "class_weights": "balanced",
            "monitor": "last",
            "memory_limit": 1e-9,
        },
        "augment": {"brightness": 0.1, "cutmix": 0.5, "height_shift": 0.05, "fill": "constant"},
        "model": {"name": "two_part", "settings": {"filters": [4, 8], "dense": 8}},
    },
}


@pytest.mark.parametrize("name", COMBINATIONS)
def test_every_setting_trains(workspace, name):
    sections = COMBINATIONS[name]
    settings = {"epochs": 4, "batch_size": 16} | sections["train"]
    folder = workspace(train_images=96, val_images=30, **sections | {"train": settings})
    train.main()
    metrics = json.loads((folder / "reports/train/metrics.json").read_text())
    first = (folder / "reports/train/plots/metrics/train/loss.tsv").read_text().split()[3]
    assert metrics["train"]["loss"] < float(first)
    model, info = load_model("models/model.keras")
    images, _ = pictures(30, 3, seed=4)
    np.testing.assert_allclose(model(images).numpy().sum(axis=1), 1, atol=1e-5)
    assert info.train["precision"] == settings.get("precision", "float32")
    saved = list((folder / "models/epochs").glob("*.h5"))
    assert len(saved) == (4 if settings.get("save_epochs") else 0)


def train_in_a_process_of_its_own():
    """TensorFlow's devices are fixed once it has started. Returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "stages.train"], env=OWN_PROCESS, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def trained_weights(folder):
    return [weight.numpy() for weight in load_model(folder / "models/model.keras")[0].weights]


def test_two_devices_take_every_setting(workspace):
    folder = workspace(
        train_images=45,
        train={
            "devices": 2,
            "epochs": 1,
            "batch_size": 15,  # not the same on both
            "optimizer": COMBINATIONS["muon"]["train"]["optimizer"],
            "averaging": {"name": "ema"},
            "sampling": "balanced",
            "image_sizes": [{"until": 0.9, "size": 12}],
            "clip_norm": 1.0,
            "save_epochs": True,
        },
        augment={"mixup": 0.2, "cutmix": 0.2, "randaugment": {"layers": 1}, "crop_padding": 1},
        model={"name": "speednet", "settings": {"widths": [4], "depth": 1}},
    )
    assert "in 2 parts" in train_in_a_process_of_its_own()
    assert all(np.isfinite(weight).all() for weight in trained_weights(folder))


def test_two_devices_train_as_one_does(workspace):
    settings = {"epochs": 2, "batch_size": 16, "clip_norm": 0.5}
    one = workspace("one", train=settings)
    train.main()
    two = workspace("two", train=settings | {"devices": 2})
    train_in_a_process_of_its_own()
    confidence = [np.load(folder / "models/label_confidence.npy") for folder in (one, two)]
    np.testing.assert_allclose(*confidence, rtol=1e-3)
    for a, b in zip(trained_weights(one), trained_weights(two), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
