"""The frozen part of a transfer-learning net on its own, made fast: what it makes of images."""

import stages.quiet  # noqa: F401  before what it keeps quiet, on the machines of a cluster too

# isort: split
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from threading import Lock

import keras
import numpy as np
import tensorflow as tf

from stages.errors import UserError
from stages.inference.deployable import Deployable
from stages.inference.fold import folded
from stages.inference.frozen import frozen_part, identity
from stages.parameters.model import Model
from stages.store.features import PLAIN, Known, shard_path, write_shard
from stages.store.processed import Pixels
from stages.workers import cluster, each, own_folder, this_worker

# Always so many images at a time, the last ones filled up: TensorFlow's libraries choose how to
# compute by the size of a batch, and an image's features must not depend on its neighbours.
BATCH = 16


class Backbone:
    """The net of `settings`, with its weights, up to what its last layer takes.

    Called with uint8 (n, *shape), n at most `BATCH`, it gives float32 (n, width). `key` tells it
    from any other. It is part of `classifier`, whose last layer is yet to be fitted.
    """

    def __init__(self, settings: Model, shape: tuple[int, int, int], classes: int):
        keras.utils.clear_session(free_memory=False)  # layers are named as in any other process
        self.classifier = Deployable(settings, shape, classes)
        part = frozen_part(self.classifier.net)
        self.key, self.width = identity(part), part.output_shape[-1]
        fast, self._shape = folded(part), (BATCH, *shape)
        signature = [tf.TensorSpec(self._shape, tf.uint8)]
        self._forward = tf.function(
            lambda images: fast(tf.cast(images, tf.float32), training=False), signature
        )

    def __call__(self, images: np.ndarray) -> np.ndarray:
        batch = np.zeros(self._shape, np.uint8)
        batch[: len(images)] = images
        return self._forward(batch).numpy()[: len(images)]

    def trial(self) -> str:
        """A digest of what it makes of made-up images, alike on machines that compute alike."""
        images = np.random.default_rng(0).integers(0, 256, self._shape, np.uint8)
        return hashlib.sha256(self(images).tobytes()).hexdigest()


@dataclass(frozen=True)
class Part:
    """The shard `number` of images: those from the global row `first` on, with these `digests` S32
    (n,), and what is known of them. The features are to be written in `folder`."""

    number: int
    first: int
    digests: np.ndarray
    known: Known
    folder: Path


@dataclass(frozen=True)
class PartDone:
    """Of the images of a shard so many were `computed`, beside `damaged` files of known ones."""

    path: Path
    computed: int
    damaged: list[Path]


def embed(
    model: Model,
    backbone: Backbone,
    pixels: Pixels,
    digests: np.ndarray,
    known: Known,
    views: list[str],
    folder: Path,
    seen: Callable[[int], object],
) -> Iterator[PartDone]:
    """Write the features of all `pixels`, with these `digests` S32 (n,), in `folder`, shard by
    shard, here or in the cluster. `seen` is told how many more images have been computed."""
    parts = (
        Part(number, first, digests[first:last], known.of(digests[first:last]), folder)
        for number, (first, last) in enumerate(pairwise(pixels.starts.tolist()))
    )
    if not cluster():
        for part in parts:
            yield _embed_part(part, backbone, pixels, views, shard_path(folder, part.number), seen)
        return
    work = partial(
        _embed_at_worker, model=model, trial=backbone.trial(), pixels=pixels, views=views
    )
    for done in each(work, parts):
        path = done.path.replace(folder / done.path.name)
        done.path.parent.rmdir()
        seen(done.computed)
        yield PartDone(path, done.computed, done.damaged)


def _embed_part(
    part: Part,
    backbone: Backbone,
    pixels: Pixels,
    views: list[str],
    path: Path,
    seen: Callable[[int], object] = lambda count: None,
) -> PartDone:
    count = len(part.digests)
    features = {view: np.empty((count, backbone.width), np.float32) for view in views}
    new = np.flatnonzero(~part.known.take(part.digests, features))
    for some in np.split(new, range(BATCH, len(new), BATCH)):
        images = pixels.take(part.first + some)
        for view in views:
            features[view][some] = backbone(images if view == PLAIN else images[:, :, ::-1])
        seen(len(some))
    write_shard(path, part.digests, features)
    return PartDone(path, len(new), part.known.damaged)


def _embed_at_worker(
    part: Part, model: Model, trial: str, pixels: Pixels, views: list[str]
) -> PartDone:
    backbone = _backbone(model.model_dump_json(), pixels.shape, trial)
    path = shard_path(own_folder(part.folder), part.number)
    return _embed_part(part, backbone, pixels, views, path)


_BUILDING = Lock()


def _backbone(settings: str, shape: tuple[int, int, int], trial: str) -> Backbone:
    with _BUILDING:  # one net for all threads of a worker
        return _built(settings, shape, trial)


@lru_cache(maxsize=1)
def _built(settings: str, shape: tuple[int, int, int], trial: str) -> Backbone:
    # For any number of classes: the last layer is not computed here.
    backbone = Backbone(Model.model_validate_json(settings), shape, 2)
    if backbone.trial() != trial:
        raise UserError(
            f"{this_worker()} computes other features than this machine: another TensorFlow, or "
            "another kind of processor; use machines of one kind with the same requirements"
        )
    return backbone
