"""A training job put together: data, model, learner and checkpoint as the settings say; and what
it leaves, the model for use."""

import math
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from sklearn.metrics import confusion_matrix

from stages.architectures import adapt_model, build_model, portable
from stages.augmentation import Augmentation
from stages.errors import UserError
from stages.files import LEARNING_CURVE_COLUMNS
from stages.inference.frozen import frozen_part, identity
from stages.inference.seen import MOST_FEATURES
from stages.parameters.augment import Augment
from stages.parameters.model import Model
from stages.parameters.train import Train
from stages.store.features import PLAIN, Features, read_embedding
from stages.store.image_set import ImageSet
from stages.store.model import REFERENCE_IMAGES, Calibration, ModelInfo, save_model
from stages.store.outputs import made_by
from stages.store.tables import write_table
from stages.training import environment
from stages.training.batches import (
    ADAPT_DRAW,
    TrainingImages,
    drawn,
    epoch_order,
    fraction,
)
from stages.training.calibrate import (
    CALIBRATION_IMAGES,
    Sample,
    calibrate,
    observed,
)
from stages.training.checkpoint import Checkpoint, fingerprint
from stages.training.head import Head, Photos, fit_head, threads_within
from stages.training.learner import Learner, Scores
from stages.training.log import EpochLog, Row, TensorBoardLog, Timing
from stages.training.loop import Result, fit

# The model for use: raw pixels in, class probabilities out, float32, Keras' own layers only


class Deployable:
    """The `model` for use: uint8 (n, h, w, c) in, float32 probabilities (n, classes) out.

    `shape` (h, w, c) is that of the processed images; `memory` bounds what training its weights
    may take. `net` is the part that learns: uint8 images in, logits out.
    """

    def __init__(
        self,
        settings: Model,
        shape: tuple[int, int, int],
        classes: int,
        memory: float = float("inf"),
    ):
        outputs = number_of_outputs(settings, classes)
        self.net = portable(
            build_model(settings.name, shape, outputs, settings.settings, settings.weights, memory)
        )
        self.parameters = self.net.count_params()
        images = keras.Input(shape, dtype="uint8", name="images")
        # Its scale is 1 / T once the temperature T is known (stages/training/calibrate.py).
        self._temperature = keras.layers.Rescaling(1.0, name="temperature")
        logits = self._temperature(self.net(images))
        if outputs == 1:  # from the logit of class 1 to two columns with its sigmoid
            halves = [keras.layers.Rescaling(scale)(logits) for scale in (-0.5, 0.5)]
            logits = keras.layers.Concatenate()(halves)
        probabilities = keras.layers.Softmax(name="probabilities")(logits)
        self.model = keras.Model(images, probabilities, name="classifier")

    def activations(self) -> int:
        """Numbers an image leaves in the net for the backward pass, at least: what its layers
        with weights put out."""
        return sum(
            math.prod(filter(None, tensor.shape[1:]))
            for layer in self.net._flatten_layers(include_self=False)
            if layer.trainable_weights and not isinstance(layer, keras.Model)
            for tensor in keras.tree.flatten(getattr(layer, "output", []))
        )

    def set_temperature(self, temperature: float) -> None:
        """Divide the logits by `temperature` from the next compilation of `model` on."""
        self._temperature.scale = 1 / temperature

    def set_weights(self, weights: list[np.ndarray]) -> None:
        """Take over the weights of the trained net, in the order of its `get_weights()`."""
        self.net.set_weights(weights)
        for layer in self.net._flatten_layers():
            if isinstance(layer, keras.layers.Normalization):
                layer.finalize_state()


def number_of_outputs(settings: Model, classes: int) -> int:
    """Logits of the net: one a class, or a single one for `model.output: sigmoid`."""
    return 1 if settings.output == "sigmoid" else classes


ADAPT_IMAGES = 5000  # training images, drawn by lot, that an architecture takes statistics from
VARIANTS = 20  # of one image, to see what augmentation does


class JobSettings(NamedTuple):
    """The sections of params.yaml that a training job reads."""

    augment: Augment
    model: Model
    train: Train


class Job:
    """Trains the model that `settings` describe on `train_set`.

    Args:
        validation: an `ImageSet` to choose the best epoch by, or None.
        relatives: int (n,), numbers that training images share which must not be learned from and
            judged at once.
        features: the folder with the features of the backbone, if it is not trained from the start.
        folder: where the state and the log are kept until `checkpoint.delete()`.
        files: what the outcome depends on beside the settings, data and code: a state kept with
            other content of these files is not continued.
    """

    def __init__(
        self,
        settings: JobSettings,
        train_set: ImageSet,
        validation: ImageSet | None,
        relatives: np.ndarray,
        features: Path,
        folder: Path,
        files: Iterable[str | Path],
    ):
        self.settings, self.train_set, self.validation = settings, train_set, validation
        train, dataset = settings.train, train_set.dataset
        self.frozen = settings.model.backbone == "frozen"
        self.strategy = environment.start(train.devices, train.deterministic)
        self.precision = "float32"
        if not self.frozen:
            self.precision = environment.choose_precision(train.precision)
            print(environment.describe(train.devices, self.precision), flush=True)
        # Both nets start from the same names and seeds, so that a weight's path is what the
        # saved model shows.
        environment.reset(train.seed, "float32")
        self.memory = environment.memory()
        self.deployable = Deployable(
            settings.model, dataset.shape, len(dataset.classes), self.memory
        )
        environment.reset(train.seed, self.precision)
        self.images = self._training_images()
        self.head: Head | None = None
        self.seen: tuple[np.ndarray, Sample | None] | None = None  # for `calibrate`, if known
        self.start = (
            None if settings.model.backbone == "trained" else self._fit_head(features, relatives)
        )
        augment = settings.augment
        if self.frozen:  # an image and its mirror image are all that the last layer learns from
            augment = Augment(horizontal_flip=augment.horizontal_flip)
        self.augmentation = Augmentation(augment, dataset.shape)
        if not self.frozen:
            self._check_memory()
            self.learner = self._learner()
        self.checkpoint = Checkpoint(folder, self._fingerprint(files))

    def train(self, tensorboard: Path, each_epoch: Callable[[], None] = lambda: None) -> Result:
        """Train to the end, from the start or the last checkpoint, with an epoch log.

        The log grows in `checkpoint.log`, where a run that fails leaves it. `each_epoch` is
        called when an epoch is safe on the disk, and may raise.
        """
        settings = self.settings.train
        log = EpochLog(self.checkpoint.log)
        logs: list[Callable[[list[Row]], None]] = [log]
        if settings.debug.tensorboard:
            logs.append(TensorBoardLog(tensorboard))
        logs.append(lambda rows: each_epoch())
        if self.frozen and self.start:
            timing = Timing(0, None, None, self.fitting)
            weights = self.deployable.net.get_weights()
            result = Result(weights, 0, [self.start], [timing], np.empty(0))
            for write in logs:
                write(result.rows)
        else:
            result = fit(
                self.learner,
                self.images,
                self.validation,
                self.checkpoint,
                logs,
                self.start,
                settings.save_epochs,
                tensorboard if settings.debug.profile else None,
            )
        summary: dict[str, float | str] = {
            "best_epoch": result.best,
            "epochs": result.rows[-1].epoch,
        }
        if self.head:
            point = self.head.curve[-1]
            summary["cross_validated_accuracy"] = point.right / point.judged
        log.end(summary | {"precision": self.precision})
        return result

    def _fit_head(self, folder: Path, relatives: np.ndarray) -> Row:
        """Fit the last layer to the features in `folder`; how good it is, as epoch 0."""
        starts, classes = self.train_set.pixels.starts, len(self.train_set.dataset.classes)
        weights = self._class_weights()
        with made_by("features", folder):
            embedding = read_embedding(folder)
            if embedding is None or embedding.key != identity(frozen_part(self.deployable.net)):
                raise ValueError("its features are those of another network")

            def features(rows: np.ndarray, view: str = PLAIN) -> np.ndarray:
                return Features(folder, starts, view).take(rows)

            views, width, count = embedding.views, embedding.width, len(self.images)
            limit = self.settings.train.memory_limit * 2**30
            threads = threads_within(limit, count, len(views), width)
            seen = np.empty((count, len(views), width), np.float32)
            for number, view in enumerate(views):
                seen[:, number] = features(self.images.rows, view)
            photos = Photos(
                seen,
                self.images.labels,
                relatives[self.images.chosen],
                np.ones(classes) if weights is None else weights,
            )
            started = time.perf_counter()
            self.head = head = fit_head(photos, self.settings.train.seed, threads)
            self.fitting = round(time.perf_counter() - started, 3)
            judged = {"train": (photos.features[:, 0], photos.labels)}
            if self.validation:
                judged["val"] = features(self.validation.rows), self.validation.labels
        layer = self.deployable.net.layers[-1]
        layer.set_weights(head.layer.weights(layer.units))
        figures: dict[str, float] = {}
        for side, (seen, labels) in judged.items():
            predicted = head.layer.probabilities(seen).argmax(axis=1)
            confusion = confusion_matrix(labels, predicted, labels=range(classes))
            scores = Scores.of(confusion, float(head.layer.losses(seen, labels).sum()))
            figures |= {f"{side}/{name}": value for name, value in scores._asdict().items()}
        if self.frozen and embedding.width <= MOST_FEATURES:  # else the net is run for them
            seed = self.settings.train.seed
            sample = None
            if self.validation:
                seen, labels = judged["val"]
                at = drawn(labels, seed, CALIBRATION_IMAGES)
                sample = Sample(labels[at], head.layer.probabilities(seen[at]), seen[at])
            seen, labels = judged["train"]
            self.seen = seen[drawn(labels, seed, REFERENCE_IMAGES)], sample
        point = head.curve[-1]
        print(
            f"last layer fitted to features of {len(photos):,} images; in cross-validation "
            f"{point.right:,} of {point.judged:,} are right ({point.right / point.judged:.1%})",
            flush=True,
        )
        return Row(0, figures)

    def _class_weights(self) -> np.ndarray | None:
        """Factors on the loss of each class, float32 (classes,); None where all are one."""
        if self.settings.train.class_weights == "none":
            return None
        classes = len(self.train_set.dataset.classes)
        counts = np.maximum(np.bincount(self.images.labels, minlength=classes), 1)
        return (len(self.images) / (counts * classes)).astype(np.float32)

    def save(
        self,
        result: Result,
        model: Path,
        epochs: Path,
        augmented: Path,
        plots: Path,
        metrics: Path,
        curve: Path,
        confidence: Path,
    ) -> None:
        """Write the outputs: folders `epochs` and `plots`, the others are files.

        The folders exist and are empty. `epochs` gets the weights of every epoch if
        train.save_epochs, and a list of them: DVC warns of a folder that is empty. `plots` and
        `metrics` are the epoch log. `curve` tells how good a last layer is by the number of
        photos it was fitted to. `confidence` tells how sure the net was of each training
        image's class.
        """
        saved = []
        for row in result.rows if self.settings.train.save_epochs else []:
            weights = self.checkpoint.weights(row.epoch)
            if weights is None:
                raise UserError(
                    f"{self.checkpoint.folder} has lost the weights of epoch {row.epoch}; run "
                    "the same command again to train afresh"
                )
            saved.append(f"epoch-{row.epoch:03}.weights.h5")
            self.deployable.set_weights(weights)
            self.deployable.model.save_weights(epochs / saved[-1])
        write_table(epochs / "saved.csv", ["file"], [[name] for name in saved])
        self.deployable.set_weights(result.weights)
        seed, seen = self.settings.train.seed, self.seen
        if seen is None:
            seen = observed(self.deployable.model, self.images, self.validation, seed)
        classes = len(self.train_set.dataset.classes)
        calibration, reference = calibrate(*seen, classes, seed)
        print(calibration.describe(), flush=True)
        self.deployable.set_temperature(calibration.temperature)
        save_model(self.deployable.model, model, self._info(result, calibration), reference)
        with open(augmented, "wb") as file:
            np.save(file, self._variants())
        shutil.copytree(self.checkpoint.log / "plots", plots, dirs_exist_ok=True)
        shutil.copyfile(self.checkpoint.log / "metrics.json", metrics)
        points = self.head.curve if self.head else []
        rows = [(*point, round(point.right / point.judged, 6)) for point in points]
        write_table(curve, LEARNING_CURVE_COLUMNS, rows)
        with open(confidence, "wb") as file:
            np.save(file, self._label_confidence(result))

    def _label_confidence(self, result: Result) -> np.ndarray:
        """How sure the net was of the class of each image of `train_set`, float32 (n,), 0 to 1; NaN
        for images that `debug` leaves out.

        Where a last layer was fitted to features that know no labels: by layers that never saw the
        image. Else on average over the epochs (`stages.training.self_confidence`).
        """
        found = result.confidence
        if self.head:
            found = self.head.held_out[np.arange(len(self.images)), self.images.labels]
        out = np.full(len(self.train_set), np.nan, np.float32)
        out[self.images.chosen] = found
        return out

    def _info(self, result: Result, calibration: Calibration) -> ModelInfo:
        """What travels with the model."""
        settings, dataset = self.settings.train, self.train_set.dataset
        return ModelInfo(
            classes=dataset.classes,
            shape=dataset.shape,
            preprocess=dataset.preprocess,
            parameters=self.deployable.parameters,
            calibration=calibration,
            model=self.settings.model.model_dump(),
            train={
                "images": len(self.images),
                "epochs": result.rows[-1].epoch,
                "best_epoch": result.best,
                "precision": self.precision,
                "seed": settings.seed,
            },
        )

    def _check_memory(self) -> None:
        """Refuse a step that cannot fit, before the system ends the program for it.

        A GPU has memory of its own, and TensorFlow says when that is full.
        """
        if tf.config.list_physical_devices("GPU"):
            return
        batch_size = min(self.settings.train.batch_size, len(self.images))
        bytes_each = 2 if self.precision == "bfloat16" else 4
        pixels = int(np.prod(self.images.shape))
        needed = batch_size * (self.deployable.activations() * bytes_each + pixels * 4)
        if needed > self.memory:
            raise UserError(
                f"train.batch_size = {batch_size:,}: a step takes at least "
                f"{needed / 2**30:,.1f} GiB, more than the {self.memory / 2**30:.1f} GiB of this "
                "machine; lower it, or make the images or the net smaller"
            )

    def _training_images(self) -> TrainingImages:
        """All training images or `debug.data_fraction` of them."""
        settings, chosen = self.settings.train, None
        if settings.debug.data_fraction < 1:
            count = max(1, round(len(self.train_set) * settings.debug.data_fraction))
            chosen = fraction(self.train_set.labels, settings.seed, count)
        # A frozen backbone's features are there: of the pixels only a few are looked at.
        limit = 0 if self.frozen else settings.memory_limit * 2**30
        return TrainingImages(self.train_set, limit, chosen)

    def _learner(self) -> Learner:
        """The net to train, with all that its training needs."""
        settings, model = self.settings.train, self.settings.model
        dataset = self.train_set.dataset
        classes = len(dataset.classes)
        outputs = number_of_outputs(model, classes)
        shape = (None, None, dataset.shape[-1]) if settings.image_sizes else dataset.shape
        with environment.scope(self.strategy):
            net = build_model(model.name, shape, outputs, model.settings, model.weights)
            if self.head:
                net.layers[-1].set_weights(self.head.layer.weights(outputs))
            self._check_image_sizes(net)
            # A set may be sorted by class, so not the first; in order, to read the disk once.
            some = epoch_order(self.images.labels, settings.seed, ADAPT_DRAW)[:ADAPT_IMAGES]
            adapt_model(model.name, net, self.images.take(np.sort(some)))
        has_backbone = any(layer.name == "backbone" for layer in net.layers)
        if settings.fine_tune.frozen_epochs and not has_backbone:
            raise UserError(
                f"train.fine_tune.frozen_epochs = {settings.fine_tune.frozen_epochs}: the "
                f"architecture {model.name} has no layer named backbone to freeze"
            )
        if settings.fine_tune.frozen_epochs and model.weights is None:
            raise UserError(
                f"train.fine_tune.frozen_epochs = {settings.fine_tune.frozen_epochs} with "
                "model.weights: null would freeze a backbone of random weights, from which nothing "
                "can be learnt; set model.weights (bundled, imagenet, or a file), or "
                "frozen_epochs: 0 to train it from scratch"
            )
        varied = self.augmentation.active and not settings.debug.overfit_batch
        augment = self.augmentation if varied else None
        return Learner(net, settings, classes, augment, self._class_weights(), self.strategy)

    def _check_image_sizes(self, net: keras.Model) -> None:
        height, width, channels = self.train_set.dataset.shape
        for stage in self.settings.train.image_sizes:
            problem = f"train.image_sizes: size = {stage.size} is"
            if stage.size > max(height, width):
                raise UserError(f"{problem} more than the {height}x{width} of the images; lower it")
            try:
                net.compute_output_spec(keras.KerasTensor((None, stage.size, stage.size, channels)))
            except ValueError:
                name = self.settings.model.name
                raise UserError(f"{problem} too small for the net {name}; raise it") from None

    def _fingerprint(self, files: Iterable[str | Path]) -> str:
        weights = self.settings.model.weights
        if weights and Path(weights).is_file():
            files = [*files, weights]
        return fingerprint(
            {
                "augment": self.settings.augment.model_dump(),
                "model": self.settings.model.model_dump(),
                "train": self.settings.train.model_dump(),
                "precision": self.precision,
                "versions": [tf.__version__, keras.__version__, np.__version__],
            },
            files,
        )

    def _variants(self) -> np.ndarray:
        image = self.images.take(np.array([0]))[0]
        return self.augmentation.variants(image, VARIANTS, self.settings.train.seed)
