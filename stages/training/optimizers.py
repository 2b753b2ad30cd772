"""Optimisers by name for groups of weights, and the schedules of their learning rates."""

import math
import re
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from stages.errors import UserError
from stages.parameters.train import Group, Optimizer, Schedule


def schedule_factor(schedule: Schedule, position: float, epoch: float) -> float:
    """The factor on the learning rate, 0 to 1.

    Args:
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
class WeightGroup:
    """Weights that one optimiser moves, and its peak learning rate.

    `positions` are those of the weights in the list of all. `epochs` squeezes the schedule into
    that many epochs, after which the weights stay. `current_rate` is what the optimiser has now.
    """

    optimizer: keras.optimizers.Optimizer
    weights: list[keras.Variable]
    positions: list[int]
    learning_rate: float
    epochs: int | None
    current_rate: np.float32


def make_optimizers(settings: Optimizer, weights: list[keras.Variable]) -> list[WeightGroup]:
    """The groups of `weights` with their optimisers, as `train.optimizer` says.

    A weight belongs to the first group whose regular expression `match` is found in its path,
    and takes from the main settings what the group leaves open. A group may have none of these
    weights, as where a backbone is frozen.
    """
    positions_of: dict[int, list[int]] = {}  # by the number of the group, MAIN for none
    for position, weight in enumerate(weights):
        positions_of.setdefault(_group_number(weight, settings.groups), []).append(position)
    made = []
    for number, positions in sorted(positions_of.items()):
        own = {} if number == MAIN else settings.groups[number].model_dump(exclude_none=True)
        merged = settings.model_copy(
            update={key: value for key, value in own.items() if key not in ("match", "epochs")}
        )
        if merged.name == "muon":
            last = max(i for i, weight in enumerate(weights) if len(weight.shape) > 1)
            for_adam = [
                i for i in positions if len(weights[i].shape) < 2 or (i == last and number == MAIN)
            ]
            positions = [i for i in positions if i not in for_adam]
            if for_adam:
                rate = merged.learning_rate * ADAM_BESIDE_MUON
                adam = merged.model_copy(update={"name": "adam", "learning_rate": rate})
                made.append(_weight_group(adam, weights, for_adam, own.get("epochs")))
        if positions:
            made.append(_weight_group(merged, weights, positions, own.get("epochs")))
    return made


def check_groups(settings: Optimizer, weights: list[keras.Variable]) -> None:
    """Raise `UserError` for a group of `train.optimizer` that gets none of a model's `weights`."""
    taken = {_group_number(weight, settings.groups) for weight in weights}
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


MAIN = -1


def _group_number(weight: keras.Variable, groups: list[Group]) -> int:
    """Which of `groups` a weight belongs to; MAIN for none."""
    for number, group in enumerate(groups):
        if re.search(group.match, weight.path):
            return number
    return MAIN


def _weight_group(
    settings: Optimizer, weights: list[keras.Variable], positions: list[int], epochs: int | None
) -> WeightGroup:
    """The weights at `positions`, with an optimiser of their own."""
    optimizer = _make(settings)
    own = [weights[i] for i in positions]
    optimizer.build(own)
    rate = settings.learning_rate
    return WeightGroup(optimizer, own, positions, rate, epochs, np.float32(rate))


def _make(settings: Optimizer) -> keras.optimizers.Optimizer:
    common: dict[str, Any] = {
        "learning_rate": settings.learning_rate,
        "weight_decay": settings.weight_decay or None,
    }
    if settings.name in ("adam", "adamw"):  # whose weight decay is the same in Keras
        return FusedAdam(beta_1=settings.momentum, beta_2=settings.beta_2, **common)
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


class FusedAdam(keras.optimizers.Adam):
    """`keras.optimizers.Adam` on TensorFlow's fused kernel: one operation a weight, not fourteen.

    Same settings, state and results up to rounding. In a small net Keras' own takes nearly
    twice the time, and most of the operations of a step are its.
    """

    def update_step(
        self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor
    ) -> None:
        number = self._get_variable_index(variable)
        moments = self._momentums[number].value, self._velocities[number].value
        steps = tf.cast(self.iterations + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=moments[0].handle,
            v=moments[1].handle,
            beta1_power=tf.pow(tf.cast(self.beta_1, variable.dtype), steps),
            beta2_power=tf.pow(tf.cast(self.beta_2, variable.dtype), steps),
            lr=tf.cast(learning_rate, variable.dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tf.cast(gradient, variable.dtype),
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
        self,
        learning_rate: float = 0.02,
        momentum: float = 0.9,
        nesterov: bool = True,
        normalize_weights: bool = False,
        **options: Any,
    ):
        super().__init__(learning_rate=learning_rate, **options)
        self.momentum, self.nesterov = momentum, nesterov
        self.normalize_weights = normalize_weights

    def build(self, variables: list[keras.Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        self.momentums = self.add_optimizer_variables(variables, "momentum")

    def update_step(
        self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor
    ) -> None:
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

    def _orthogonalize(self, matrix: tf.Tensor) -> tf.Tensor:
        """The Newton-Schulz iteration: pushes all singular values towards 1.

        Take the singular value decomposition X = U S V'. One step of the iteration is
        X <- (a I + b X X' + c (X X')^2) X. As X X' = U S^2 U', this leaves U and V alone and maps
        each singular value s to a s + b s^3 + c s^5. The coefficients are chosen so that this
        polynomial takes small s up quickly and keeps large ones near 1: three steps bring all
        above 0.02 to between 0.68 and 1.21. The result is nearly U V', by matrix products alone.

        Here the matrix is multiplied only once. The polynomials P of all steps commute, being
        polynomials of the same Gram matrix G = X X', so their product can be collected first; and
        X <- P X makes G <- P G P. Both are square, with the shorter side of the matrix (X' X for
        a matrix that is higher than wide).
        """
        a, b, c = self.COEFFICIENTS
        matrix /= tf.norm(matrix) + 1e-7  # no singular value is above the Frobenius norm
        tall = matrix.shape[0] > matrix.shape[1]
        gram = tf.matmul(matrix, matrix, transpose_a=tall, transpose_b=not tall)
        product = identity = tf.eye(gram.shape[0])
        for _ in range(self.STEPS):
            polynomial = a * identity + b * gram + c * tf.matmul(gram, gram)
            product = tf.matmul(polynomial, product)
            gram = tf.matmul(polynomial, tf.matmul(gram, polynomial))
        return tf.matmul(matrix, product) if tall else tf.matmul(product, matrix)
