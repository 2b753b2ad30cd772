"""The last layer fitted to what the features stage left. Where the backbone stays as it is, that
is the whole job: no epochs, and no TensorFlow, which takes longer to start than this takes."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stages.files import EPOCHS, MODEL, SAVED_EPOCHS
from stages.inference.seen import few
from stages.parameters.model import Model
from stages.parameters.train import Train
from stages.store.features import (
    CLASSIFIER,
    PLAIN,
    Embedding,
    Features,
    network_of,
    read_embedding,
)
from stages.store.image_set import ImageSet
from stages.store.model import (
    REFERENCE_IMAGES,
    Calibration,
    ModelInfo,
    Reference,
    fitted,
    save_members,
)
from stages.store.outputs import Outputs, made_by
from stages.store.tables import write_table
from stages.training.batches import TrainingImages, class_weights, drawn, training_images
from stages.training.calibrate import CALIBRATION_IMAGES, Sample, calibrate
from stages.training.checkpoint import Checkpoint
from stages.training.head import Head, Photos, fit_head, threads_within
from stages.training.log import EpochLog, Row, Scores, TensorBoardLog, Timing, times
from stages.training.outcome import VARIANTS, write_outcome


class Fit(NamedTuple):
    """A last layer, how good it is, as epoch 0, and the `seconds` it took.

    `embedding` says of which features; `judged` are those of the images it was judged on, float32
    (n, d), and labels int (n,), by side.
    """

    head: Head
    row: Row
    seconds: float
    embedding: Embedding
    judged: dict[str, tuple[np.ndarray, np.ndarray]]


def fit_last_layer(
    settings: Train,
    train_set: ImageSet,
    images: TrainingImages,
    validation: ImageSet | None,
    relatives: np.ndarray,
    folder: Path,
    check: Callable[[Embedding], bool],
) -> Fit:
    """Fit a last layer to the features in `folder` of `images`, which are some of `train_set`.

    `relatives` int (n,) are numbers that those of `train_set` share which must not be learned from
    and judged at once. `check` tells whether the features are of the right network.
    """
    classes, count = len(train_set.dataset.classes), len(images)
    with made_by("features", folder):
        embedding = read_embedding(folder)
        if embedding is None or not check(embedding):
            raise ValueError("its features are those of another network")

        def features(rows: np.ndarray, view: str = PLAIN) -> np.ndarray:
            return Features(folder, train_set.pixels.starts, view).take(rows)

        views, width = embedding.views, embedding.width
        threads = threads_within(settings.memory_limit * 2**30, count, len(views), width)
        seen = np.empty((count, len(views), width), np.float32)
        for number, view in enumerate(views):
            seen[:, number] = features(images.rows, view)
        judged = {"train": (seen[:, 0], images.labels)}
        if validation:
            judged["val"] = features(validation.rows), validation.labels
    weights = class_weights(settings.class_weights, images.labels, classes)
    weights = np.ones(classes) if weights is None else weights
    photos = Photos(seen, images.labels, relatives[images.chosen], weights)
    started = time.perf_counter()
    head = fit_head(photos, settings.seed, threads)
    seconds = round(time.perf_counter() - started, 3)
    figures: dict[str, float] = {}
    for side, (features_of_side, labels) in judged.items():
        predicted = head.layer.probabilities(features_of_side).argmax(axis=1)
        confusion = np.zeros((classes, classes), np.int64)
        np.add.at(confusion, (labels, predicted), 1)
        scores = Scores.of(confusion, float(head.layer.losses(features_of_side, labels).sum()))
        figures |= {f"{side}/{name}": value for name, value in scores._asdict().items()}
    point = head.curve[-1]
    print(
        f"last layer fitted to features of {count:,} images; in cross-validation "
        f"{point.right:,} of {point.judged:,} are right ({point.accuracy:.1%})",
        flush=True,
    )
    return Fit(head, Row(0, figures), seconds, embedding, judged)


class FrozenJob:
    """Fits the last layer of the net that `model` describes to features of `train_set`.

    The other arguments are those of `stages.training.job.Job`.
    """

    def __init__(
        self,
        model: Model,
        settings: Train,
        train_set: ImageSet,
        validation: ImageSet | None,
        relatives: np.ndarray,
        features: Path,
        folder: Path,
    ):
        self.model, self.settings, self.features = model, settings, features
        self.train_set, self.images = train_set, training_images(train_set, settings, 0)
        network = network_of(model)
        self.fit = fit_last_layer(
            settings,
            train_set,
            self.images,
            validation,
            relatives,
            features,
            lambda embedding: embedding.network == network,
        )
        self.checkpoint = Checkpoint(folder, "frozen")  # for its log; there is no state to keep

    def train(self, tensorboard: Path) -> dict[str, Any]:
        """Log how good the last layer is; figures for reports/timing.json."""
        log = EpochLog(self.checkpoint.log)
        log([self.fit.row])
        if self.settings.debug.tensorboard:
            TensorBoardLog(tensorboard)([self.fit.row])
        log.end(
            {
                "best_epoch": 0,
                "epochs": 0,
                "cross_validated_accuracy": self.fit.head.curve[-1].accuracy,
                "precision": "float32",
            }
        )
        return times([Timing(0, None, None, self.fit.seconds)])

    def save(self, outputs: Outputs) -> None:
        """As `stages.training.job.Job.save`."""
        fit, dataset = self.fit, self.train_set.dataset
        calibration, reference = self._calibrate()
        print(calibration.describe(), flush=True)
        weights = fit.head.layer.weights(self.model.outputs(len(dataset.classes)))
        with made_by("features", self.features):
            members = fitted(self.features / CLASSIFIER, weights, calibration.temperature)
        info = ModelInfo(
            classes=dataset.classes,
            shape=dataset.shape,
            preprocess=dataset.preprocess,
            parameters=fit.embedding.parameters,
            calibration=calibration,
            model=self.model.model_dump(),
            train={
                "images": len(self.images),
                "epochs": 0,
                "best_epoch": 0,
                "precision": "float32",
                "seed": self.settings.seed,
            },
        )
        save_members(members, outputs.file(MODEL), info, reference)
        write_table(outputs.directory(EPOCHS) / SAVED_EPOCHS, ["file"], [])
        write_outcome(
            outputs,
            self.checkpoint.log,
            self._variants(),
            label_confidence(fit.head, self.images, len(self.train_set)),
            fit.head.curve,
        )

    def _calibrate(self) -> tuple[Calibration, Reference]:
        seed, layer, held_out = self.settings.seed, self.fit.head.layer, None
        if "val" in self.fit.judged:
            seen, labels = self.fit.judged["val"]
            at = drawn(labels, seed, CALIBRATION_IMAGES)
            held_out = Sample(labels[at], layer.probabilities(seen[at]), few(seen[at]))
        seen, labels = self.fit.judged["train"]
        trained = few(seen[drawn(labels, seed, REFERENCE_IMAGES)])
        return calibrate(trained, held_out, len(self.train_set.dataset.classes), seed)

    def _variants(self) -> np.ndarray:
        """An image in the views that the last layer learns from, in turn."""
        image = self.images.take(np.array([0]))[0]
        views = [image, image[:, ::-1]][: len(self.fit.embedding.views)]
        return np.stack([views[number % len(views)] for number in range(VARIANTS)])


def label_confidence(head: Head, images: TrainingImages, count: int) -> np.ndarray:
    """How sure layers that never saw the image were of the class of each of `count` images, float32
    (count,), 0 to 1; NaN for those that are not among `images`."""
    out = np.full(count, np.nan, np.float32)
    out[images.chosen] = head.held_out[np.arange(len(images)), images.labels]
    return out
