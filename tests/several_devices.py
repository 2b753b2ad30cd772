"""Run in a process of its own: trains each case on one and on two devices, and prints, as JSON, how
far the weights of the two are apart and how far they are from where they started."""

import contextlib
import json
import sys

import numpy as np

from stages.training import environment

SIDE, CLASSES, COUNT, BATCH, STEPS = 8, 3, 28, 7, 8  # batches that two devices cannot halve

# Each optimiser, and in one of the cases all else that could tell devices apart.
CASES: dict[str, dict] = {
    "adam, mixup, ema": {
        "train": {"averaging": {"name": "ema", "decay": 0.9}},
        "augment": {"mixup": 0.4},
    },
    "adamw, cutmix, clip_norm, groups": {
        "train": {
            "optimizer": {"name": "adamw", "groups": [{"match": "bias", "name": "sgd"}]},
            "clip_norm": 0.5,
        },
        "augment": {"cutmix": 1.0},
    },
    "sgd, mixup or cutmix, class weights, mean": {
        "train": {
            "optimizer": {"name": "sgd", "learning_rate": 0.01},
            "class_weights": "balanced",
            "averaging": {"name": "mean", "start": 0.5},
        },
        "augment": {"mixup": 0.4, "cutmix": 1.0, "cutout": 2},
    },
    "rmsprop, every geometry, label smoothing": {
        "train": {"optimizer": {"name": "rmsprop"}, "label_smoothing": 0.2},
        "augment": {
            "rotation": 15,
            "width_shift": 0.1,
            "zoom": 0.1,
            "horizontal_flip": "random",
            "vertical_flip": "random",
            "crop_padding": 1,
            "brightness": 0.2,
        },
    },
    "muon, fine-tuning, randaugment": {
        "train": {
            "optimizer": {"name": "muon", "learning_rate": 0.01, "weight_decay": 0.01},
            "fine_tune": {"frozen_epochs": 1},
        },
        "augment": {"randaugment": {"layers": 2}, "horizontal_flip": "alternating"},
    },
    "muon with normalised weights, smaller images": {
        "train": {
            "optimizer": {"name": "muon", "normalize_weights": True},
            "image_sizes": [{"until": 0.5, "size": 6}],
        }
    },
}


def main() -> None:
    import stages.quiet  # noqa: F401

    strategy = environment.start(2)
    json.dump({name: difference(case, strategy) for name, case in CASES.items()}, sys.stdout)


def difference(case: dict, strategy) -> list[float]:
    """Largest difference between the final weights of one and two devices, and how far training
    moved them."""
    (start, one, seen), (_, two, also_seen) = (trained(case, each) for each in (None, strategy))
    np.testing.assert_allclose(seen, also_seen, rtol=1e-4)
    pairs = [(list(zip(one, other, strict=True))) for other in (two, start)]
    return [float(max(np.abs(a - b).max() for a, b in pair)) for pair in pairs]


def trained(case: dict, strategy):
    """Weights before and after, and the losses of the images of the last batch."""
    import keras

    from stages.augmentation import Augmentation
    from stages.parameters.augment import Augment
    from stages.parameters.train import Train
    from stages.training.batches import Batch, epoch_order
    from stages.training.learner import Learner

    environment.reset(0, "float32")
    settings = Train.model_validate({"epochs": 2, "batch_size": BATCH} | case.get("train", {}))
    augment = Augmentation(Augment.model_validate(case.get("augment", {})), (SIDE, SIDE, 1))
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (COUNT, SIDE, SIDE, 1)).astype(np.uint8)
    labels = (np.arange(COUNT) % CLASSES).astype(np.int32)
    with strategy.scope() if strategy else contextlib.nullcontext():
        sides = (None, None, 1) if settings.image_sizes else (SIDE, SIDE, 1)
        backbone = keras.Sequential(
            [
                keras.Input(sides),
                keras.layers.Rescaling(1 / 255),
                keras.layers.Conv2D(4, 3, activation="relu", kernel_regularizer="l2"),
                keras.layers.GlobalAveragePooling2D(),
            ],
            name="backbone",
        )
        net = keras.Sequential([keras.Input(sides), backbone, keras.layers.Dense(CLASSES)])
    weights = np.float32([1, 2, 0.5]) if settings.class_weights == "balanced" else None
    learner = Learner(
        net, settings, CLASSES, augment if augment.active else None, weights, strategy
    )
    start, steps, step = net.get_weights(), STEPS // 2, 0
    for epoch in range(2):
        if epoch in (0, settings.fine_tune.frozen_epochs):
            if settings.fine_tune.frozen_epochs:
                backbone.trainable = epoch > 0
            learner.start_phase()
        order = epoch_order(labels, 0, epoch)
        for first in range(0, COUNT, BATCH):
            index = order[first : first + BATCH]
            learner.set_learning_rates(step, STEPS, steps, 1.0)
            size = 6 if settings.image_sizes and step < steps else None
            batch = Batch(images[index], labels[index], index, np.full_like(index, epoch))
            found = learner.train(batch, epoch, step, size)
            learner.update_average(step, STEPS)
            step += 1
    return start, learner.final_weights(), found.label_losses.numpy()


if __name__ == "__main__":
    main()
