"""One compiled training step and one compiled evaluation step, and the state they work on."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from stages.augmentation import Augmentation
from stages.parameters.train import Train
from stages.training import environment
from stages.training.batches import Batch, bounds
from stages.training.cluster import Cluster
from stages.training.log import Scores
from stages.training.optimizers import (
    WeightGroup,
    check_groups,
    make_optimizers,
    schedule_factor,
)
from stages.training.self_confidence import label_losses


class Step(NamedTuple):
    """What a step computed, on all devices together: `sums` float64 (3,): loss, correct, images;
    and its `label_losses` (n, 2), in the order of the batch."""

    sums: tf.Tensor
    label_losses: tf.Tensor


class Learner:
    """Moves `model` (images 0 to 255 in, logits out) towards the labels, a batch at a time.

    Args:
        model: a Keras model, built inside `strategy.scope()` where there is a strategy.
        settings: the section train.
        classes: number of classes; a model with one output is a sigmoid's logit of class 1.
        augment: varies each batch; None where nothing is to be varied.
        class_weights: float32 (classes,), factors on the loss of each class, or None.
        strategy: a `tf.distribute.Strategy` over several devices, or None.
        cluster: the machines whose devices these are, or None for this one.

    The loss is the mean over the batch of the cross-entropy with the label-smoothed classes.

    Several devices, of one machine or many, compute a part of the batch each and learn from the sum
    of their gradients: what one device would, up to rounding. Only two things are each device's
    own: a batch normalisation takes mean and variance from the device's part of the batch (the
    moving averages, which judge and are kept, are means over the devices), and dropout draws the
    same mask on each. To normalise over the whole batch would stop all devices at each such layer.
    """

    def __init__(
        self,
        model: keras.Model,
        settings: Train,
        classes: int,
        augment: Augmentation | None = None,
        class_weights: np.ndarray | None = None,
        strategy: tf.distribute.Strategy | None = None,
        cluster: Cluster | None = None,
    ):
        self.model, self.settings, self.classes = model, settings, classes
        self.augment, self.strategy, self.cluster = augment, strategy, cluster
        # To mix an image with the one before it, a part has that one too, in front.
        self._before = int(bool(strategy and augment and augment.mixes))
        self.parts = strategy.num_replicas_in_sync if strategy else 1
        machines, number = (len(cluster), cluster.number) if cluster else (1, 0)
        self._own = range(self.parts * number // machines, self.parts * (number + 1) // machines)
        self.class_weights = None if class_weights is None else tf.constant(class_weights)
        self.sigmoid = model.output_shape[-1] == 1
        check_groups(settings.optimizer, model.trainable_variables)  # of all phases
        self.groups: list[WeightGroup] = []
        self._steps: dict[int | None, Callable[..., Step]] = {}  # by size of the images
        self._evaluate = tf.function(self._evaluation_step, autograph=False)
        self.average: list[tf.Variable] = []  # of `_averaged`, if train.averaging
        if settings.averaging.name != "none":
            self.average = [tf.Variable(weight) for weight in self._averaged()]
        self._update_average = tf.function(self._move_average, autograph=False)

    def start_phase(self) -> None:
        """Take in which weights are trainable, with fresh optimisers."""
        with environment.scope(self.strategy):
            self.groups = make_optimizers(self.settings.optimizer, self.model.trainable_variables)
        self._steps = {}

    # Training

    def set_learning_rates(
        self, step: int, steps: int, steps_per_epoch: int, factor: float
    ) -> None:
        """Learning rates of `step` of the `steps` of this phase, times `factor`."""
        schedule = self.settings.schedule
        for group in self.groups:
            span = group.epochs * steps_per_epoch if group.epochs else steps
            rate = np.float32(0)
            if step < span:
                share = schedule_factor(schedule, step / span, step / steps_per_epoch)
                rate = np.float32(group.learning_rate * factor * share)
            if rate != group.current_rate:
                group.optimizer.learning_rate = group.current_rate = rate

    @property
    def learning_rate(self) -> float:
        """That of the main group of weights: the one with the most."""
        main = max(self.groups, key=lambda g: sum(int(np.prod(w.shape)) for w in g.weights))
        return float(main.current_rate)

    def train(self, batch: Batch, epoch: int, step: int, size: int | None = None) -> Step:
        """Learn from `batch` at `size` pixels a side."""
        if size not in self._steps:
            self._steps[size] = self._compile(size, batch.images.shape[1:])
        count = np.float32(len(batch.index))
        scalars = (tf.constant(epoch, tf.int64), tf.constant(step, tf.int64), tf.constant(count))
        if self.strategy:
            return self._steps[size](*self._on_devices(batch), *scalars)
        arrays = (batch.images, batch.labels, batch.index, batch.turns)
        return self._steps[size](*map(tf.constant, arrays), *scalars)

    def _on_devices(self, batch: Batch) -> list[tf.Tensor]:
        """Images, labels, index, turns and places in the batch, a part of them on each device."""
        assert self.strategy
        count = len(batch.index)
        here = np.arange(count) if batch.places is None else batch.places
        position = np.empty(count, np.int64)  # of each place among those that are here
        position[here] = np.arange(len(here))
        places = {part: self._places(count, part, part + 1) for part in self._own}
        parts = {
            part: (
                batch.images[position[at]],
                batch.labels[position[at]],
                batch.index[at],
                batch.turns[at],
                at,
            )
            for part, at in places.items()
        }
        return [
            self.strategy.experimental_distribute_values_from_function(
                lambda context, n=number: tf.constant(parts[context.replica_id_in_sync_group][n])
            )
            for number in range(5)
        ]

    def places(self, count: int) -> np.ndarray:
        """Which images, int64 (m,), of a batch of `count` this machine needs."""
        return self._places(count, self._own.start, self._own.stop)

    def _places(self, count: int, first: int, end: int) -> np.ndarray:
        """Those of the parts `first` to `end`."""
        edges = bounds(count, self.parts)
        return np.arange(edges[first] - self._before, edges[end]) % count

    def _compile(self, size: int | None, shape: tuple[int, ...]) -> Callable[..., Step]:
        """The step as one graph for batches of any length."""
        strategy = self.strategy
        if strategy:

            def distributed_step(*args: tf.Tensor) -> Step:
                found = strategy.run(lambda *args: self._step_of_part(size, *args), args)
                found = strategy.experimental_local_results(found)[0]
                return Step(found[:3], tf.reshape(found[3:], (-1, 2)))

            return tf.function(distributed_step, autograph=False, reduce_retracing=True)
        signature = [
            tf.TensorSpec((None, *shape), tf.uint8),
            tf.TensorSpec((None,), tf.int32),
            tf.TensorSpec((None,), tf.int64),
            tf.TensorSpec((None,), tf.int64),
            tf.TensorSpec((), tf.int64),
            tf.TensorSpec((), tf.int64),
            tf.TensorSpec((), tf.float32),
        ]
        return tf.function(lambda *args: self._step(size, *args), signature, autograph=False)

    def _step_of_part(
        self,
        size: int | None,
        images: tf.Tensor,
        labels: tf.Tensor,
        index: tf.Tensor,
        turns: tf.Tensor,
        places: tf.Tensor,
        epoch: tf.Tensor,
        step: tf.Tensor,
        count: tf.Tensor,
    ) -> tf.Tensor:
        """One step on a part of a batch; what all parts together make a `Step` of, float64
        (3 + 2 n,)."""
        whole = tf.cast(count, tf.int64)
        part = (places, whole)
        sums, losses = self._step(size, images, labels, index, turns, epoch, step, count, part)
        at = places[self._before :, None]
        losses = tf.scatter_nd(at, tf.cast(losses, tf.float64), tf.stack([whole, 2]))
        found = tf.concat([sums, tf.reshape(losses, [-1])], axis=0)
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, found)

    def _step(
        self,
        size: int | None,
        images: tf.Tensor,
        labels: tf.Tensor,
        index: tf.Tensor,
        turns: tf.Tensor,
        epoch: tf.Tensor,
        step: tf.Tensor,
        count: tf.Tensor,
        part: tuple[tf.Tensor, tf.Tensor] | None = None,
    ) -> Step:
        """One step on the images of one device, of `count` on all devices together."""
        targets = tf.one_hot(labels, self.classes)
        if self.augment is not None:
            seed = self.settings.seed
            images, targets = self.augment(images, targets, index, turns, epoch, step, seed, part)
        if self._before:
            images, targets, labels = images[1:], targets[1:], labels[1:]
        images = tf.cast(images, tf.float32)
        if size:
            images = tf.image.resize(images, (size, size), method="area")
        weights = self.model.trainable_variables
        with tf.GradientTape() as tape:
            logits = self.model(images, training=True)
            losses = self._loss(targets, logits, self.settings.label_smoothing)
            if self.class_weights is not None:
                losses *= tf.linalg.matvec(targets, self.class_weights)
            loss = tf.reduce_sum(losses) / count
            if self.model.losses:  # penalties of layers with a regularizer
                loss += tf.add_n(self.model.losses) / self.parts
        gradients = tape.gradient(loss, weights)
        if self.settings.clip_norm is not None:
            if self.strategy:  # Keras' optimisers sum over the devices, which is too late
                context = tf.distribute.get_replica_context()
                gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
                gradients = [gradient / self.parts for gradient in gradients]
            limit = self.settings.clip_norm / self.parts
            gradients, _ = tf.clip_by_global_norm(gradients, limit)
        for group in self.groups:
            group.optimizer.apply([gradients[i] for i in group.positions], group.weights)
        correct = tf.reduce_sum(tf.cast(self._predict(logits) == labels, tf.float64))
        images_seen = tf.cast(tf.shape(labels)[0], tf.float64)
        sums = tf.stack([tf.cast(tf.reduce_sum(losses), tf.float64), correct, images_seen])
        return Step(sums, label_losses(logits, labels, targets))

    def _loss(self, targets: tf.Tensor, logits: tf.Tensor, smoothing: float = 0.0) -> tf.Tensor:
        """Cross-entropy of each image, float32 (n,)."""
        if smoothing:
            targets = targets * (1 - smoothing) + smoothing / self.classes
        if self.sigmoid:
            return tf.nn.sigmoid_cross_entropy_with_logits(targets[:, 1], logits[:, 0])
        return tf.nn.softmax_cross_entropy_with_logits(targets, logits)

    def _predict(self, logits: tf.Tensor) -> tf.Tensor:
        """Labels int32 (n,)."""
        if self.sigmoid:
            return tf.cast(logits[:, 0] > 0, tf.int32)
        return tf.argmax(logits, axis=-1, output_type=tf.int32)

    # Averaged weights

    def update_average(self, step: int, steps: int) -> None:
        """After each step: move the average towards the weights, see `train.averaging`."""
        if not self.average:
            return
        averaging = self.settings.averaging
        if averaging.name == "ema":
            share = 1 - min(averaging.decay, (1 + step) / (10 + step))
        else:
            first = int(averaging.start * steps)
            share = 1.0 if step < first else 1 / (step - first + 1)
        self._update_average(tf.constant(share, tf.float32))

    def _move_average(self, share: tf.Tensor) -> None:
        for average, weight in zip(self.average, self._averaged(), strict=True):
            average.assign_add(share * (tf.convert_to_tensor(weight) - average))

    def _averaged(self) -> list[keras.Variable]:
        return [weight for weight in self.model.weights if weight.dtype == "float32"]

    def final_weights(self) -> list[np.ndarray]:
        """The weights to judge and to keep, as `model.get_weights()` orders them."""
        average = iter(self.average)
        return [
            next(average).numpy() if self.average and weight.dtype == "float32" else _numpy(weight)
            for weight in self.model.weights
        ]

    # Judging

    def share(self, count: int) -> tuple[int, int]:
        """First and end of those of `count` images that this machine is to judge."""
        if not self.cluster:
            return 0, count
        edges = bounds(count, len(self.cluster))
        return edges[self.cluster.number], edges[self.cluster.number + 1]

    def evaluate(self, batches: Iterable[np.ndarray], labels: np.ndarray) -> Scores:
        """How good the final weights are on `batches` of uint8 images with these `labels`: those of
        this machine, while every other one judges its own."""
        weights = None
        if self.average:
            weights = self.model.get_weights()
            self.model.set_weights(self.final_weights())
        loss, confusion, start = 0.0, np.zeros((self.classes, self.classes), np.int64), 0
        for images in batches:
            part = labels[start : start + len(images)]
            start += len(images)
            total, predicted = self._evaluate(tf.constant(images), tf.constant(part))
            loss += float(total)
            np.add.at(confusion, (part, predicted.numpy()), 1)
        if weights is not None:
            self.model.set_weights(weights)
        if self.cluster:
            loss, *counts = self.cluster.sum(np.array([loss, *confusion.ravel()])).tolist()
            confusion = np.array(counts).astype(np.int64).reshape(confusion.shape)
        return Scores.of(confusion, loss)

    def _evaluation_step(self, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The sum of the losses, and the predicted labels."""
        logits = self.model(tf.cast(images, tf.float32), training=False)
        losses = self._loss(tf.one_hot(labels, self.classes), logits)
        return tf.reduce_sum(tf.cast(losses, tf.float64)), self._predict(logits)

    # The state to continue from

    def state(self) -> list[np.ndarray]:
        return [_numpy(variable) for variable in self._state_variables()]

    def restore(self, arrays: list[np.ndarray]) -> None:
        variables = self._state_variables()
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)
        for group in self.groups:
            group.current_rate = np.float32(_numpy(group.optimizer.learning_rate))

    def _state_variables(self) -> list[keras.Variable | tf.Variable]:
        optimizers = [v for group in self.groups for v in group.optimizer.variables]
        return [*self.model.variables, *optimizers, *self.average]


def _numpy(variable: keras.Variable | tf.Variable) -> np.ndarray:
    """The value of a Keras or TensorFlow variable."""
    return np.asarray((variable if isinstance(variable, tf.Variable) else variable.value).numpy())
