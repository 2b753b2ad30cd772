"""When to believe the model: sets of classes that hold the right one as often as asked, images
unlike the training images, what to label next, and whether new images come from where the training
images came from. Arrays in, arrays out; no model is run.

Each method is the simplest of those measured on CIFAR-10, MNIST and digits:

- Sets by the probability of the class (LAC; Sadinle et al. 2019) are the smallest: 1.30 classes at
  90 % on CIFAR-10, where adaptive sets (APS, RAPS) have 1.33.
- Distance to the nearest training image (Sun et al. 2022, arXiv:2204.06507) tells noise and classes
  never seen from test images better than the highest probability, Mahalanobis distances do so
  on some sets only.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

# Prediction sets


def set_threshold(probabilities: np.ndarray, labels: np.ndarray, coverage: float) -> float | None:
    """The least probability of a class in a set, so that sets hold the right class often enough.

    Split conformal prediction: of new images that are like these ones (`probabilities` (n,
    classes), `labels` (n,), not trained on), at least the share `coverage` has its class in
    `prediction_sets`. 1.0 where the predicted class alone does that; None where n is too small to
    tell.
    """
    predicted = probabilities.argmax(axis=1)
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    limit = quantile(-np.where(predicted == labels, 1.0, own), coverage)
    return None if limit is None else -limit


def prediction_sets(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """bool (n, classes): the classes of at least this probability, and always the predicted one."""
    sets = probabilities >= threshold
    sets[np.arange(len(sets)), probabilities.argmax(axis=1)] = True
    return sets


def quantile(scores: np.ndarray, share: float) -> float | None:
    """What at least `share` of new scores do not exceed, if they are like `scores` (n,).

    None where n is too small for a share so near to 1: one new score more would have to be
    the highest.
    """
    rank = math.ceil((len(scores) + 1) * share - 1e-9)
    return float(np.sort(scores)[max(rank, 1) - 1]) if rank <= len(scores) else None


def images_for(share: float) -> int:
    """The fewest scores for which `quantile` knows this `share`."""
    return math.ceil(share / (1 - share) - 1e-9)


def named(
    sets: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]
) -> Iterator[list[str]]:
    """The names of the classes in each of `prediction_sets`, the most probable first."""
    sizes = sets.sum(axis=1)  # each holds the first so many
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, : sizes.max(initial=0)]
    return (
        [classes[k] for k in row[:size]]
        for row, size in zip(order.tolist(), sizes.tolist(), strict=True)
    )


def joined(names: Iterable[str]) -> str:
    r"""Names of classes as one text: cat|dog; a | or \ of a name follows a \."""
    return "|".join(name.replace("\\", "\\\\").replace("|", "\\|") for name in names)


# Unlike the training images: far from the nearest (stages/inference/probabilities.py)


def directions(features: np.ndarray) -> np.ndarray:
    """`features` (n, d) at length 1, float32."""
    features = features.astype(np.float32)
    # By their largest first, so that no square overflows.
    features /= np.maximum(np.abs(features).max(axis=1, keepdims=True, initial=0), 1e-30)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-30)


def nearest_other(features: np.ndarray) -> np.ndarray:
    """1 - cosine of each of `features` (n, d) to the nearest of the others, float32 (n,), n > 1."""
    unit = directions(features)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -1)
    return 1 - cosines.max(axis=1)


def plane(trained: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (d,) and the first two principal components (d, 2) of features (n, d): a map of images.

    Of the training images, so that any image has its place on the map, whatever else is there.
    """
    from scipy.linalg import eigh
    from threadpoolctl import threadpool_limits

    features = trained.astype(np.float64)
    images, width = features.shape
    mean = features.mean(axis=0) if images else np.zeros(width)
    features -= mean
    few = 0 < images < width  # the smaller of two products has the same components
    # By several threads, the sums would depend on their number, and beside TensorFlow's these wait
    # for one another longer than the work takes.
    with threadpool_limits(1):
        product = features @ features.T if few else features.T @ features
        count = min(2, len(product))
        _, axes = eigh(product, subset_by_index=[len(product) - count, len(product) - 1])
        axes = axes[:, ::-1]
        if few:
            axes = features.T @ axes
            axes /= np.maximum(np.linalg.norm(axes, axis=0), 1e-30)
    largest = np.abs(axes).argmax(axis=0)
    axes = axes * np.sign(axes[largest, np.arange(count)])  # eigenvectors have no sign of their own
    return mean, np.pad(axes, [(0, 0), (0, 2 - count)])


# What to label next

POOL = 20  # of the most uncertain images, so many times those asked for are chosen among


def uncertainty(probabilities: np.ndarray) -> np.ndarray:
    """1 minus how much more probable the first class is than the second, (n,)."""
    if probabilities.shape[1] < 2:
        return np.zeros(len(probabilities))
    second, first = np.sort(probabilities, axis=1)[:, -2:].T
    return 1 - (first.astype(np.float64) - second)


class Shortlist:
    """The most uncertain of the images added, with features; memory is that of the list alone."""

    def __init__(self, count: int):
        self.count = count
        self._positions = np.empty(0, int)
        self._uncertain = np.empty(0)
        self._features: np.ndarray | None = None

    def add(
        self, positions: Sequence[int], probabilities: np.ndarray, features: np.ndarray
    ) -> None:
        """Images at `positions`, in ascending order from call to call."""
        known = features[:0] if self._features is None else self._features
        self._positions = np.concatenate([self._positions, np.asarray(positions, int)])
        self._uncertain = np.concatenate([self._uncertain, uncertainty(probabilities)])
        self._features = np.concatenate([known, features])
        if len(self._positions) > 2 * POOL * self.count:
            self._cut()

    def choose(self) -> list[int]:
        """Positions of the images to label, the most telling first: uncertain, and each different
        from those before it.

        The next image is the one with the highest uncertainty times squared distance to the
        nearest one chosen: k-means++ (Arthur and Vassilvitskii 2007) with uncertainties as weights,
        taking the likeliest instead of drawing.
        """
        self._cut()
        if self._features is None:
            return []
        points, chosen = directions(self._features), []
        worth = self._uncertain.copy()
        nearest = np.full(len(points), np.inf)
        for _ in range(min(self.count, len(points))):
            at = int(worth.argmax())
            chosen.append(at)
            nearest = np.minimum(nearest, np.maximum(1 - points @ points[at], 0))
            worth = self._uncertain * nearest
            worth[chosen] = -1
        return self._positions[chosen].tolist()

    def _cut(self) -> None:
        if self._features is None:
            return
        order = np.argsort(-self._uncertain, kind="stable")[: POOL * self.count]
        order.sort()
        self._positions, self._uncertain = self._positions[order], self._uncertain[order]
        self._features = self._features[order]


# Drift

PERMUTATIONS = 999
ALARM = 0.01  # p-values below are called drift


def two_sample_test(held_out: np.ndarray, new: np.ndarray) -> tuple[float, float]:
    """Do features `held_out` (n, d) and `new` (m, d) come from one place? ROC-AUC and p-value.

    A classifier two-sample test (Lopez-Paz and Oquab 2017, arXiv:1610.06545): if a classifier can
    tell images of the one from images of the other that it has not learnt from, they differ. The
    ROC-AUC is 0.5 where it cannot. The p-value is the share of random swaps between the two
    after which a classifier, trained anew, does at least as well; it holds whatever the features.

    The classifier is linear, by least squares with a penalty: its predictions for images left
    out follow in closed form (r / (1 - h), as PRESS does), so that a thousand of them
    cost two products of matrices where a thousand logistic regressions cost minutes.
    """
    from sklearn.metrics import roc_auc_score

    features = np.concatenate([held_out, new]).astype(np.float64)
    features -= features.mean(axis=0)
    features /= np.maximum(features.std(axis=0), 1e-12)
    side = np.repeat([-1.0, 1.0], [len(held_out), len(new)])
    # Of the penalised hat matrix Q Q': with it, `fitted` = Q Q' (side - mean) + mean.
    left, values, _ = np.linalg.svd(features, full_matrices=False)
    share = values**2 / (values**2 + PENALTY * len(features))
    root = left * np.sqrt(share)
    leverage = (root**2).sum(axis=1) + 1 / len(features)

    def left_out(sides: np.ndarray) -> np.ndarray:
        """Predictions (n + m, k) for `sides` (n + m, k), each by all others."""
        mean = sides.mean(axis=0)
        fitted = root @ (root.T @ (sides - mean)) + mean
        return sides - (sides - fitted) / (1 - leverage)[:, None]

    def error(sides: np.ndarray) -> np.ndarray:
        return ((sides - left_out(sides)) ** 2).sum(axis=0)

    random = np.random.Generator(np.random.Philox(0))
    swapped = np.stack([random.permutation(side) for _ in range(PERMUTATIONS)], axis=1)
    mine = error(side[:, None])[0]
    better = int((error(swapped) <= mine + 1e-9).sum())
    found = left_out(side[:, None])[:, 0]
    return float(roc_auc_score(side, found)), (1 + better) / (1 + PERMUTATIONS)


PENALTY = 0.1  # on the squared weights of standardised features, times the number of images
