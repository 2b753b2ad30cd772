"""The train stage: same bytes every time, whatever happens in between."""

import errno
import json
import os
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
from stages.store.image_set import load_image_set
from stages.store.model import load_model, read_info
from stages.training.checkpoint import Checkpoint

ROOT = Path(__file__).parent.parent


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
        "epochs": 8,
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
        *(f"models/epochs/epoch-00{number}.weights.h5" for number in range(1, 9)),
        "models/epochs/saved.csv",
        "models/model.keras",
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
    os.chdir(folder)
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


def test_a_killed_training_continues_where_it_was(workspace, uninterrupted, capsys):
    settings = RICH["train"] | {"checkpoint_minutes": 1e-9}  # after every step
    folder = workspace(**RICH | {"train": settings})
    state = folder / "models/checkpoints/state.npz"
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.train"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    while not state.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
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
    os.chdir(folder)
    set_parameters(folder, train={"epochs": 2, "seed": 1})
    train.main()
    shown = capsys.readouterr().out
    assert "changed: training starts afresh" in shown
    assert "epoch 1/2" in shown


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path):
    checkpoint = Checkpoint(tmp_path, "job")
    checkpoint.save([np.arange(3.0)], {"epoch": 1})
    (tmp_path / ".state.npz.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        checkpoint.save([np.zeros(100_000)], {"epoch": 2})
    assert caught.value.errno == errno.ENOSPC
    arrays, document = checkpoint.load()
    assert document == {"epoch": 1}
    np.testing.assert_array_equal(arrays[0], [0, 1, 2])


def test_a_damaged_checkpoint_is_left_behind(tmp_path, capsys):
    checkpoint = Checkpoint(tmp_path / "state", "job")
    checkpoint.save([np.arange(3.0)], {})
    path = tmp_path / "state/state.npz"
    path.write_bytes(path.read_bytes()[:100])
    assert checkpoint.load() is None
    assert "is damaged" in capsys.readouterr().out
    assert not path.exists()


def test_the_model_takes_raw_pixels_and_tells_how_it_was_made(workspace):
    workspace(train={"epochs": 12, "optimizer": {"learning_rate": 0.01}})
    train.main()
    model, info = load_model("models/model.keras")
    images, labels = pictures(60, 3, seed=1)
    probabilities = model.predict(images, verbose=0)
    assert probabilities.shape == (60, 3)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (probabilities.argmax(axis=1) == labels).mean() > 0.9
    assert info["classes"] == ["kind 0", "kind 1", "kind 2"]
    assert info["shape"] == [18, 18, 1]
    assert info["parameters"] == model.count_params()
    assert info == read_info("models/model.keras")


def test_the_validation_scores_logged_are_those_of_the_saved_model(workspace):
    folder = workspace(train={"epochs": 5, "averaging": {"name": "ema", "decay": 0.8}})
    train.main()
    metrics = json.loads((folder / "reports/train/metrics.json").read_text())
    rows = (folder / "reports/train/plots/metrics/val/accuracy.tsv").read_text().split()[2:]
    logged = dict(zip(rows[::2], rows[1::2], strict=True))
    validation = load_image_set("data/processed", "data/splits/val.csv")
    model, _ = load_model("models/model.keras")
    predicted = model.predict(validation.images(), verbose=0).argmax(axis=1)
    accuracy = (predicted == validation.labels).mean()
    assert float(logged[str(metrics["best_epoch"])]) == pytest.approx(accuracy)
    assert accuracy == pytest.approx(max(float(value) for value in logged.values()))


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
        probabilities = trained.predict(images, verbose=0)
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
    assert read_info("models/model.keras")["train"]["images"] == 24


def test_debug_settings_write_tensorboard_log_and_profile(workspace):
    folder = workspace(
        train={"epochs": 1, "batch_size": 4, "debug": {"tensorboard": True, "profile": True}}
    )
    train.main()
    names = [path.name for path in (folder / "reports/tensorboard").rglob("*")]
    assert any("tfevents" in name for name in names)
    assert any(name.endswith("xplane.pb") for name in names)


def test_two_devices_train_as_one_does(workspace):
    """In a process of its own: TensorFlow's devices are fixed once it has started."""
    settings = {"epochs": 2, "batch_size": 16, "clip_norm": 0.5}
    one = workspace("one", train=settings)
    train.main()
    two = workspace("two", train=settings | {"devices": 2})
    subprocess.run(
        [sys.executable, "-m", "stages.train"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    first, second = (
        [weight.numpy() for weight in load_model(folder / "models/model.keras")[0].weights]
        for folder in (one, two)
    )
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
