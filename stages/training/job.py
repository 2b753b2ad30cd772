"""A training job put together: data, model, learner and checkpoint as the settings say."""

import shutil
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from stages.architectures import adapt_model, build_model
from stages.augmentation import Augmentation
from stages.errors import UserError
from stages.store.atomic import replace_directory, replace_file
from stages.store.model import save_model
from stages.store.tables import write_table
from stages.training import environment
from stages.training.batches import TrainingImages, epoch_order
from stages.training.checkpoint import Checkpoint, fingerprint
from stages.training.export import Deployable, number_of_outputs
from stages.training.learner import Learner
from stages.training.log import EpochLog, TensorBoardLog
from stages.training.loop import Result, fit
from stages.training.precision import choose_precision

ADAPT_IMAGES = 5000  # training images that an architecture may take statistics from
PACKAGES = ("architectures", "augmentation", "parameters", "store", "training")  # code it runs
VARIANTS = 20  # of one image, to see what augmentation does


class Job:
    """Trains the model that `parameters` describe on `train_set`, an `ImageSet`.

    Args:
        validation: an `ImageSet` to choose the best epoch by, or None.
        folder: where the state is kept until `checkpoint.delete()`.
        files: what the outcome depends on beside the settings and the imported code: a state
            kept with other content of these files is not continued.
    """

    def __init__(self, parameters, train_set, validation, folder, files):
        self.parameters, self.train_set, self.validation = parameters, train_set, validation
        settings, dataset = parameters.train, train_set.dataset
        self.strategy = environment.start(settings.devices, settings.deterministic)
        self.precision = choose_precision(settings.precision)
        # Both nets start from the same names and seeds, so that a weight's path is what the
        # saved model shows.
        environment.reset(settings.seed, "float32")
        self.deployable = Deployable(parameters.model, dataset.shape, len(dataset.classes))
        environment.reset(settings.seed, self.precision)
        self.images = self._training_images()
        self.learner = self._learner()
        self.checkpoint = Checkpoint(folder, self._fingerprint(files))

    def train(self, log_folder: Path, tensorboard: Path) -> Result:
        """Train to the end, from the start or the last checkpoint, with an epoch log."""
        settings = self.parameters.train
        log = EpochLog(log_folder)
        logs = [log, TensorBoardLog(tensorboard)] if settings.debug.tensorboard else [log]
        result = fit(
            self.learner,
            self.images,
            self.validation,
            self.checkpoint,
            logs,
            self._save_epoch if settings.save_epochs else None,
            tensorboard if settings.debug.profile else None,
        )
        log.end(
            {"best_epoch": result.best, "epochs": len(result.rows), "precision": self.precision}
        )
        return result

    def save(self, result: Result, folder: Path) -> None:
        """Write model.keras, epochs/ and augmented.npy to `folder`.

        epochs/ holds the weights of every epoch if train.save_epochs, and a list of them: DVC
        warns of a folder that is empty.
        """
        settings, dataset = self.parameters.train, self.train_set.dataset
        self.deployable.set_weights(result.weights)
        info = {
            "classes": dataset.classes,
            "shape": list(dataset.shape),
            "preprocess": dataset.preprocess,
            "parameters": self.deployable.parameters,
            "model": self.parameters.model.model_dump(),
            "train": {
                "images": len(self.images),
                "epochs": len(result.rows),
                "best_epoch": result.best,
                "precision": self.precision,
                "seed": settings.seed,
            },
        }
        save_model(self.deployable.model, folder / "model.keras", info)
        with replace_directory(folder / "epochs") as temporary:
            saved = sorted(self.checkpoint.folder.glob("epoch-*.weights.h5"))
            for path in saved:
                shutil.copyfile(path, temporary / path.name)
            write_table(temporary / "saved.csv", ["file"], [[path.name] for path in saved])
        with replace_file(folder / "augmented.npy") as temporary, open(temporary, "wb") as file:
            np.save(file, self._variants())

    def _training_images(self) -> TrainingImages:
        """All training images or `debug.data_fraction` of them."""
        settings, chosen = self.parameters.train, None
        if settings.debug.data_fraction < 1:
            count = max(1, round(len(self.train_set) * settings.debug.data_fraction))
            order = epoch_order(self.train_set.labels, settings.seed, 2**63)
            chosen = np.sort(order[:count])
        return TrainingImages(self.train_set, settings.memory_limit * 2**30, chosen)

    def _learner(self):
        settings, model = self.parameters.train, self.parameters.model
        dataset = self.train_set.dataset
        classes = len(dataset.classes)
        outputs = number_of_outputs(model, classes)
        shape = (None, None, dataset.shape[-1]) if settings.image_sizes else dataset.shape
        with environment.scope(self.strategy):
            net = build_model(model.name, shape, outputs, model.settings, model.weights)
            some = np.arange(min(len(self.images), ADAPT_IMAGES))
            adapt_model(model.name, net, self.images.take(some))
        has_backbone = any(layer.name == "backbone" for layer in net.layers)
        if settings.fine_tune.frozen_epochs and not has_backbone:
            raise UserError(
                f"train.fine_tune.frozen_epochs = {settings.fine_tune.frozen_epochs}: the "
                f"architecture {model.name} has no layer named backbone to freeze"
            )
        augment = Augmentation(self.parameters.augment, dataset.shape)
        self.augmentation = augment
        if settings.debug.overfit_batch or not augment.active:
            augment = None
        weights = None
        if settings.class_weights == "balanced":
            counts = np.maximum(np.bincount(self.images.labels, minlength=classes), 1)
            weights = (len(self.images) / (counts * classes)).astype(np.float32)
        return Learner(net, settings, classes, augment, weights, self.strategy)

    def _fingerprint(self, files) -> str:
        stages = Path(__file__).parent.parent
        code = [path for package in PACKAGES for path in sorted((stages / package).rglob("*.py"))]
        weights = self.parameters.model.weights
        if weights and Path(weights).is_file():
            files = [*files, weights]
        return fingerprint(
            {
                "augment": self.parameters.augment.model_dump(),
                "model": self.parameters.model.model_dump(),
                "train": self.parameters.train.model_dump(),
                "precision": self.precision,
                "versions": [tf.__version__, keras.__version__, np.__version__],
            },
            [*code, *files],
        )

    def _save_epoch(self, weights, epoch: int) -> None:
        self.deployable.set_weights(weights)
        path = self.checkpoint.folder / f"epoch-{epoch:03}.weights.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.deployable.model.save_weights(path)

    def _variants(self) -> np.ndarray:
        image = self.images.take(np.array([0]))[0]
        return self.augmentation.variants(image, VARIANTS, self.parameters.train.seed)
