"""Makes what tests work on."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from stages.files import (
    INDEX_COLUMNS,
    ISSUES_COLUMNS,
    LABEL_CONFIDENCE,
    LEARNING_CURVE,
    LEARNING_CURVE_COLUMNS,
    PARITY,
    REJECTS_COLUMNS,
    SPLIT_COLUMNS,
)
from stages.images.decode import decode
from stages.metrics.paired import mcnemar, summary
from stages.parameters.pixels import PixelSettings, Preprocessing
from stages.store.features import write_embedding
from stages.store.processed import Dataset
from stages.store.tables import write_table

ROOT = Path(__file__).parent.parent
PREPROCESS = {"size": [16, 16], "color": "rgb"}
# Label k has its k-th channel brightest. The names are what HTML, Markdown, JSON, CSV and
# file names make trouble with.
COLOUR_CLASSES = ['<b>red</b> & "co" | it\'s', "green, </script> dark", "blåu $x$ *猫*"]
# The same for the exported model, which tells images by their brightest channel, blue first.
EXPORTED_CLASSES = ["blåu $x$ *猫*", "green, it's", "<b>red</b> </script>"]
EXPORTED_SHAPE = (12, 10, 3)


def pixel_settings(
    size, color="rgb", resize="stretch", interpolation="area", background=(255, 255, 255), **others
) -> PixelSettings:
    """What to make of images: of `size` (height, width), and in colour."""
    return PixelSettings(
        size=list(size),
        color=color,
        resize=resize,
        interpolation=interpolation,
        background=list(background),
        **others,
    )


def colour_images(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """uint8 (n, 16, 16, 3): channel `labels[i]` tends to be the brightest, so some mislead."""
    rng = np.random.default_rng(seed)
    images = rng.integers(60, 160, (len(labels), 16, 16, 3))
    images[np.arange(len(labels)), :, :, labels] += 20
    images += rng.integers(-30, 31, (len(labels), 1, 1, 3))
    return images.clip(0, 255).astype(np.uint8)


def colour_model():
    """A model that tells which channel is brightest, with convolutions in a nested model."""
    import keras

    same = keras.layers.Conv2D(3, 3, padding="same", name="same")
    last = keras.layers.Conv2D(3, 2, strides=2, name="last")
    features = keras.Sequential([keras.Input((16, 16, 3)), same, last], name="features")
    kernel = np.zeros((3, 3, 3, 3))
    kernel[1, 1] = np.eye(3)
    same.set_weights([kernel, np.zeros(3)])
    last.set_weights([np.broadcast_to(np.eye(3) / 4, (2, 2, 3, 3)), np.zeros(3)])
    head = keras.layers.Dense(3, activation="softmax", name="head")
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3), dtype="uint8"),
            keras.layers.Rescaling(1 / 15),
            features,
            keras.layers.GlobalAveragePooling2D(),
            head,
        ]
    )
    head.set_weights([np.eye(3), np.zeros(3)])
    return model


def colour_features(images: np.ndarray) -> np.ndarray:
    """The last features of `images` in `colour_model`, float16 (n, 3): means of the channels."""
    return (images.mean(axis=(1, 2)) / 15).astype(np.float16)


def exported_figures(count: int, broken: int = 0, size: int = 378_512) -> dict[str, float]:
    """What reports/parity.json has of a format that breaks so many of `count` test images."""
    return {
        "bytes": size,
        "accuracy": round(0.9 - broken / max(1, count), 6),
        "agreement": round(1 - broken / max(1, count), 6),
        "largest_difference": 0.0123,
        "mean_difference": 4.56e-05,
        "broken": broken,
        "fixed": 0,
        "mcnemar_p": mcnemar(0, broken),
        "count": count,
    }


def write_colour_job(
    folder: Path, test: int = 90, val: int = 30, extra: int = 0, classes: list[str] | None = None
) -> None:
    """Everything that evaluate reads, as the stages before it write it, in `folder`."""
    from stages.store.model import ModelInfo, Reference, save_model

    classes = classes or COLOUR_CLASSES
    processed, splits = folder / "data/processed", folder / "data/splits"
    processed.mkdir(parents=True)
    splits.mkdir(parents=True)
    Dataset(classes=classes, shape=(16, 16, 3), preprocess=Preprocessing(**PREPROCESS)).save(
        processed
    )
    index, counts = [], {}
    for number, (side, count) in enumerate(
        {"train": 30, "val": val, "test": test, "extra": extra}.items()
    ):
        labels = np.arange(count) % 3
        shard = f"images-{number:05d}.npy"
        np.save(processed / shard, colour_images(labels, seed=number))
        ids = [f"{number:02x}{row:014x}" for row in range(count)]
        for row, (id, label) in enumerate(zip(ids, labels, strict=True)):
            name = classes[label]
            path = f"{name.replace('/', '_')}/{side} {row}.jpg"
            fixed = {"id": id, "path": path, "label": name, "shard": shard, "row": row}
            index.append([fixed.get(column, "") for column in INDEX_COLUMNS])
        write_table(
            splits / f"{side}.csv",
            SPLIT_COLUMNS,
            [(id, classes[label]) for id, label in zip(ids, labels, strict=True)],
        )
        counts[side] = count
    write_table(processed / "index.csv", INDEX_COLUMNS, index)
    write_table(
        processed / "rejects.csv",
        REJECTS_COLUMNS,
        [("<i>broken</i>.jpg", "truncated", "0" * 64)],
    )
    history = folder / "reports/train/plots/metrics"
    for side, shift in (("train", 0.0), ("val", 0.1)):
        (history / side).mkdir(parents=True)
        for what, values in (("loss", (1.0, 0.5, 0.4)), ("accuracy", (0.5, 0.7, 0.8))):
            rows = [f"{epoch}\t{value + shift}" for epoch, value in enumerate(values, 1)]
            (history / side / f"{what}.tsv").write_text("\n".join([f"step\t{what}", *rows, ""]))
    (folder / "reports/train/metrics.json").write_text('{"best_epoch": 2}')
    write_table(folder / LEARNING_CURVE, LEARNING_CURVE_COLUMNS, [])
    (folder / "reports/data.json").write_text(json.dumps({"images": counts}))
    parity = exported_figures(test, broken=2)
    (folder / PARITY).write_text(json.dumps(summary({"litert_int8": parity} if test else {})))
    twins = [f"{number:02x}{0:014x}" for number in (2, 0)] if test else []
    near = ("near-duplicate", "<i>copy</i>.jpg", classes[0], "test")
    near += ("train/0.jpg", classes[0], "train", "0.0012", "", *twins)
    write_table(folder / "reports/data_issues.csv", ISSUES_COLUMNS, [near] if test else [])
    (folder / "models/epochs").mkdir(parents=True)
    model = colour_model()
    if extra:
        for epoch, factor in ((1, -1.0), (2, 1.0)):
            head = model.get_layer("head")
            head.set_weights([factor * np.eye(3), np.zeros(3)])
            model.save_weights(folder / f"models/epochs/epoch-{epoch:03d}.weights.h5")
    info = ModelInfo(
        classes=classes,
        shape=(16, 16, 3),
        preprocess=Preprocessing(**PREPROCESS),
        parameters=model.count_params(),
        model={"name": "colour"},
        train={"best_epoch": 2},
    )
    reference = Reference(
        *(
            colour_features(colour_images(np.arange(count) % 3, seed=number))
            for number, count in enumerate((30, val))
        )
    )
    save_model(model, folder / "models/model.keras", info, reference)
    np.save(folder / LABEL_CONFIDENCE, np.full(30, 0.9, np.float32))
    (folder / "data/features").mkdir()
    write_embedding(folder / "data/features", None)
    np.save(folder / "models/augmented.npy", colour_images(np.zeros(20, int)))
    settings = (ROOT / "params.yaml").read_text(encoding="utf-8")
    (folder / "params.yaml").write_text(settings.replace("top_k: 3", "top_k: 2"))


def write_export(folder: Path) -> None:
    """The folder of a small model in ONNX and LiteRT, as the stage export writes one."""
    import keras

    from stages.inference.convert import convert
    from stages.inference.exported import load_exported
    from stages.store import exported as store
    from stages.store.model import Judgement, Limit, ModelInfo, Reference, Score, save_model

    classes, known = len(EXPORTED_CLASSES), 30
    layers = [
        keras.Input(EXPORTED_SHAPE, dtype="uint8"),
        keras.layers.Rescaling(1 / 25),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(classes, activation="softmax"),
    ]
    model = keras.Sequential(layers)
    model.layers[-1].set_weights([np.eye(classes)[::-1], np.zeros(classes)])
    preprocess = Preprocessing(size=list(EXPORTED_SHAPE[:2]), color="rgb", interpolation="area")
    info = ModelInfo(classes=EXPORTED_CLASSES, shape=EXPORTED_SHAPE, preprocess=preprocess)
    random = np.random.default_rng(0)
    channels = np.arange(known) % 3
    features = np.eye(3)[channels] * 9 + random.normal(0, 0.3, (known, 3))
    trained = features.clip(0).astype(np.float16)
    save_model(model, folder / "model.keras", info, Reference(trained, trained))
    none = np.zeros((0, *EXPORTED_SHAPE), np.uint8)
    for format in ("onnx", "litert"):
        file = folder / store.FILES[format]
        sizes = convert(format, folder / "model.keras", "none", none, file)
    side, columns = 32, 8
    sheet = Image.new("RGB", (side * columns, side * -(-known // columns)))
    for at, feature in enumerate(trained):
        colour = tuple(int(25 * value) for value in feature)
        place = at % columns * side, at // columns * side
        sheet.paste(Image.new("RGB", (side, side), colour), place)
    sheet.save(folder / store.NEIGHBOURS)
    takes, gives = store.tensors(EXPORTED_SHAPE, classes, sizes)
    record = store.Exported(
        classes=EXPORTED_CLASSES,
        preprocess=preprocess,
        input=takes,
        outputs=gives,
        temperature=1.0,
        judgement=Judgement(
            sha256="0" * 64,
            tta="none",
            top_k=2,
            test=Score(accuracy=0.9, accuracy_low=0.8, accuracy_high=1.0, count=9),
            sets=Limit(share=0.9, threshold=0.2),
            unlike=Limit(share=0.01, threshold=0.1),
        ),
        calibration=None,
        files={
            format: store.describe_file(folder / store.FILES[format])
            for format in ("onnx", "litert")
        },
        golden=[],
        neighbours=store.Neighbours(
            file=store.NEIGHBOURS, side=side, columns=columns, labels=(2 - channels).tolist()
        ),
    )
    store.write_exported(folder, record)
    _, observe = load_exported(folder / "model.onnx", 1)
    (folder / store.GOLDEN).mkdir()
    golden = []
    for at in range(8):
        image = random.integers(0, 100, (30, 40, 3))
        image[..., at % 3] += (10, 150)[at % 2]  # one in doubt, one beyond
        names = {"image": f"golden/{at}.png", "tensor": f"golden/{at}.npy"}
        Image.fromarray(image.astype(np.uint8)).save(folder / names["image"])
        pixels = decode((folder / names["image"]).read_bytes(), preprocess)
        np.save(folder / names["tensor"], pixels)
        seen = observe(pixels[None])
        answer = {"probabilities": seen.probabilities[0].tolist()}
        golden.append(store.Golden(**names, **answer, distance=float(seen.distance[0])))
    store.write_exported(folder, record.model_copy(update={"golden": golden}))
