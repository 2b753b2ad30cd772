"""The train stage: from the split's images to models/model.keras.

Killed at any moment, the next run goes on from the last checkpoint and ends with the same bytes.
"""

import os
from collections.abc import Iterable
from contextlib import nullcontext, redirect_stdout
from typing import Any

from stages.errors import UserError, run
from stages.files import (
    CHECKPOINTS,
    DATASET,
    FEATURES,
    INDEX,
    MODEL,
    PRETRAINED,
    PROCESSED,
    RELATIVES,
    SPLITS,
    TENSORBOARD,
    TIMES,
)
from stages.parameters.augment import Augment
from stages.parameters.model import Model
from stages.parameters.section import Section, read_settings
from stages.parameters.train import Train
from stages.store.image_set import ImageSet, load_image_set, read_relatives
from stages.store.model import record_times
from stages.store.outputs import Outputs, outputs_of
from stages.training.checkpoint import Checkpoint
from stages.training.cluster import VARIABLE, WAIT, Cluster, read_cluster


def main() -> None:
    cluster = read_cluster(os.environ.get(VARIABLE), os.environ.get(WAIT))
    if cluster and read_settings(Model).backbone == "frozen":
        if not cluster.chief:
            print("model.backbone: frozen fits a last layer, which the chief does alone")
            return
        cluster = None
    if cluster and not cluster.chief:
        help_chief(cluster)
        return
    with outputs_of("train") as outputs:
        checkpoint, times = train(outputs, cluster)
    record_times(TIMES, "train", times, MODEL)
    checkpoint.delete()
    if cluster:
        cluster.end()


def help_chief(cluster: Cluster) -> None:
    """Compute this machine's share of the training; write and, from the start on, print nothing."""
    os.environ["TQDM_DISABLE"] = "1"  # heard when it is imported
    print(f"this is {cluster.name(cluster.number)}; the chief prints how it goes", flush=True)
    cluster.wait_for_chief()  # who comes when its stage begins: what it reads is there then
    with redirect_stdout(None):
        train(Outputs("train"), cluster)


def train(outputs: Outputs, cluster: Cluster | None = None) -> tuple[Checkpoint, dict[str, Any]]:
    """Train to the end, from the start or the last checkpoint; that, and what took how long."""
    augment, model = read_settings(Augment), read_settings(Model)
    settings = read_settings(Train)
    train_set, validation = read_sets(model, settings)
    if model.backbone == "frozen" and (unused := without_effect(augment, settings)):
        print(
            "model.backbone: frozen fits the last layer to features of each image as it is, without"
            f" epochs: {', '.join(unused)} {'have' if len(unused) > 1 else 'has'} no effect",
            flush=True,
        )

    relatives = read_relatives(SPLITS / RELATIVES, train_set)

    # scikit-learn and TensorFlow take seconds, so after the quick checks.
    if model.backbone == "frozen":
        from stages.training.frozen import FrozenJob

        frozen = FrozenJob(model, settings, train_set, validation, relatives, FEATURES, CHECKPOINTS)
        times = frozen.train(TENSORBOARD)
        frozen.save(outputs)
        return frozen.checkpoint, times

    import stages.quiet  # noqa: F401
    from stages.training.job import Job, JobSettings

    tables = [PROCESSED / DATASET, PROCESSED / INDEX, *sorted(SPLITS.glob("*.csv"))]
    with cluster.watched() if cluster else nullcontext():
        job = Job(
            JobSettings(augment, model, settings),
            train_set,
            validation,
            relatives,
            FEATURES,
            CHECKPOINTS,
            [*outputs.code, *tables],
            cluster,
        )
        result = job.train(TENSORBOARD, each_epoch=outputs.check_inputs)
        if cluster and not cluster.chief:
            cluster.end()
            return job.checkpoint, {}
    job.save(result, outputs)
    return job.checkpoint, result.times


# What may be turned on for the training of a whole net, and a last layer alone has no use for.
AUGMENT_USED = {"horizontal_flip", "fill", "fill_value"}
TRAIN_UNUSED = (
    *("label_smoothing", "clip_norm", "sampling", "hardest", "averaging"),
    *("early_stopping", "fine_tune", "image_sizes", "devices", "save_epochs"),
)
DEBUG_UNUSED = ("max_steps", "overfit_batch", "profile")


def without_effect(augment: Augment, train: Train) -> list[str]:
    """The settings that are turned on although a last layer fitted to features has no use for
    them."""
    sections: list[tuple[str, Section, Section, Iterable[str]]] = [
        ("augment", augment, Augment(), [n for n in Augment.model_fields if n not in AUGMENT_USED]),
        ("train", train, Train(), TRAIN_UNUSED),
        ("train.debug", train.debug, Train().debug, DEBUG_UNUSED),
    ]
    return [
        f"{section}.{name}"
        for section, values, off, names in sections
        for name in names
        if getattr(values, name) != getattr(off, name)
    ]


def read_sets(model: Model, settings: Train) -> tuple[ImageSet, ImageSet | None]:
    """The training images, and those that choose the best epoch, or None."""
    model.check_weights(PRETRAINED)
    train_set = load_image_set(PROCESSED, SPLITS / "train.csv")
    validation = load_image_set(PROCESSED, SPLITS / "val.csv")
    if not len(train_set):
        raise UserError(f"{SPLITS / 'train.csv'} names no images to train on")
    if not len(validation) and settings.early_stopping.patience:
        raise UserError(
            "train.early_stopping.patience needs validation images; set split.val above 0"
        )
    classes = len(train_set.dataset.classes)
    if model.output == "sigmoid" and classes != 2:
        raise UserError(f"model.output: sigmoid is for two classes, not {classes}; use softmax")
    return train_set, validation if len(validation) else None


if __name__ == "__main__":
    run(main, at_once=True)
