"""Optimisers by name for groups of weights, and the schedules of their learning rates."""

import math
import re
from dataclasses import dataclass, field

import keras
import tensorflow as tf

from stages.errors import UserError


def schedule_factor(schedule, position: float, epoch: float) -> float:
    """The factor on the learning rate, 0 to 1.

    Args:
        schedule: the settings `train.schedule`.
        position: share of the steps done, 0 for the first step, below 1.
        epoch: the same in epochs.

    warm-up     from `start` to 1 in a straight line over the share `warmup` of the steps
                (one_cycle: along a cosine; Smith and Topin 2018, arXiv:1708.07120)
    constant    1
    linear      to `end` in a straight line
    cosine      to `end` along a half cosine (Loshchilov and Hutter 2017, arXiv:1608.03983);
                one_cycle falls the same way
    step        times `step_factor` after every `step_epochs` epochs
    """
    if position < schedule.warmup:
        done = position / schedule.warmup
        rise = (1 - math.cos(math.pi * done)) / 2 if schedule.name == "one_cycle" else done
        return schedule.start + (1 - schedule.start) * rise
    if schedule.name == "step":
        return schedule.step_factor ** (epoch // schedule.step_epochs)
    left = 1 - (position - schedule.warmup) / (1 - schedule.warmup)
    if schedule.name == "linear":
        return schedule.end + (1 - schedule.end) * left
    if schedule.name in ("cosine", "one_cycle"):
        return schedule.end + (1 - schedule.end) * (1 - math.cos(math.pi * left)) / 2
    return 1.0


# Muon is for matrices. Biases, normalisations and the last layer go to Adam, at this share of
# Muon's learning rate unless a group says otherwise.
ADAM_BESIDE_MUON = 0.05


@dataclass
class Member:
    """One optimiser, the weights it moves, and its peak learning rate.

    `epochs` squeezes the schedule into that many epochs, after which the weights stay. `at` are
    the positions of the weights in the list of all, `current` the learning rate of the moment.
    """

    optimizer: keras.optimizers.Optimizer
    weights: list
    learning_rate: float
    epochs: int | None = None
    at: list[int] = field(default_factory=list)
    current: float | None = None


def make_optimizers(settings, weights: list) -> list[Member]:
    """Optimisers for `weights` (Keras variables) as `train.optimizer` says.

    A weight belongs to the first group whose regular expression `match` is found in its path,
    and takes from the main settings what the group leaves open. A group may have none of these
    weights, as where a backbone is frozen.
    """
    chosen: dict[int, list[int]] = {}
    for at, weight in enumerate(weights):
        chosen.setdefault(_group_of(weight, settings.groups), []).append(at)
    members = []
    for number in sorted(chosen):
        own = {} if number < 0 else settings.groups[number].model_dump(exclude_none=True)
        merged = settings.model_copy(
            update={key: value for key, value in own.items() if key not in ("match", "epochs")}
        )
        at = chosen[number]
        if merged.name == "muon":
            last = max(i for i, weight in enumerate(weights) if len(weight.shape) > 1)
            vectors = [i for i in at if len(weights[i].shape) < 2 or (i == last and number < 0)]
            at = [i for i in at if i not in vectors]
            if vectors:
                beside = merged.model_copy(
                    update={
                        "name": "adam",
                        "learning_rate": merged.learning_rate * ADAM_BESIDE_MUON,
                    }
                )
                members.append(_member(beside, weights, vectors, own.get("epochs")))
        if at:
            members.append(_member(merged, weights, at, own.get("epochs")))
    return members


def check_groups(settings, weights: list) -> None:
    """Raise `UserError` for a group of `train.optimizer` that gets none of a model's `weights`."""
    taken = {_group_of(weight, settings.groups) for weight in weights}
    for number, group in enumerate(settings.groups):
        if number in taken:
            continue
        if any(re.search(group.match, weight.path) for weight in weights):
            raise UserError(
                f"train.optimizer.groups: earlier groups take all weights that {group.match!r} "
                "matches; put it before them"
            )
        raise UserError(
            f"train.optimizer.groups: no weight's path has {group.match!r}; the paths are "
            + ", ".join(weight.path for weight in weights)
        )


def _group_of(weight, groups) -> int:
    for number, group in enumerate(groups):
        if re.search(group.match, weight.path):
            return number
    return -1


def _member(settings, weights, at, epochs) -> Member:
    optimizer = _make(settings)
    mine = [weights[i] for i in at]
    optimizer.build(mine)
    return Member(optimizer, mine, settings.learning_rate, epochs, at)


def _make(settings) -> keras.optimizers.Optimizer:
    common = {
        "learning_rate": settings.learning_rate,
        "weight_decay": settings.weight_decay or None,
    }
    if settings.name in ("adam", "adamw"):
        kind = keras.optimizers.AdamW if settings.name == "adamw" else keras.optimizers.Adam
        # AdamW insists on a number.
        common["weight_decay"] = (
            settings.weight_decay if settings.name == "adamw" else (settings.weight_decay or None)
        )
        return kind(beta_1=settings.momentum, beta_2=settings.beta_2, **common)
    if settings.name == "sgd":
        nesterov = settings.nesterov and settings.momentum > 0
        return keras.optimizers.SGD(momentum=settings.momentum, nesterov=nesterov, **common)
    if settings.name == "rmsprop":
        return keras.optimizers.RMSprop(rho=settings.momentum, **common)
    return Muon(
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        normalize_weights=settings.normalize_weights,
        **common,
    )


class Muon(keras.optimizers.Optimizer):
    """Momentum, orthogonalised: each kernel moves by a matrix whose singular values are near 1.

    Jordan et al. 2024, https://kellerjordan.github.io/posts/muon. Unlike `keras.optimizers.Muon`
    it takes convolution kernels too, as matrices (height * width * inputs, outputs).
    `normalize_weights` keeps every kernel at the norm sqrt(outputs), for nets that normalise
    after each layer (the CIFAR-10 speed records).
    """

    STEPS = 3  # of the Newton-Schulz iteration
    COEFFICIENTS = (3.4445, -4.7750, 2.0315)

    def __init__(
        self, learning_rate=0.02, momentum=0.9, nesterov=True, normalize_weights=False, **options
    ):
        super().__init__(learning_rate=learning_rate, **options)
        self.momentum, self.nesterov = momentum, nesterov
        self.normalize_weights = normalize_weights

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.momentums = self.add_optimizer_variables(variables, "momentum")

    def update_step(self, gradient, variable, learning_rate):
        momentum = self.momentums[self._get_variable_index(variable)]
        gradient = tf.cast(gradient, variable.dtype)
        total = self.momentum * tf.convert_to_tensor(momentum) + gradient
        self.assign(momentum, total)
        update = gradient + self.momentum * total if self.nesterov else total
        matrix = tf.reshape(update, (-1, update.shape[-1]))
        rows, columns = matrix.shape
        matrix = self._orthogonalize(matrix)
        value = tf.convert_to_tensor(variable)
        if self.normalize_weights:
            value *= math.sqrt(columns) / (tf.norm(value) + 1e-7)
        else:
            matrix *= max(1.0, columns / rows) ** 0.5
        self.assign(variable, value - learning_rate * tf.reshape(matrix, update.shape))

    def _orthogonalize(self, matrix):
        """Newton-Schulz: pushes all singular values towards 1, a few per cent off.

        Each step multiplies the matrix by a polynomial of its Gram matrix, so the steps are
        taken on the product of the polynomials and on the Gram matrix, which are small and
        square, and the matrix itself is multiplied once.
        """
        a, b, c = self.COEFFICIENTS
        matrix /= tf.norm(matrix) + 1e-7
        tall = matrix.shape[0] > matrix.shape[1]
        gram = tf.matmul(matrix, matrix, transpose_a=tall, transpose_b=not tall)
        product = identity = tf.eye(gram.shape[0])
        for _ in range(self.STEPS):
            polynomial = a * identity + b * gram + c * tf.matmul(gram, gram)
            product = tf.matmul(polynomial, product)
            gram = tf.matmul(polynomial, tf.matmul(gram, polynomial))
        return tf.matmul(matrix, product) if tall else tf.matmul(product, matrix)
