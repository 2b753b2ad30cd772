"""A training job put together: data, model, learner and checkpoint as the settings say; and what
it leaves, the model for use."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from stages.architectures import adapt_model, build_model, pool_early
from stages.augmentation import Augmentation
from stages.errors import UserError
from stages.files import EPOCHS, MODEL, SAVED_EPOCHS
from stages.inference.deployable import Deployable, set_weights
from stages.inference.frozen import frozen_part, identity
from stages.parameters.augment import Augment
from stages.parameters.model import Model
from stages.parameters.train import Train
from stages.store.image_set import ImageSet
from stages.store.model import Calibration, ModelInfo, save_model
from stages.store.outputs import CODE, Outputs
from stages.store.tables import write_table
from stages.training import environment
from stages.training.batches import (
    ADAPT_DRAW,
    class_weights,
    epoch_order,
    training_images,
)
from stages.training.calibrate import calibrate, observed
from stages.training.checkpoint import Checkpoint, State, fingerprint
from stages.training.cluster import Cluster, SharedCheckpoint
from stages.training.frozen import fit_last_layer, label_confidence
from stages.training.head import Head
from stages.training.learner import Learner
from stages.training.log import EpochLog, Row, TensorBoardLog
from stages.training.loop import Result, fit
from stages.training.outcome import VARIANTS, write_outcome

ADAPT_IMAGES = 5000  # training images, drawn by lot, that an architecture takes statistics from
VERSIONS = [tf.__version__, keras.__version__, np.__version__]


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
        cluster: machines that train this job together, or None for this one alone. The chief has
            the result and saves it.
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
        cluster: Cluster | None = None,
    ):
        self.settings, self.train_set, self.validation = settings, train_set, validation
        self.cluster, self.chief = cluster, cluster is None or cluster.chief
        train, dataset = settings.train, train_set.dataset
        self.strategy = environment.start(train.devices, train.deterministic, cluster)
        files = list(files)
        self.precision = self._choose_precision(files)
        print(environment.describe(train.devices, self.precision), flush=True)
        if cluster:
            print(f"this is {cluster.name(0)}, the chief: it has the log and the model")
        # Both nets start from the same names and seeds, so that a weight's path is what the
        # saved model shows.
        environment.reset(train.seed, "float32")
        self.memory = environment.memory()
        self.deployable = Deployable(
            settings.model, dataset.shape, len(dataset.classes), self.memory
        )
        environment.reset(train.seed, self.precision)
        # Of several machines each reads what it learns from, which is not all in every epoch.
        self.images = training_images(
            train_set, train, train.memory_limit * 2**30, as_needed=cluster is not None
        )
        self.head: Head | None = None
        self.start: Row | None = None
        if settings.model.backbone == "fine_tuned" and self.chief:
            self._fit_last_layer(features, relatives)
        self.augmentation = Augmentation(settings.augment, dataset.shape)
        self._check_memory()
        self.learner = self._learner()
        job = self._fingerprint(files)
        self.checkpoint = (
            SharedCheckpoint(folder, job, cluster) if cluster else Checkpoint(folder, job)
        )

    def _choose_precision(self, files: list[str | Path]) -> str:
        """That of this machine; in a cluster the chief's, which all machines have that also have
        the same settings and `files`."""
        wanted = self.settings.train.precision
        if not self.cluster:
            return environment.choose_precision(wanted)
        code = [path for path in files if Path(path).parts[0] == CODE]
        data = [path for path in files if Path(path).parts[0] != CODE]
        self.cluster.check_same(
            {
                "settings (params.yaml)": fingerprint(self._settings(), []),
                f"code ({CODE}/)": fingerprint({}, code),
                "images or weights (data/, models/pretrained/)": fingerprint(
                    {}, self._with_weights(data)
                ),
                "versions of TensorFlow, Keras or NumPy": fingerprint({"versions": VERSIONS}, []),
            }
        )
        own = None
        if self.chief:
            own = State([], {"precision": environment.choose_precision(wanted)})
        return self.cluster.told(own).document["precision"]

    def train(self, tensorboard: Path, each_epoch: Callable[[], None] = lambda: None) -> Result:
        """Train to the end, from the start or the last checkpoint, with an epoch log.

        The log grows in `checkpoint.log`, where a run that fails leaves it. `each_epoch` is
        called when an epoch is safe on the disk, and may raise.
        """
        settings = self.settings.train
        if not self.chief:
            return self._fit([], None)
        log = EpochLog(self.checkpoint.log)
        logs: list[Callable[[list[Row]], None]] = [log]
        if settings.debug.tensorboard:
            logs.append(TensorBoardLog(tensorboard))
        logs.append(lambda rows: each_epoch())
        result = self._fit(logs, tensorboard if settings.debug.profile else None)
        summary: dict[str, float | str] = {
            "best_epoch": result.best,
            "epochs": result.rows[-1].epoch,
        }
        if self.head:
            summary["cross_validated_accuracy"] = self.head.curve[-1].accuracy
        if self.cluster:
            summary["machines"] = len(self.cluster)
        log.end(summary | {"precision": self.precision})
        return result

    def _fit(self, logs: list[Callable[[list[Row]], None]], profile: Path | None) -> Result:
        return fit(
            self.learner,
            self.images,
            self.validation,
            self.checkpoint,
            logs,
            self.start,
            self.settings.train.save_epochs,
            profile,
        )

    def _fit_last_layer(self, folder: Path, relatives: np.ndarray) -> None:
        """Start from a last layer fitted to the features in `folder`."""
        key = identity(frozen_part(self.deployable.net))
        fit = fit_last_layer(
            self.settings.train,
            self.train_set,
            self.images,
            self.validation,
            relatives,
            folder,
            lambda embedding: embedding.key == key,
        )
        self.head, self.start = fit.head, fit.row

    def save(self, result: Result, outputs: Outputs) -> None:
        """Write the model, the weights of every epoch if train.save_epochs, and what else a
        training leaves."""
        epochs, saved = outputs.directory(EPOCHS), []
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
        write_table(epochs / SAVED_EPOCHS, ["file"], [[name] for name in saved])
        self.deployable.set_weights(result.weights)
        seed, classes = self.settings.train.seed, len(self.train_set.dataset.classes)
        seen = observed(self.deployable.model, self.images, self.validation, seed)
        calibration, reference = calibrate(*seen, classes, seed)
        print(calibration.describe(), flush=True)
        self.deployable.set_temperature(calibration.temperature)
        info = self._info(result, calibration)
        save_model(self.deployable.model, outputs.file(MODEL), info, reference)
        write_outcome(
            outputs,
            self.checkpoint.log,
            self._variants(),
            self._label_confidence(result),
            self.head.curve if self.head else [],
        )

    def _label_confidence(self, result: Result) -> np.ndarray:
        """How sure the net was of the class of each image of `train_set`, float32 (n,), 0 to 1; NaN
        for images that `debug` leaves out.

        Where a last layer was fitted to features that know no labels: by layers that never saw the
        image. Else on average over the epochs (`stages.training.self_confidence`).
        """
        if self.head:
            return label_confidence(self.head, self.images, len(self.train_set))
        out = np.full(len(self.train_set), np.nan, np.float32)
        out[self.images.chosen] = result.confidence
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
        if self.cluster:
            batch_size = math.ceil(batch_size / len(self.cluster))
        bytes_each = 2 if self.precision == "bfloat16" else 4
        pixels = int(np.prod(self.images.shape))
        needed = batch_size * (self.deployable.activations() * bytes_each + pixels * 4)
        if needed > self.memory:
            raise UserError(
                f"train.batch_size = {batch_size:,}: a step takes at least "
                f"{needed / 2**30:,.1f} GiB, more than the {self.memory / 2**30:.1f} GiB of this "
                "machine; lower it, or make the images or the net smaller"
            )

    def _learner(self) -> Learner:
        """The net to train, with all that its training needs."""
        settings, model = self.settings.train, self.settings.model
        dataset = self.train_set.dataset
        classes = len(dataset.classes)
        outputs = model.outputs(classes)
        shape = (None, None, dataset.shape[-1]) if settings.image_sizes else dataset.shape
        with environment.scope(self.strategy):
            net = pool_early(build_model(model.name, shape, outputs, model.settings, model.weights))
            if self.head:
                net.layers[-1].set_weights(self.head.layer.weights(outputs))
            self._check_image_sizes(net)
            if self.chief:
                # A set may be sorted by class, so not the first; in order, to read the disk once.
                some = epoch_order(self.images.labels, settings.seed, ADAPT_DRAW)[:ADAPT_IMAGES]
                adapt_model(model.name, net, self.images.take(np.sort(some)))
            if self.cluster:
                start = State(net.get_weights(), {"start": self.start})
                start = self.cluster.told(start if self.chief else None)
                set_weights(net, start.arrays)
                self.start = Row(*start.document["start"]) if start.document["start"] else None
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
        weights = class_weights(settings.class_weights, self.images.labels, classes)
        return Learner(net, settings, classes, augment, weights, self.strategy, self.cluster)

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
        settings = self._settings() | {"precision": self.precision, "versions": VERSIONS}
        if self.cluster:  # which changes the order of sums, and so the last bits
            settings["machines"] = len(self.cluster)
        return fingerprint(settings, self._with_weights(files))

    def _settings(self) -> dict[str, Any]:
        return {name: section.model_dump() for name, section in self.settings._asdict().items()}

    def _with_weights(self, files: Iterable[str | Path]) -> list[str | Path]:
        """`files`, and that of the weights to start from, if there is one."""
        weights = self.settings.model.weights
        return [*files, weights] if weights and Path(weights).is_file() else [*files]

    def _variants(self) -> np.ndarray:
        image = self.images.take(np.array([0]))[0]
        return self.augmentation.variants(image, VARIANTS, self.settings.train.seed)
