"""One compiled training step and one compiled evaluation step, and the state they work on."""

import numpy as np
import tensorflow as tf

from stages.training import environment
from stages.training.batches import Batch
from stages.training.optimizers import check_groups, make_optimizers, schedule_factor


class Learner:
    """Moves `model` (images 0 to 255 in, logits out) towards the labels, a batch at a time.

    Args:
        model: a Keras model, built inside `strategy.scope()` where there is a strategy.
        settings: the settings `train`.
        classes: number of classes; a model with one output is a sigmoid's logit of class 1.
        augment: None or a callable of the batch, see stages/augmentation.
        class_weights: float32 (classes,), factors on the loss of each class, or None.
        strategy: a `tf.distribute.Strategy` over several devices, or None.

    The loss is the mean over the batch of the cross-entropy with the label-smoothed classes.
    """

    def __init__(self, model, settings, classes, augment=None, class_weights=None, strategy=None):
        self.model, self.settings, self.classes = model, settings, classes
        self.augment, self.strategy = augment, strategy
        self.class_weights = None if class_weights is None else tf.constant(class_weights)
        self.sigmoid = model.output_shape[-1] == 1
        check_groups(settings.optimizer, model.trainable_variables)  # of all phases
        self.members = []
        self._steps = {}
        self._evaluate = tf.function(self._evaluation_step, autograph=False)
        self.average = None
        if settings.averaging.name != "none":
            self.average = [tf.Variable(weight) for weight in self._averaged()]
            self._update_average = tf.function(self._move_average, autograph=False)

    def start_phase(self) -> None:
        """Take in which weights are trainable, with fresh optimisers."""
        with environment.scope(self.strategy):
            self.members = make_optimizers(self.settings.optimizer, self.model.trainable_variables)
        self._steps = {}

    # Training

    def set_learning_rates(
        self, step: int, steps: int, steps_per_epoch: int, factor: float
    ) -> None:
        """Learning rates of `step` of the `steps` of this phase, times `factor`."""
        for member in self.members:
            span = member.epochs * steps_per_epoch if member.epochs else steps
            rate = 0.0
            if step < span:
                rate = (
                    member.learning_rate
                    * factor
                    * schedule_factor(self.settings.schedule, step / span, step / steps_per_epoch)
                )
            rate = np.float32(rate)
            if rate != member.current:
                member.optimizer.learning_rate = rate
                member.current = rate

    @property
    def learning_rate(self) -> float:
        """That of the main group of weights: the one with the most."""
        main = max(self.members, key=lambda m: sum(int(np.prod(w.shape)) for w in m.weights))
        return float(main.current)

    def train(self, batch: Batch, epoch: int, step: int, size: int | None = None) -> tf.Tensor:
        """Learn from `batch` at `size` pixels a side; sums float64 (3,): loss, correct, images."""
        if size not in self._steps:
            self._steps[size] = self._compile(size, batch.images.shape[1:])
        count = np.float32(len(batch.index))
        parts = (batch.images, batch.labels, batch.index)
        if self.strategy:
            replicas = self.strategy.num_replicas_in_sync
            split = [np.array_split(part, replicas) for part in parts]
            parts = [
                self.strategy.experimental_distribute_values_from_function(
                    lambda context, part=part: tf.constant(part[context.replica_id_in_sync_group])
                )
                for part in split
            ]
        else:
            parts = [tf.constant(part) for part in parts]
        scalars = (tf.constant(epoch, tf.int64), tf.constant(step, tf.int64), tf.constant(count))
        return self._steps[size](*parts, *scalars)

    def _compile(self, size, shape):
        """The step as one graph for batches of any length."""
        if self.strategy:
            return tf.function(
                lambda *args: self._distributed_step(size, *args),
                autograph=False,
                reduce_retracing=True,
            )
        signature = [
            tf.TensorSpec((None, *shape), tf.uint8),
            tf.TensorSpec((None,), tf.int32),
            tf.TensorSpec((None,), tf.int64),
            tf.TensorSpec((), tf.int64),
            tf.TensorSpec((), tf.int64),
            tf.TensorSpec((), tf.float32),
        ]
        return tf.function(lambda *args: self._step(size, *args), signature, autograph=False)

    def _distributed_step(self, size, images, labels, index, epoch, step, count):
        sums = self.strategy.run(
            lambda *args: self._step(size, *args), (images, labels, index, epoch, step, count)
        )
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)

    def _step(self, size, images, labels, index, epoch, step, count):
        targets = tf.one_hot(labels, self.classes)
        if self.augment is not None:
            if self.strategy:  # other choices on every device
                replica = tf.distribute.get_replica_context().replica_id_in_sync_group
                step = step * self._replicas + tf.cast(replica, step.dtype)
            seed = self.settings.seed
            images, targets = self.augment(images, targets, index, epoch, step, seed)
        images = tf.cast(images, tf.float32)
        if size:
            images = tf.image.resize(images, (size, size), method="area")
        weights = self.model.trainable_variables
        with tf.GradientTape() as tape:
            logits = self.model(images, training=True)
            each = self._loss(targets, logits, self.settings.label_smoothing)
            if self.class_weights is not None:
                each *= tf.linalg.matvec(targets, self.class_weights)
            loss = tf.reduce_sum(each) / count
            if self.model.losses:  # penalties of layers with a regularizer
                loss += tf.add_n(self.model.losses) / self._replicas
        gradients = tape.gradient(loss, weights)
        if self.strategy:
            # Keras' optimisers sum over the replicas once more.
            context = tf.distribute.get_replica_context()
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
            gradients = [gradient / self._replicas for gradient in gradients]
        if self.settings.clip_norm is not None:
            limit = self.settings.clip_norm / self._replicas
            gradients, _ = tf.clip_by_global_norm(gradients, limit)
        for member in self.members:
            member.optimizer.apply([gradients[at] for at in member.at], member.weights)
        correct = tf.reduce_sum(tf.cast(self._predict(logits) == labels, tf.float64))
        images_seen = tf.cast(tf.shape(labels)[0], tf.float64)
        return tf.stack([tf.cast(tf.reduce_sum(each), tf.float64), correct, images_seen])

    @property
    def _replicas(self) -> int:
        return self.strategy.num_replicas_in_sync if self.strategy else 1

    def _loss(self, targets, logits, smoothing=0.0):
        """Cross-entropy of each image, float32 (n,)."""
        if smoothing:
            targets = targets * (1 - smoothing) + smoothing / self.classes
        if self.sigmoid:
            return tf.nn.sigmoid_cross_entropy_with_logits(targets[:, 1], logits[:, 0])
        return tf.nn.softmax_cross_entropy_with_logits(targets, logits)

    def _predict(self, logits):
        if self.sigmoid:
            return tf.cast(logits[:, 0] > 0, tf.int32)
        return tf.argmax(logits, axis=-1, output_type=tf.int32)

    # Averaged weights

    def update_average(self, step: int, steps: int) -> None:
        """After each step: move the average towards the weights, see `train.averaging`."""
        if self.average is None:
            return
        averaging = self.settings.averaging
        if averaging.name == "ema":
            share = 1 - min(averaging.decay, (1 + step) / (10 + step))
        else:
            first = int(averaging.start * steps)
            share = 1.0 if step < first else 1 / (step - first + 1)
        self._update_average(tf.constant(share, tf.float32))

    def _move_average(self, share):
        for average, weight in zip(self.average, self._averaged(), strict=True):
            average.assign_add(share * (tf.convert_to_tensor(weight) - average))

    def _averaged(self) -> list:
        return [weight for weight in self.model.weights if weight.dtype == "float32"]

    def final_weights(self) -> list[np.ndarray]:
        """The weights to judge and to keep, as `model.get_weights()` orders them."""
        average = iter(self.average or [])
        return [
            next(average).numpy()
            if self.average is not None and weight.dtype == "float32"
            else _numpy(weight)
            for weight in self.model.weights
        ]

    # Judging

    def evaluate(self, batches, labels: np.ndarray) -> dict[str, float]:
        """Loss, accuracy and macro F1 of the final weights on `batches` of uint8 images."""
        weights = None
        if self.average is not None:
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
        right = np.diag(confusion)
        either = confusion.sum(0) + confusion.sum(1)
        seen = either > 0
        return {
            "loss": loss / start,
            "accuracy": float(right.sum() / start),
            "f1_macro": float(np.mean(2 * right[seen] / either[seen])),
        }

    def _evaluation_step(self, images, labels):
        logits = self.model(tf.cast(images, tf.float32), training=False)
        each = self._loss(tf.one_hot(labels, self.classes), logits)
        return tf.reduce_sum(tf.cast(each, tf.float64)), self._predict(logits)

    # The state to continue from

    def state(self) -> list[np.ndarray]:
        return [_numpy(variable) for variable in self._state_variables()]

    def restore(self, arrays: list[np.ndarray]) -> None:
        variables = self._state_variables()
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)
        for member in self.members:
            member.current = np.float32(_numpy(member.optimizer.learning_rate))

    def _state_variables(self) -> list:
        optimizers = [v for member in self.members for v in member.optimizer.variables]
        return [*self.model.variables, *optimizers, *(self.average or [])]


def _numpy(variable) -> np.ndarray:
    """The value of a Keras or TensorFlow variable."""
    return np.asarray((variable if isinstance(variable, tf.Variable) else variable.value).numpy())
