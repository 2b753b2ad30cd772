"""The last layer of a net whose backbone stays as it is: a logistic regression on its features.

A linear probe has one best solution and no learning rate, so it needs no epochs: L-BFGS finds it in
seconds. How strongly it is regularised is chosen by cross-validation on the training images, which
also tells how good it is on images that it did not learn from, and with how few photos.
"""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits

from stages.errors import UserError

FOLDS = 5
# scikit-learn's C, from a strong regularisation to a weak one; the sum over the images is weighed
# against the squares of the weights, of features with variance one.
STRENGTHS = tuple(float(f"{10 ** (power / 2):.1e}") for power in range(-8, 1))
PHOTOS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)  # of a class, to learn from
ITERATIONS = 500
ABSENT = -30.0  # the logit of a class without images: e to this is nothing


@dataclass(frozen=True)
class Photos:
    """What there is to learn from: `features` float32 (n, views, d); `labels` int (n,).

    `relatives` int (n,) is alike for images that must not be learned from and judged at once.
    `weights` float (classes,) are factors on the loss of each class.
    """

    features: np.ndarray
    labels: np.ndarray
    relatives: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


TINY = 1e-12  # in place of a probability of zero, which has no logarithm


class Point(NamedTuple):
    """Having learned from at most `photos` of a class, `images` in all, a layer gets `right` of
    the `judged`, which it did not learn from."""

    photos: int
    images: int
    right: int
    judged: int

    @property
    def accuracy(self) -> float:
        return self.right / self.judged


class Layer(NamedTuple):
    """A dense layer: `kernel` float32 (d, classes), `bias` float32 (classes,)."""

    kernel: np.ndarray
    bias: np.ndarray

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """float64 (n, classes) of `features`, float32 (n, d)."""
        logits = (features @ self.kernel).astype(np.float64) + self.bias
        logits -= logits.max(axis=1, keepdims=True)
        exponentials = np.exp(logits)
        return exponentials / exponentials.sum(axis=1, keepdims=True)

    def losses(self, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The cross-entropy of each image, float64 (n,)."""
        own = self.probabilities(features)[np.arange(len(labels)), labels]
        return -np.log(np.maximum(own, TINY))

    def weights(self, outputs: int) -> list[np.ndarray]:
        """As `keras.layers.Dense` holds them; of one of the `outputs`, the log-odds of class 1."""
        if outputs == 1:
            return [self.kernel[:, 1:] - self.kernel[:, :1], self.bias[1:] - self.bias[:1]]
        return [self.kernel, self.bias]


class Head(NamedTuple):
    """The `layer`; the `strength` chosen, one of `STRENGTHS`, and the loss of each in
    cross-validation; accuracy by number of photos, the last `Point` with all; and
    `held_out` float32 (n, classes), probabilities of each image by a layer that never saw it."""

    layer: Layer
    strength: float
    losses: list[float]
    curve: list[Point]
    held_out: np.ndarray


def threads_within(memory_limit: float, images: int, views: int, width: int) -> int:
    """How many layers may be fitted to features of `images` at once, within bytes of memory.

    Raises `UserError` if it takes more for one.
    """
    size = images * views * width * 4
    # Beside the features, each has a copy of its own to standardise, and 1/16 of it to work with.
    threads = int((memory_limit / size - 1) / 1.1)
    if not threads:
        raise UserError(
            f"train.memory_limit = {memory_limit / 2**30:g}: fitting the last layer to features of "
            f"{images:,} images takes {2.1 * size / 2**30:.2g} GiB; raise it, or learn from fewer "
            "images with train.debug.data_fraction"
        )
    return min(threads, os.cpu_count() or 1)


def fit_head(photos: Photos, seed: int, threads: int) -> Head:
    """Fit the last layer to `photos`. The number of `threads` makes no difference to it."""
    fold_of = folds(photos.labels, photos.relatives, seed)
    # In an order drawn by lot, so that the first few are no series of shots.
    drawn = np.random.Generator(np.random.Philox(key=[seed, 1])).permutation(len(photos))
    parts = [(drawn[fold_of[drawn] != k], np.flatnonzero(fold_of == k)) for k in range(FOLDS)]
    parts = [(learn, judge) for learn, judge in parts if len(learn) and len(judge)]
    if not parts:
        raise UserError(
            "all training images are related (copies, or one group), so that none is left to judge "
            "what was learned from the others; add images, or change split.group_by"
        )
    every = np.arange(len(photos))
    # It takes a second, and who trains all layers needs none of it. Not later: what is not loaded
    # by then is not limited.
    from stages.scikit import linear_model  # noqa: F401

    # One thread each: sums in another order would be other numbers.
    with threadpool_limits(1), Parallel(n_jobs=threads, prefer="threads") as parallel:
        losses = parallel(delayed(_losses)(photos, learn, judge) for learn, judge in parts)
        summed = np.sum(losses, axis=0)
        strength = STRENGTHS[int(np.argmin(summed))]
        largest = int(np.bincount(photos.labels).max())
        largest -= largest // FOLDS
        counts = [*(number for number in PHOTOS if number < largest), largest]
        chosen = [
            [learn[first_of_class(photos.labels[learn], most)] for learn, _ in parts]
            for most in counts
        ]
        # The longest first, so that at the end no thread waits for another.
        few_to_many = [some for each in chosen for some in each] + [every]
        fitted = parallel(delayed(_fit)(photos, some, (strength,)) for some in few_to_many[::-1])
    layers = [layer for (layer,) in reversed(fitted)]
    curve = []
    for number, (most, learned) in enumerate(zip(counts, chosen, strict=True)):
        held_out = np.zeros((len(photos), len(photos.weights)), np.float32)
        for (_, judge), layer in zip(parts, layers[number * len(parts) :], strict=False):
            held_out[judge] = layer.probabilities(photos.features[judge, 0])
        right = int((held_out.argmax(axis=1) == photos.labels).sum())
        images = round(sum(map(len, learned)) / len(learned))
        curve.append(Point(most, images, right, len(photos)))
    weight = float(photos.weights[photos.labels].sum())
    return Head(layers[-1], strength, (summed / weight).tolist(), curve, held_out)


def folds(labels: np.ndarray, relatives: np.ndarray, seed: int) -> np.ndarray:
    """The fold of each image, int (n,): relatives in one, the classes in equal shares in each."""
    _, first, group = np.unique(relatives, return_index=True, return_inverse=True)
    drawn = np.random.Generator(np.random.Philox(key=[seed, 0])).permutation(len(first))
    order = drawn[np.argsort(labels[first[drawn]], kind="stable")]
    fold_of_group = np.empty(len(first), np.int64)
    fold_of_group[order] = np.arange(len(first)) % FOLDS
    return fold_of_group[group]


def first_of_class(labels: np.ndarray, most: int) -> np.ndarray:
    """Positions of the first `most` images of each class, int (n,), ascending."""
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(order[place < most])


def _losses(photos: Photos, learn: np.ndarray, judge: np.ndarray) -> np.ndarray:
    """The summed loss on `judge` of layers fitted to `learn`, float64 (strengths,)."""
    labels, features = photos.labels[judge], photos.features[judge, 0]
    layers = _fit(photos, learn, STRENGTHS)
    weights = photos.weights[labels]
    return np.array([weights @ layer.losses(features, labels) for layer in layers])


def _fit(photos: Photos, learn: np.ndarray, strengths: Sequence[float]) -> list[Layer]:
    """A layer fitted to the images `learn` for each of `strengths`, one starting from the other.

    The classes weigh as much as among all `photos`: with few, a fold lacks what it judges, and a
    layer that goes by how many it saw of each class would name the others.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    views, classes = photos.features.shape[1], len(photos.weights)
    features = photos.features[learn].reshape(len(learn) * views, -1)
    labels = np.repeat(photos.labels[learn], views)
    every, some = (
        np.bincount(part, minlength=classes) for part in (photos.labels, photos.labels[learn])
    )
    share = every / len(photos) * len(learn) / np.maximum(some, 1)
    weights = (photos.weights * share)[labels] / views
    centre = features.mean(axis=0)
    features -= centre
    # A few columns at a time: it makes a copy of what it is given.
    spread = np.concatenate([part.std(axis=0) for part in np.array_split(features, 16, axis=1)])
    spread[spread < 1e-6] = 1
    features /= spread
    present = np.unique(labels)
    model = LogisticRegression(max_iter=ITERATIONS, warm_start=True)
    layers = []
    for strength in strengths:
        kernel = np.zeros((features.shape[1], len(photos.weights)), np.float32)
        bias = np.full(len(photos.weights), ABSENT, np.float32)
        if len(present) == 1:
            bias[present] = 0
        else:
            model.C = strength
            with warnings.catch_warnings():  # what is weakly regularised is not chosen
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(features, labels, weights)
            found, offset = model.coef_, model.intercept_
            if len(present) == 2:  # one row: the log-odds of the second class
                found, offset = np.concatenate([-found, found]) / 2, np.stack([-offset, offset]) / 2
            kernel[:, present] = found.T / spread[:, None]
            bias[present] = offset.reshape(-1) - centre @ kernel[:, present]
        layers.append(Layer(kernel, bias))
    return layers
