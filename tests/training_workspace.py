"""A folder with small processed images, split, and settings: what the train stage starts from."""

from pathlib import Path

import numpy as np
import yaml

from stages.files import INDEX_COLUMNS, PRETRAINED, RELATIVES_COLUMNS
from stages.images.fingerprints import digests
from stages.parameters.pixels import Preprocessing
from stages.parameters.whole import Parameters
from stages.store.features import write_embedding
from stages.store.processed import Dataset
from stages.store.tables import write_table

SIDE = 18  # the least the default convnet takes

# An architecture named embedding, and settings that freeze it.
EMBEDDING = """
import keras
from stages.architectures._build import load_weights

def build(shape, outputs, weights=None, strides=3):
    parts = [
        keras.Input(shape),
        keras.layers.Conv2D(24, 5, strides=strides, activation="relu"),
        keras.layers.Flatten(),
    ]
    net = keras.Sequential(parts, name="backbone")
    if weights:
        load_weights(net, weights)
    images = keras.Input(shape)
    x = net(keras.layers.Rescaling(1 / 255)(images), training=False)
    x = keras.layers.Dropout(0.2)(x)
    return keras.Model(images, keras.layers.Dense(outputs)(x))
"""
WEIGHTS = PRETRAINED / "own.weights.h5"
FROZEN = {"name": "embedding", "settings": {}, "weights": str(WEIGHTS), "backbone": "frozen"}
FLIP = {"horizontal_flip": "random"}


def pictures(count: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (count, SIDE, SIDE, 1) and labels: a bright bar on noise, its place is the class."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    images = random.integers(0, 120, (count, SIDE, SIDE, 1))
    for image, label in zip(images, labels, strict=True):
        start = label * SIDE // classes
        image[start : start + SIDE // classes] += 60
    return images.astype(np.uint8), labels


def make_workspace(folder: Path, train_images=48, val_images=24, classes=3, **sections) -> Path:
    """Write data/ and params.yaml; `sections` are settings that differ from the defaults."""
    images, labels = pictures(train_images + val_images, classes)
    processed, splits = folder / "data/processed", folder / "data/splits"
    processed.mkdir(parents=True)
    splits.mkdir(parents=True)
    names = [f"kind {number}" for number in range(classes)]
    preprocessing = Preprocessing(size=[SIDE, SIDE], color="grayscale")
    Dataset(classes=names, shape=preprocessing.shape, preprocess=preprocessing).save(processed)
    half = len(images) // 2
    shards = [images[:half], images[half:]]
    index = []
    for number, shard in enumerate(shards):
        np.save(processed / f"images-{number:05}.npy", shard)
        for row, digest in enumerate(digests(shard)):
            at = number * half + row
            empty = dict.fromkeys(INDEX_COLUMNS, "") | dict.fromkeys(
                ("width", "height", "bytes"), SIDE
            )
            index.append(
                empty
                | {
                    "id": f"{at:016x}",
                    "path": f"{at}.png",
                    "label": names[labels[at]],
                    "shard": f"images-{number:05}.npy",
                    "row": row,
                    "pixels": digest,
                }
            )
    write_table(processed / "index.csv", INDEX_COLUMNS, [list(line.values()) for line in index])
    for side, part in (("train", index[:train_images]), ("val", index[train_images:])):
        rows = [(line["id"], line["label"]) for line in part]
        write_table(splits / f"{side}.csv", ("id", "label"), rows)
    write_table(splits / "relatives.csv", RELATIVES_COLUMNS, [])
    set_parameters(folder, **sections)
    (folder / "data/features").mkdir()
    write_embedding(folder / "data/features", None)
    return folder


def set_parameters(folder: Path, **sections) -> None:
    settings = {"train": {"epochs": 3, "batch_size": 20, "precision": "float32"}}
    settings["model"] = {"settings": {"filters": [4, 4, 4], "dense": 8}}
    for section, values in sections.items():
        settings[section] = settings.get(section, {}) | values
    Parameters.model_validate(settings)
    (folder / "params.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")


def outputs(folder: Path) -> dict[str, bytes]:
    """Every file that training wrote, except times."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for top in ("models", "reports")
        for path in sorted((folder / top).rglob("*"))
        if path.is_file() and path.name != "timing.json"
    }
