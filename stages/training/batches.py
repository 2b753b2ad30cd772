"""Batches of training images in a seeded order, made ready while the model computes.

Every epoch is a true shuffle of all images, a function of seed and epoch alone: whether the
pixels lie in memory or are read from the shards makes no difference to the batches.
"""

import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stages.store.image_set import ImageSet

if TYPE_CHECKING:
    from stages.parameters.train import Train

AHEAD = 4  # batches made ready in advance


@dataclass(frozen=True)
class Batch:
    """`images` uint8 (n, h, w, c), `labels` int32 (n,), `index` int64 (n,) in the training set,
    `turns` int64 (n,), how often each was in a batch before.

    Where machines share a batch, `images` and `labels` are those of this one: `places` int64 says
    where in `index` and `turns`, which are those of the whole batch.
    """

    images: np.ndarray
    labels: np.ndarray
    index: np.ndarray
    turns: np.ndarray
    places: np.ndarray | None = None


def bounds(count: int, parts: int) -> list[int]:
    """Where `parts` of `count` begin, and where the last ends: as equal as can be, as
    `np.array_split` cuts them."""
    size, larger = divmod(count, parts)
    return [number * size + min(number, larger) for number in range(parts + 1)]


class TrainingImages:
    """The training images: in memory if they take at most `memory_limit` bytes, else streamed.

    `chosen` int64 are positions in `image_set`, all if not given; the positions used from here on
    count within them. `shape` is (h, w, c). `as_needed`: read no image before it is asked for.
    """

    def __init__(
        self,
        image_set: ImageSet,
        memory_limit: float,
        chosen: np.ndarray | None = None,
        as_needed: bool = False,
    ):
        self._pixels, self.shape = image_set.pixels, image_set.dataset.shape
        self.chosen = np.arange(len(image_set)) if chosen is None else chosen
        self.rows, self.labels = image_set.rows[self.chosen], image_set.labels[self.chosen]
        in_memory = len(self.rows) * int(np.prod(self.shape)) <= memory_limit
        self._images = self._unread = None
        if in_memory and as_needed:
            self._images = np.empty((len(self.rows), *self.shape), np.uint8)
            self._unread = np.ones(len(self.rows), bool)
        elif in_memory:
            self._images = self._pixels.take(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: np.ndarray) -> np.ndarray:
        """Images at positions `index`, uint8 (len(index), h, w, c)."""
        if self._images is None:
            return self._pixels.take(self.rows[index])
        if self._unread is not None and self._unread[index].any():
            new = np.unique(index[self._unread[index]])
            self._images[new] = self._pixels.take(self.rows[new])
            self._unread[new] = False
        return self._images[index]


def epoch_order(labels: np.ndarray, seed: int, epoch: int, sampling: str = "uniform") -> np.ndarray:
    """Positions of the images of one epoch, int64 (n,), in order.

    `uniform`: every image once. `balanced`: as many draws, equally many from each class.
    """
    random = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    if sampling == "uniform":
        return random.permutation(len(labels))
    by_class = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    # Sampling with replacement would show some images of a rare class often and leave others out
    # by chance. So each class is drawn like cards: its images are shuffled and dealt one by one,
    # and shuffled anew when all have been dealt, until the class has had its number of draws. How
    # often two images of a class come up then differs by one at most.
    draws = [len(part) for part in np.array_split(np.arange(len(labels)), len(by_class))]
    dealt = []
    for images, count in zip(by_class, draws, strict=True):
        shuffles = [random.permutation(images) for _ in range(math.ceil(count / len(images)))]
        dealt.append(np.concatenate(shuffles)[:count])
    return random.permutation(np.concatenate(dealt))


def hardest(order: np.ndarray, losses: np.ndarray, count: int) -> np.ndarray:
    """The `count` of the images in `order` with the highest of `losses` (one for each image,
    infinite for one that was never seen), int64 (count,), in that order; the first of equal ones.

    Late in a training most images are known well: their gradients say little, and each costs as
    much as one that is not. To leave them out by an earlier loss is the idea of the fastest
    training to 96 % on CIFAR-10 (airbench96_faster, github.com/KellerJordan/cifar10-airbench) and
    of InfoBatch (Qin et al. 2024, arXiv:2303.04947). An image that was left out comes back when
    those that were not have become easier than it was. In a long training the net may
    learn by heart those that stay hard, and lose by it (recipes/cifar10.yaml).
    """
    highest = np.argsort(-losses[order], kind="stable")[:count]
    return order[np.sort(highest)]


def turns(order: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """How often each image was used before it comes up in `order`, int64 (len(order),): `seen`
    int64 (n,) times before this order, and in it, where an image may be more than once."""
    by_image = np.argsort(order, kind="stable")
    images = order[by_image]
    within = np.empty(len(order), np.int64)
    within[by_image] = np.arange(len(order)) - np.searchsorted(images, images)
    return seen[order] + within


# Numbers of draws beyond all epochs', so that no two are alike.
FRACTION_DRAW, ADAPT_DRAW, SAMPLE_DRAW = 2**63, 2**63 + 1, 2**63 + 2


def drawn(labels: np.ndarray, seed: int, count: int) -> np.ndarray:
    """At most `count` positions, int64 (m,), drawn by lot, sorted to read the disk once."""
    return np.sort(epoch_order(labels, seed, SAMPLE_DRAW)[:count])


def fraction(labels: np.ndarray, seed: int, count: int) -> np.ndarray:
    """The positions, int64 (count,), of so many training images that debug.data_fraction leaves."""
    return np.sort(epoch_order(labels, seed, FRACTION_DRAW)[:count])


def training_images(
    train_set: ImageSet, settings: "Train", memory_limit: float, as_needed: bool = False
) -> TrainingImages:
    """All of `train_set`, or `debug.data_fraction` of it; in memory if within so many bytes."""
    chosen = None
    if settings.debug.data_fraction < 1:
        count = max(1, round(len(train_set) * settings.debug.data_fraction))
        chosen = fraction(train_set.labels, settings.seed, count)
    return TrainingImages(train_set, memory_limit, chosen, as_needed)


def class_weights(kind: str, labels: np.ndarray, classes: int) -> np.ndarray | None:
    """Factors on the loss of each class, float32 (classes,), for `labels` int (n,); None where all
    are one. `kind` is the setting train.class_weights."""
    if kind == "none":
        return None
    counts = np.maximum(np.bincount(labels, minlength=classes), 1)
    return (len(labels) / (counts * classes)).astype(np.float32)


class Prefetcher:
    """Iterates over batches that a thread makes ready; `waited` is seconds spent waiting.

    `order` are positions in `images`, and `turns` how often each was used before; the batch number
    `first` is the first one. `places` says which of a batch of so many images this machine reads;
    all if not given.
    """

    def __init__(
        self,
        images: TrainingImages,
        order: np.ndarray,
        turns: np.ndarray,
        batch_size: int,
        first: int = 0,
        places: Callable[[int], np.ndarray] | None = None,
    ):
        self.waited = 0.0
        self._places = places
        self._images, self._order, self._turns = images, order, turns
        self._batch_size = batch_size
        self._starts = range(first * batch_size, len(order), batch_size)
        self._ready: queue.Queue[Batch | BaseException | None] = queue.Queue(AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            for start in self._starts:
                end = start + self._batch_size
                index, turns = self._order[start:end], self._turns[start:end]
                places = self._places(len(index)) if self._places else None
                own = index if places is None else index[places]
                images, labels = self._images.take(own), self._images.labels[own]
                batch = Batch(images, labels, index, turns, places)
                if not self._put(batch):
                    return
            self._put(None)
        except BaseException as error:  # raised again where the batches are used
            self._put(error)

    def _put(self, item: Batch | BaseException | None) -> bool:
        """Add to the queue; False if nobody takes from it any more."""
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator[Batch]:
        try:
            while True:
                start = time.perf_counter()
                item = self._ready.get()
                self.waited += time.perf_counter() - start
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self._stop.set()
            self._thread.join()
