"""The training loop: phases of fine-tuning, and a state between them."""

import subprocess
from collections import Counter, defaultdict

import keras
import numpy as np
import pytest
from training_workspace import make_workspace

from stages.errors import UserError
from stages.parameters.train import EarlyStopping, Train
from stages.store.image_set import load_image_set
from stages.training import environment, loop
from stages.training.batches import TrainingImages
from stages.training.checkpoint import Checkpoint
from stages.training.learner import Learner
from stages.training.log import EpochLog, Profile, Row
from stages.training.loop import fit, should_stop


class Stop(Exception):
    pass


def backbone_net():
    backbone = keras.Sequential(
        [keras.Input((18, 18, 1)), keras.layers.Conv2D(2, 3), keras.layers.Flatten()],
        name="backbone",
    )
    return keras.Sequential([keras.Input((18, 18, 1)), backbone, keras.layers.Dense(3)])


@pytest.fixture
def start(tmp_path):
    """Starts or continues a training of three epochs, the first with a frozen backbone."""
    folder = make_workspace(tmp_path / "work")
    processed, splits = folder / "data/processed", folder / "data/splits"
    train_set, validation = (
        load_image_set(processed, splits / f"{side}.csv") for side in ("train", "val")
    )
    frozen = {"frozen_epochs": 1, "learning_rate_factor": 0.1}
    common = {"epochs": 3, "batch_size": 16, "fine_tune": frozen}

    def run(state, log=None, net=backbone_net, validate=False, **settings):
        keras.utils.set_random_seed(0)
        net = net()
        learner = Learner(net, Train.model_validate(common | settings), 3)
        weights = [net.get_weights()]

        def keep(rows):
            if rows:
                weights.append(net.get_weights())

        images = TrainingImages(train_set, 1e9)
        logs = [keep, *([log] if log else [])]
        checkpoint = Checkpoint(tmp_path / state, "job")
        result = fit(learner, images, validation if validate else None, checkpoint, logs)
        return result, weights

    return run


def test_the_backbone_is_frozen_first_and_trained_afterwards(start):
    result, (before, frozen, tuned, _) = start("a")
    np.testing.assert_array_equal(frozen[0], before[0])
    assert not np.array_equal(frozen[2], before[2])
    assert not np.array_equal(tuned[0], frozen[0])
    rates = [row.figures["learning_rate"] for row in result.rows]
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


def test_an_epoch_of_the_hardest_has_those_never_seen_and_then_those_with_the_highest_loss(
    start, monkeypatch
):
    seen, found = watched(monkeypatch)
    result, _ = start("a", epochs=6, hardest=0.4)
    count = len(result.confidence)
    images = [{image for index, _ in seen[epoch] for image in index} for epoch in range(6)]
    assert {len(each) for each in images} == {round(0.4 * count)}
    assert not images[0] & images[1]
    assert len(images[0] | images[1] | images[2]) == count
    losses = np.full(count, np.inf)
    for epoch in range(6):
        left = sorted(set(range(count)) - images[epoch])
        assert losses[list(images[epoch])].min() >= losses[left].max()
        for (index, _), values in zip(seen[epoch], found[epoch], strict=True):
            losses[index] = values
    assert len(set(map(frozenset, images[3:]))) > 1  # what has become easier makes room


@pytest.mark.parametrize("last", [1, 4, 6])  # within the first, the second, and between two
def test_a_stop_within_an_epoch_of_the_hardest_changes_nothing(start, monkeypatch, last):
    settings = {"epochs": 6, "hardest": 0.7, "checkpoint_minutes": 1e-9}
    seen, _ = watched(monkeypatch)
    whole, _ = start("whole", **settings)
    expected = dict(seen)
    train = Learner.train

    def stop(learner, batch, epoch, step, size=None):
        if step == last:
            raise Stop
        return train(learner, batch, epoch, step, size)

    seen.clear()
    with monkeypatch.context() as context:
        context.setattr(Learner, "train", stop)
        with pytest.raises(Stop):
            start("stopped", **settings)
    continued, _ = start("stopped", **settings)
    assert seen == expected
    assert continued.rows == whole.rows
    np.testing.assert_array_equal(continued.confidence, whole.confidence)


@pytest.mark.parametrize(
    "settings", [{}, {"hardest": 0.4}, {"sampling": "balanced"}, {"debug": {"overfit_batch": True}}]
)
def test_a_batch_says_how_often_each_of_its_images_was_used_before(start, monkeypatch, settings):
    seen, _ = watched(monkeypatch)
    start("a", epochs=5, **settings)
    used = Counter()
    for epoch in range(5):
        for index, turns in seen[epoch]:
            for image, turn in zip(index, turns, strict=True):
                assert turn == used[image]
                used[image] += 1
    assert max(used.values()) > 2


def watched(monkeypatch):
    """By epoch, of each batch learned from, the positions of the images with how often they were
    used before, and the losses."""
    seen, losses = defaultdict(list), defaultdict(list)
    train = Learner.train

    def watch(learner, batch, epoch, step, size=None):
        found = train(learner, batch, epoch, step, size)
        seen[epoch].append((batch.index.tolist(), batch.turns.tolist()))
        losses[epoch].append(found.label_losses.numpy()[:, 0])
        return found

    monkeypatch.setattr(Learner, "train", watch)
    return seen, losses


def test_a_repository_without_a_commit_is_said_in_one_line(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / ".dvc").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="make a first commit"):
        EpochLog("reports/train")


def test_a_group_may_be_for_weights_that_are_frozen_first(start):
    groups = [{"match": "conv2d", "name": "sgd", "learning_rate": 0.01}]
    _, (before, frozen, tuned, _) = start("a", optimizer={"groups": groups})
    np.testing.assert_array_equal(frozen[0], before[0])
    assert not np.array_equal(tuned[0], frozen[0])


FROZEN = {"frozen_epochs": 4}
NO_GAIN = {"optimizer": {"learning_rate": 1e-9}, "monitor": "val/loss"}


@pytest.mark.parametrize(
    ("settings", "epochs"),
    [
        ({"early_stopping": {"patience": 2, "min_delta": 0.1}}, 3),
        ({"early_stopping": {"patience": 2, "min_delta": 0.1, "start_from_epoch": 3}}, 6),
        ({"early_stopping": {"patience": 2, "min_delta": 0.1}, "validate_every": 3}, 9),
        (
            {
                "early_stopping": {"patience": 1, "min_delta": 0.1},
                "fine_tune": {"frozen_epochs": 4},
            },
            6,
        ),
    ],
)
def test_patience_counts_validated_epochs_in_which_all_weights_are_trained(start, settings, epochs):
    result, _ = start("a", validate=True, **{"epochs": 12, "fine_tune": {}, **NO_GAIN, **settings})
    assert len(result.rows) == epochs


def test_a_stop_by_patience_is_the_same_after_an_interruption(start):
    settings = NO_GAIN | {"epochs": 12, "early_stopping": {"patience": 2, "min_delta": 0.1}}

    def stop(rows):
        if len(rows) == 2:
            raise Stop

    with pytest.raises(Stop):
        start("a", stop, validate=True, **settings)
    continued, _ = start("a", validate=True, **settings)
    assert len(continued.rows) == 4


@pytest.mark.parametrize("monitor", ["val/loss", "val/accuracy"])
def test_early_stopping_is_that_of_keras(monitor):
    random = np.random.default_rng(0)
    for _ in range(200):
        patience, start = (int(number) for number in random.integers((1, 0), (5, 8)))
        every, delta = int(random.integers(1, 4)), float(random.choice([0.0, 0.125]))
        callback = keras.callbacks.EarlyStopping(
            monitor,
            min_delta=delta,
            patience=patience,
            mode="min" if monitor == "val/loss" else "max",
            start_from_epoch=start,
        )
        callback.set_model(keras.Sequential())
        callback.model.stop_training = False
        callback.on_train_begin()
        settings = EarlyStopping(patience=patience, min_delta=delta, start_from_epoch=start)
        rows = []
        for epoch in range(30):
            rows.append(Row(epoch + 1, {}))
            if epoch % every == every - 1:
                rows[-1].figures[monitor] = float(random.integers(0, 9)) / 8
                callback.on_epoch_end(epoch, rows[-1].figures)
            assert should_stop(rows, monitor, settings) == callback.model.stop_training
            if callback.model.stop_training:
                break


def overflowing_net():
    last = keras.layers.Dense(3)
    return keras.Sequential(
        [keras.Input((18, 18, 1)), keras.layers.Rescaling(1e10), keras.layers.Flatten(), last]
    )


@pytest.mark.parametrize(
    ("rate", "validate", "problem"),
    [
        (1e30, False, "weights or the sums of their gradients overflow"),
        (1e20, False, "loss (nan|inf)"),  # found with a few training images
        (1e20, True, "validation loss (nan|inf)"),
    ],
)
def test_a_last_step_that_diverges_is_found(start, rate, validate, problem, tmp_path):
    settings = {"epochs": 1, "batch_size": 48, "fine_tune": {}}
    settings["optimizer"] = {"name": "sgd", "learning_rate": rate, "momentum": 0.0}
    message = rf"diverged in epoch 1: .*{problem}.* at a learning rate of {rate:.0e}".replace(
        "+", r"\+"
    )
    with pytest.raises(UserError, match=message + "; lower train.optimizer.learning_rate"):
        start("a", net=overflowing_net, validate=validate, **settings)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["state.npz"]


def test_a_net_that_is_not_sound_from_the_start_is_not_blamed_on_the_learning_rate(start):
    def net():
        net = backbone_net()
        net.layers[-1].bias.assign([float("nan")] * 3)
        return net

    with pytest.raises(UserError, match=r"loss nan.*the weights it starts from are not sound"):
        start("a", net=net)


def test_images_are_judged_in_batches_of_bounded_pixels_with_the_same_scores(start, monkeypatch):
    sizes = [(8, 8, 1), (32, 32, 3), (64, 64, 3), (224, 224, 3), (4000, 4000, 3)]
    assert [loop.evaluation_batch_size(shape) for shape in sizes] == [512, 512, 512, 41, 1]
    whole, _ = start("whole", validate=True)
    monkeypatch.setattr(loop, "LARGEST_BATCH_PIXELS", 5 * 18 * 18)
    parts, _ = start("parts", validate=True)
    assert parts.best == whole.best
    for a, b in zip(parts.rows, whole.rows, strict=True):
        assert a.figures == pytest.approx(b.figures)


@pytest.mark.parametrize(("left", "profiled"), [(1, 1), (4, 1), (6, 1), (100, 10)])
def test_a_profile_takes_what_steps_there_are(tmp_path, capsys, left, profiled):
    running = 0
    with Profile(tmp_path, left) as profile:
        for _ in range(left):
            with profile.step():
                running += profile._running
    assert running == profiled
    assert list(tmp_path.rglob("*.xplane.pb"))
    assert not capsys.readouterr().out


def test_a_run_without_steps_says_that_nothing_was_profiled(tmp_path, capsys):
    with Profile(tmp_path, 0):
        pass
    assert "nothing was profiled, as this run took 0 steps" in capsys.readouterr().out


def test_a_failing_run_ends_its_profile(tmp_path):
    for _ in range(2):  # a second could not start while the first goes on
        with pytest.raises(Stop), Profile(tmp_path, 1) as profile, profile.step():
            raise Stop


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            (1, "float32", [], 2, False),
            "training on the CPU, 2 cores, float32; no GPU is visible to TensorFlow",
        ),
        (
            (2, "bfloat16", [], 1, True),
            "training on the CPU in 2 parts, 1 core, bfloat16; this machine has an NVIDIA GPU, but "
            "TensorFlow sees none: pip install 'tensorflow[and-cuda]==2.0'",
        ),
        ((1, "bfloat16", ["NVIDIA A100"], 2, True), "training on 1 GPU (NVIDIA A100, bfloat16)"),
        (
            (2, "float32", ["NVIDIA T4"] * 4, 2, True),
            "training on 2 GPUs of 4 (NVIDIA T4, float32)",
        ),
    ],
)
def test_one_line_says_on_what_is_trained(settings, line, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert environment.device_line(*settings, "2.0") == line


def test_a_gpu_that_is_hidden_on_purpose_is_called_so(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert "hides every GPU" in environment.device_line(1, "float32", [], 2, True, "2.0")


@pytest.mark.parametrize("mark", ["dev/nvidia0", "dev/dxg", "proc/driver/nvidia/gpus/0000:01"])
def test_the_driver_shows_a_gpu(tmp_path, mark):
    (tmp_path / "proc/driver/nvidia/gpus").mkdir(parents=True)
    assert not environment.gpu_in_machine(tmp_path)
    (tmp_path / mark).mkdir(parents=True)
    assert environment.gpu_in_machine(tmp_path)


def test_memory_is_that_of_the_container_if_it_has_less(tmp_path):
    machine = environment.memory(tmp_path)
    assert machine > 2**28
    limit = tmp_path / "sys/fs/cgroup/memory.max"
    limit.parent.mkdir(parents=True)
    for text, memory in (("max", machine), (str(2**28), 2**28), (str(2**62), machine)):
        limit.write_text(text + "\n")
        assert environment.memory(tmp_path) == memory
