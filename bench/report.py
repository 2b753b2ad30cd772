"""What do scores, pictures and the page cost beyond the model's own forward pass?

Random images of 32x32 and an untrained convnet (wrong nearly always: the most confusions),
through evaluate and plot: 10,000 of 10 classes, then five times as many, then 100 classes.
The peer is the bare model over the same images in memory. Goals: under 30 s more than the
peer for the 10,000, starting Python, TensorFlow and matplotlib included; five times the images
need at most 1.25 times the memory (or 64 MiB more); the page has at most 15 MB.

    python -m bench.report [--pages]     (--pages: also 100,000 images of 100 classes)
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from bench.measure import ROOT, report, run_stage, write_parameters
from stages.files import (
    FEATURES,
    INDEX_COLUMNS,
    ISSUES_COLUMNS,
    LABEL_CONFIDENCE,
    LEARNING_CURVE,
    LEARNING_CURVE_COLUMNS,
    REJECTS_COLUMNS,
    SPLIT_COLUMNS,
)
from stages.parameters.pixels import Preprocessing
from stages.store.features import write_embedding
from stages.store.processed import Dataset
from stages.store.tables import write_table

GOAL_SECONDS, GROWTH, SLACK_MIB, PAGE_MB = 30, 1.25, 64, 15
IMAGES, SHAPE = 10_000, (32, 32, 3)
SHARD = 5_000

MODEL = """
import sys
from stages.parameters.model import Model
from stages.store.model import ModelInfo, save_model
from stages.inference.deployable import Deployable
from stages.store.processed import Dataset
data = Dataset.load("data/processed")
net = Deployable(Model(name="convnet"), data.shape, len(data.classes))
info = ModelInfo(classes=data.classes, shape=data.shape, preprocess=data.preprocess)
save_model(net.model, "models/model.keras", info)
"""
FORWARD = """
import time, numpy as np, stages.quiet
from stages.store.image_set import load_image_set
from stages.store.model import load_model
import tensorflow as tf
model, _ = load_model("models/model.keras")
images = load_image_set("data/processed", "data/splits/test.csv").images()
forward = tf.function(lambda batch: model(batch, training=False))
forward(images[:256])
started = time.perf_counter()
for at in range(0, len(images), 256):
    forward(images[at : at + 256]).numpy()
print(time.perf_counter() - started)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", action="store_true", help="also 100,000 images of 100 classes")
    jobs = {"few": (IMAGES, 10), "many": (5 * IMAGES, 10)}
    if parser.parse_args().pages:
        jobs["classes"] = (10 * IMAGES, 100)
    results = {}
    for name, (count, classes) in jobs.items():
        with tempfile.TemporaryDirectory() as folder:
            results[name] = measure(Path(folder), count, classes)
    few, many = results["few"], results["many"]
    seconds = round(few["evaluate"].seconds + few["plot"].seconds - few["forward"], 1)
    work = round(few["evaluate"].work + few["plot"].work, 1)
    peaks = {
        stage: {name: round(result[stage].peak) for name, result in results.items()}
        for stage in ("evaluate", "plot")
    }
    pages = {name: round(result["page"] / 1e6, 2) for name, result in results.items()}
    flat = all(
        many[stage].peak <= max(GROWTH * few[stage].peak, few[stage].peak + SLACK_MIB)
        for stage in peaks
    )
    report(
        "report",
        seconds_beyond_forward=seconds,
        work_seconds=work,
        forward_seconds=round(few["forward"], 1),
        peak_mib=peaks,
        page_mb=pages,
        ratio=round(seconds / GOAL_SECONDS, 2),
        goal=f"{GOAL_SECONDS} s; memory {GROWTH} x or {SLACK_MIB} MiB more; {PAGE_MB} MB",
        met=seconds < GOAL_SECONDS and flat and max(pages.values()) <= PAGE_MB,
    )


def measure(folder: Path, count: int, classes: int) -> dict:
    """`forward` seconds of the bare model, the `Run`s of both stages, `page` in bytes."""
    write_job(folder, count, classes)
    _python(MODEL, folder)
    result = {"forward": float(_python(FORWARD, folder).split()[-1])}
    print(f"{count:,} images, bare forward pass: {result['forward']:.1f} s", flush=True)
    for stage in ("evaluate", "plot"):
        run = result[stage] = run_stage(stage, folder, watch_memory=True)
        print(
            f"{count:,} images, {classes} classes, {stage}: {run.seconds:.1f} s "
            f"({run.work:.1f} s of work), {run.peak:.0f} MiB",
            flush=True,
        )
    result["page"] = (folder / "reports/report.html").stat().st_size
    return result


def write_job(folder: Path, count: int, classes: int) -> None:
    """What evaluate and plot read besides the model: `count` random test images."""
    rng = np.random.default_rng(0)
    names = [f"{k:03d} a class with a rather long name" for k in range(classes)]
    processed, splits = folder / "data/processed", folder / "data/splits"
    for path in (processed, splits, folder / "models/epochs", folder / "reports/train"):
        path.mkdir(parents=True)
    preprocessing = Preprocessing(size=list(SHAPE[:2]), color="rgb")
    Dataset(classes=names, shape=SHAPE, preprocess=preprocessing).save(processed)
    index, rows = [], []
    for start in range(0, count, SHARD):
        shard = f"images-{start // SHARD:05d}.npy"
        # Coarse noise: it compresses about as well as photos do.
        coarse = rng.integers(0, 256, (SHARD, 8, 8, 3), dtype=np.uint8)
        fine = rng.integers(0, 24, (SHARD, *SHAPE), dtype=np.uint8)
        np.save(processed / shard, coarse.repeat(4, axis=1).repeat(4, axis=2) // 2 + fine)
        for row in range(SHARD):
            id, name = f"{start + row:016x}", names[row % classes]
            fixed = {"id": id, "path": f"{name}/{id}.jpg", "label": name}
            fixed |= {"shard": shard, "row": row}
            index.append([fixed.get(column, 0) for column in INDEX_COLUMNS])
            rows.append((id, name))
    write_table(processed / "index.csv", INDEX_COLUMNS, index)
    write_table(processed / "rejects.csv", REJECTS_COLUMNS, [])
    train, none = rows[:100], []
    for side, part in {"train": train, "val": none, "test": rows, "extra": none}.items():
        write_table(splits / f"{side}.csv", SPLIT_COLUMNS, part)
    (folder / "reports/train/metrics.json").write_text("{}")
    write_table(folder / LEARNING_CURVE, LEARNING_CURVE_COLUMNS, [])
    (folder / "reports/data.json").write_text("{}")
    write_table(folder / "reports/data_issues.csv", ISSUES_COLUMNS, [])
    np.save(folder / LABEL_CONFIDENCE, np.full(len(train), 0.9, np.float32))
    (folder / FEATURES).mkdir()
    write_embedding(folder / FEATURES, None)
    np.save(folder / "models/augmented.npy", np.zeros((20, *SHAPE), np.uint8))
    write_parameters(folder)


def _python(code: str, folder: Path) -> str:
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "PATH": ""},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return run.stdout


if __name__ == "__main__":
    main()
