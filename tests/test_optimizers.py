"""Optimisers, schedules, averages, losses: what each setting of `train` means."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from stages.errors import UserError
from stages.parameters.train import Optimizer, Schedule, Train
from stages.training.batches import Batch, epoch_order, hardest
from stages.training.learner import Learner
from stages.training.optimizers import Muon, make_optimizers, schedule_factor


def settings(**values):
    return Train.model_validate(values)


def net(outputs=3):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dense(6, activation="relu", name="hidden"),
            keras.layers.Dense(outputs, name="head"),
        ]
    )


def batch(count=12, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 1)).astype(np.uint8)
    labels = (np.arange(count) % 3).astype(np.int32)
    return Batch(images, labels, np.arange(count), np.zeros(count, np.int64))


def learner(**values):
    made = Learner(net(), settings(**values), 3)
    made.start_phase()
    made.set_learning_rates(0, 100, 10, 1.0)
    return made


@pytest.mark.parametrize(
    ("name", "rate"),
    [("adam", 0.01), ("adamw", 0.01), ("sgd", 0.1), ("rmsprop", 0.01), ("muon", 0.05)],
)
def test_every_optimizer_learns(name, rate):
    made = learner(optimizer={"name": name, "learning_rate": rate, "weight_decay": 0.001})
    first = float(made.train(batch(), 0, 0).sums[0])
    for step in range(1, 30):
        last = float(made.train(batch(), 0, step).sums[0])
    assert last < 0.7 * first


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_is_that_of_keras(decay):
    made = learner(optimizer={"name": "adamw", "learning_rate": 0.01, "weight_decay": decay})
    reference, adam = net(), keras.optimizers.AdamW(0.01, weight_decay=decay)
    for step in range(5):
        data = batch(seed=step)
        with tf.GradientTape() as tape:
            loss = keras.losses.sparse_categorical_crossentropy(
                data.labels, reference(data.images.astype("float32")), from_logits=True
            )
            mean = tf.reduce_mean(loss)
        adam.apply(
            tape.gradient(mean, reference.trainable_variables), reference.trainable_variables
        )
        made.train(data, 0, step)
    ours = [*made.model.trainable_variables, *made.groups[0].optimizer.variables]
    keras_own = [*reference.trainable_variables, *adam.variables]
    assert len(ours) == len(keras_own)
    for one, other in zip(ours, keras_own, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-4, atol=1e-6)


def test_sgd_without_momentum_takes_the_gradient_of_the_mean_loss():
    made = learner(optimizer={"name": "sgd", "learning_rate": 0.5, "momentum": 0.0})
    data, reference = batch(), net()
    with tf.GradientTape() as tape:
        loss = keras.losses.sparse_categorical_crossentropy(
            data.labels, reference(data.images.astype("float32")), from_logits=True
        )
        mean = tf.reduce_mean(loss)
    gradients = tape.gradient(mean, reference.trainable_variables)
    sums = made.train(data, 0, 0).sums
    assert float(sums[0]) == pytest.approx(float(mean) * 12, rel=1e-5)
    for after, before, gradient in zip(
        made.model.trainable_variables, reference.trainable_variables, gradients, strict=True
    ):
        np.testing.assert_allclose(after.numpy(), before.numpy() - 0.5 * gradient, atol=1e-6)


def test_label_smoothing_and_class_weights_are_those_of_keras():
    made = Learner(net(), settings(label_smoothing=0.3), 3, class_weights=np.float32([1, 2, 4]))
    made.start_phase()
    made.set_learning_rates(0, 1, 1, 1.0)
    data = batch()
    logits = made.model(data.images.astype("float32"))
    loss = keras.losses.categorical_crossentropy(
        keras.utils.to_categorical(data.labels, 3), logits, from_logits=True, label_smoothing=0.3
    )
    expected = float(np.sum(loss.numpy() * np.float32([1, 2, 4])[data.labels]))
    assert float(made.train(data, 0, 0).sums[0]) == pytest.approx(expected, rel=1e-5)


def test_a_sigmoid_has_the_loss_of_binary_crossentropy():
    made = Learner(net(outputs=1), settings(), 2)
    labels = np.int32([0, 1] * 6)
    images = batch().images
    logits = made.model(images.astype("float32"))
    expected = keras.losses.binary_crossentropy(labels[:, None], logits, from_logits=True)
    scores = made.evaluate([images], labels)
    assert scores.loss == pytest.approx(float(tf.reduce_mean(expected)), rel=1e-5)


def test_clip_norm_limits_the_step():
    sgd = {"name": "sgd", "learning_rate": 1.0, "momentum": 0.0}
    made = learner(optimizer=sgd, clip_norm=0.01)
    before = made.model.get_weights()
    made.train(batch(), 0, 0)
    step = [a - b for a, b in zip(made.model.get_weights(), before, strict=True)]
    assert np.sqrt(sum((part**2).sum() for part in step)) == pytest.approx(0.01, rel=1e-3)


def test_muon_moves_kernels_by_matrices_with_singular_values_near_one():
    kernel = keras.Variable(np.zeros((3, 3, 4, 8), "float32"))
    muon = Muon(learning_rate=1.0, momentum=0.0)
    muon.build([kernel])
    gradient = np.random.default_rng(0).normal(size=kernel.shape).astype("float32")
    muon.apply([tf.constant(gradient)], [kernel])
    singular = np.linalg.svd(kernel.numpy().reshape(-1, 8), compute_uv=False)
    assert singular.min() > 0.5
    assert singular.max() < 1.5


def test_muon_can_keep_the_norm_of_kernels():
    kernel = keras.Variable(np.full((3, 3, 4, 8), 5.0, "float32"))
    muon = Muon(learning_rate=1e-9, normalize_weights=True)
    muon.build([kernel])
    muon.apply([tf.ones(kernel.shape)], [kernel])
    assert np.linalg.norm(kernel.numpy()) == pytest.approx(np.sqrt(8), rel=1e-4)


def test_muon_leaves_vectors_and_the_last_layer_to_adam():
    weights = net().trainable_variables
    groups = make_optimizers(Optimizer(name="muon", learning_rate=0.1), weights)
    paths = {type(m.optimizer).__name__: [w.path for w in m.weights] for m in groups}
    assert [path.split("/")[-2:] for path in paths["Muon"]] == [
        ["conv", "kernel"],
        ["hidden", "kernel"],
    ]
    assert len(paths["FusedAdam"]) == 4


def test_a_group_of_weights_has_its_own_optimizer_and_may_end_early():
    groups = [{"match": "conv/", "name": "sgd", "learning_rate": 0.5, "epochs": 2}]
    made = learner(optimizer={"learning_rate": 0.1, "groups": groups}, schedule={"name": "linear"})
    main, group = sorted(made.groups, key=lambda group: group.epochs or 0)
    assert [weight.path.split("/")[-2] for weight in group.weights] == ["conv", "conv"]
    made.set_learning_rates(step=10, steps=100, steps_per_epoch=10, factor=1.0)
    assert main.current_rate == pytest.approx(0.09)
    assert group.current_rate == pytest.approx(0.25)
    made.set_learning_rates(step=20, steps=100, steps_per_epoch=10, factor=1.0)
    assert group.current_rate == 0
    before = made.model.get_layer("conv").get_weights()
    made.train(batch(), 0, 20)
    np.testing.assert_array_equal(before[0], made.model.get_layer("conv").get_weights()[0])


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["stem"], r"no weight's path has 'stem'.*conv/kernel"),
        (["bias", "conv/bias"], r"earlier groups take all weights that 'conv/bias' matches"),
    ],
)
def test_a_group_that_gets_no_weights_is_an_error_that_says_why(patterns, message):
    with pytest.raises(UserError, match=message):
        learner(optimizer={"groups": [{"match": pattern} for pattern in patterns]})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"name": "constant"}, [1, 1, 1, 1]),
        ({"name": "constant", "warmup": 0.5}, [0, 0.5, 1, 1]),
        ({"name": "linear"}, [1, 0.75, 0.5, 0.25]),
        ({"name": "linear", "end": 0.2}, [1, 0.8, 0.6, 0.4]),
        ({"name": "cosine"}, [1, 0.854, 0.5, 0.146]),
        ({"name": "one_cycle", "warmup": 0.5, "start": 0.2}, [0.2, 0.6, 1, 0.5]),
        ({"name": "step", "step_epochs": 2}, [1, 1, 0.1, 0.1]),
    ],
)
def test_schedules(values, expected):
    schedule = Schedule(**values)
    factors = [schedule_factor(schedule, epoch / 4, epoch) for epoch in range(4)]
    assert factors == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", ["ema", "mean"])
def test_averaged_weights_are_the_average_of_those_after_each_step(name):
    made = learner(averaging={"name": name, "decay": 0.5, "start": 0.5})
    kernels = []
    for step in range(6):
        made.train(batch(seed=step), 0, step)
        made.update_average(step, 6)
        kernels.append(made.model.get_weights()[0])
    if name == "mean":
        expected = np.mean(kernels[3:], axis=0)
    else:
        expected = net().get_weights()[0]
        for step, kernel in enumerate(kernels):  # the first steps count more
            decay = min(0.5, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * kernel
    np.testing.assert_allclose(made.final_weights()[0], expected, atol=1e-6)
    before = made.model.get_weights()
    made.evaluate([batch().images], batch().labels)
    for a, b in zip(made.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_epoch_is_a_shuffle_of_its_own():
    labels = np.zeros(1000, np.int32)
    first, again, second = (epoch_order(labels, 7, epoch) for epoch in (0, 0, 1))
    np.testing.assert_array_equal(np.sort(first), np.arange(1000))
    np.testing.assert_array_equal(first, again)
    assert (first == second).mean() < 0.05
    assert (first == epoch_order(labels, 8, 0)).mean() < 0.05


def test_balanced_sampling_draws_all_classes_equally_and_repeats_evenly():
    labels = np.repeat([0, 1, 2], [90, 9, 3]).astype(np.int32)
    order = epoch_order(labels, 0, 0, "balanced")
    assert len(order) == len(labels)
    np.testing.assert_array_equal(np.bincount(labels[order]), [34, 34, 34])
    times = np.bincount(order, minlength=len(labels))
    assert times[:90].max() == 1
    assert set(times[90:99]) <= {3, 4}
    assert set(times[99:]) <= {11, 12}


def test_the_hardest_images_are_those_with_the_highest_loss_in_the_order_of_the_epoch():
    losses = np.linspace(0, 1, 100)
    losses[[5, 6]] = np.inf  # never seen
    order = epoch_order(losses, 0, 0)
    chosen = hardest(order, losses, 40)
    assert set(chosen) == {5, 6, *range(62, 100)}
    np.testing.assert_array_equal(chosen, order[np.isin(order, chosen)])
    never = [hardest(epoch_order(losses, 0, epoch), np.full(100, np.inf), 40) for epoch in (0, 1)]
    assert set(never[0]) != set(never[1])  # by lot


def test_macro_f1_is_that_of_scikit_learn():
    from sklearn.metrics import f1_score

    made = learner()
    data = batch(50)
    predicted = made.model.predict(data.images, verbose=0).argmax(axis=1)
    scores = made.evaluate([data.images[:30], data.images[30:]], data.labels)
    assert scores.f1_macro == pytest.approx(f1_score(data.labels, predicted, average="macro"))
    assert scores.accuracy == pytest.approx((predicted == data.labels).mean())


def test_smaller_images_first():
    model = keras.Sequential(
        [
            keras.Input((None, None, 1)),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3),
        ]
    )
    made = Learner(model, settings(image_sizes=[{"until": 0.5, "size": 2}]), 3)
    made.start_phase()
    made.set_learning_rates(0, 1, 1, 1.0)
    small, whole = (made.train(batch(), 0, 0, size) for size in (2, None))
    assert float(small.sums[2]) == float(whole.sums[2]) == 12
    assert set(made._steps) == {2, None}
