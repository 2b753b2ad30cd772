"""The training loop: phases of fine-tuning, and a state between them."""

import subprocess

import keras
import numpy as np
import pytest
from training_workspace import make_workspace

from stages.errors import UserError
from stages.parameters.train import Train
from stages.store.image_set import load_image_set
from stages.training.batches import TrainingImages
from stages.training.checkpoint import Checkpoint
from stages.training.learner import Learner
from stages.training.log import EpochLog
from stages.training.loop import fit


class Stop(Exception):
    pass


@pytest.fixture
def start(tmp_path):
    """Starts or continues a training of three epochs, the first with a frozen backbone."""
    folder = make_workspace(tmp_path / "work")
    processed, splits = folder / "data/processed", folder / "data/splits"
    image_set = load_image_set(processed, splits / "train.csv")
    frozen = {"frozen_epochs": 1, "learning_rate_factor": 0.1}
    settings = Train(epochs=3, batch_size=16, fine_tune=frozen)

    def run(state, log=None):
        keras.utils.set_random_seed(0)
        backbone = keras.Sequential(
            [keras.Input((18, 18, 1)), keras.layers.Conv2D(2, 3), keras.layers.Flatten()],
            name="backbone",
        )
        net = keras.Sequential([keras.Input((18, 18, 1)), backbone, keras.layers.Dense(3)])
        learner, weights = Learner(net, settings, 3), [net.get_weights()]

        def keep(rows):
            if rows:
                weights.append(net.get_weights())

        images = TrainingImages(image_set, 1e9)
        logs = [keep, *([log] if log else [])]
        result = fit(learner, images, None, Checkpoint(tmp_path / state, "job"), logs)
        return result, weights

    return run


def test_the_backbone_is_frozen_first_and_trained_afterwards(start):
    result, (before, frozen, tuned, _) = start("a")
    np.testing.assert_array_equal(frozen[0], before[0])
    assert not np.array_equal(frozen[2], before[2])
    assert not np.array_equal(tuned[0], frozen[0])
    rates = [row["learning_rate"] for row in result.rows]
    assert rates == pytest.approx([0.001, 0.0001, 0.0001])


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_stop_between_or_within_the_phases_changes_nothing(start, epochs):
    whole, _ = start("whole")

    def stop(rows):
        if len(rows) == epochs:
            raise Stop

    with pytest.raises(Stop):
        start("stopped", stop)
    continued, _ = start("stopped")
    assert continued.rows == whole.rows
    for a, b in zip(continued.weights, whole.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_repository_without_a_commit_is_said_in_one_line(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / ".dvc").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="make a first commit"):
        EpochLog("reports/train")
