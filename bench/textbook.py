"""The peer: how most CIFAR-10 tutorials do it, start to end in one plain script.

Three blocks of convolution (32, 64, 128 filters) and pooling, a dense layer of 128 with dropout
0.5, Adam, batches of 64, 25 epochs of `fit` on float32 arrays. About 71 % on the JPEG copies.

    python -m bench.textbook --data cifar10-jpeg.zip
"""

import argparse
import io
import time
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np

from bench.measure import report

EPOCHS = 25
BATCH_SIZE = 64


def load(path):
    """Images float32 (n, h, w, 3) from 0 to 1 and labels int32 (n,) of a zip's train/ and test/."""
    from PIL import Image

    sides = {"train": [], "test": []}
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            parts = PurePosixPath(name).parts
            if not name.endswith("/") and len(parts) > 2 and parts[-3] in sides:
                sides[parts[-3]].append((name, parts[-2]))
        classes = sorted({label for _, label in sides["train"]})
        arrays = []
        for side in ("train", "test"):
            images = [
                np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))
                for name, _ in sides[side]
            ]
            arrays.append(np.stack(images).astype("float32") / 255)
            arrays.append(np.array([classes.index(label) for _, label in sides[side]], "int32"))
    return arrays


def build(shape, classes):
    import keras
    from keras import layers

    model = keras.Sequential([keras.Input(shape)])
    for filters in (32, 64, 128):
        model.add(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        model.add(layers.MaxPooling2D())
    model.add(layers.Flatten())
    model.add(layers.Dense(128, activation="relu"))
    model.add(layers.Dropout(0.5))
    model.add(layers.Dense(classes, activation="softmax"))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def run(path, epochs=EPOCHS) -> dict:
    """Train and score; `seconds` are those inside `fit`."""
    import keras

    train_images, train_labels, test_images, test_labels = load(path)
    keras.utils.set_random_seed(0)
    model = build(train_images.shape[1:], int(train_labels.max()) + 1)
    start = time.perf_counter()
    model.fit(train_images, train_labels, batch_size=BATCH_SIZE, epochs=epochs, verbose=2)
    seconds = time.perf_counter() - start
    _, accuracy = model.evaluate(test_images, test_labels, batch_size=1000, verbose=0)
    return {"accuracy": round(float(accuracy), 4), "seconds": round(seconds, 1), "epochs": epochs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="zip of train/ and test/ folders")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args()
    report("textbook", **run(arguments.data, arguments.epochs))


if __name__ == "__main__":
    main()
