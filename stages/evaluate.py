"""evaluate: the trained model on images it never saw. Scores, predictions, data of the plots."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import stages.quiet  # noqa: F401
from stages.errors import UserError, run
from stages.files import (
    CARD,
    CLASSIFICATION_REPORT,
    CURVES,
    DATA_SUMMARY,
    EPOCHS,
    EVALUATION,
    JUDGEMENT,
    METRICS,
    MODEL,
    PREDICTIONS,
    PREDICTIONS_COLUMNS,
    PROCESSED,
    SCORES,
    SPLITS,
    TIMES,
)
from stages.inference.explain import grad_cam, last_convolution, layer_table
from stages.inference.probabilities import probabilities
from stages.metrics import curves, scores
from stages.parameters.evaluate import Evaluate
from stages.parameters.section import read_settings
from stages.progress import progress
from stages.report.summary import model_card
from stages.store.blobs import file_sha256
from stages.store.image_set import ImageSet, load_image_set
from stages.store.model import Judgement, Score, load_model, record_times, write_judgement
from stages.store.names import path_cell
from stages.store.outputs import Outputs, made_by, outputs_of
from stages.store.tables import write_table

if TYPE_CHECKING:
    import keras


def main() -> None:
    started = time.perf_counter()
    with outputs_of("evaluate") as outputs:
        times = evaluate(outputs)
    times = {"seconds": round(time.perf_counter() - started, 3), **times}
    record_times(TIMES, "evaluate", times, MODEL)


def evaluate(outputs: Outputs) -> dict[str, float]:
    """Judge the model and write what is known of it; how fast it was."""
    settings = read_settings(Evaluate)
    train, test, val, extra = (
        load_image_set(PROCESSED, SPLITS / f"{side}.csv")
        for side in ("train", "test", "val", "extra")
    )
    with made_by("split", DATA_SUMMARY):
        data = dict(json.loads(DATA_SUMMARY.read_text(encoding="utf-8")))
    model, info = load_model(MODEL)
    classes = info.classes
    if classes != test.dataset.classes:
        raise UserError(f"{MODEL} was trained for other classes than {PROCESSED} holds; dvc repro")
    if info.shape != test.dataset.shape:
        raise UserError(f"{MODEL} takes images of another size than {PROCESSED} holds; dvc repro")
    if not len(test):
        raise UserError(f"{SPLITS}/test.csv names no images; raise split.test")

    def predict(images: ImageSet, what: str) -> np.ndarray:
        return _predict(model, images, settings.batch_size, settings.tta, what)

    before = time.perf_counter()
    test_probabilities = predict(test, "test images")
    forward = time.perf_counter() - before
    predicted = test_probabilities.argmax(axis=1)

    figures = {"test": scores.score(test.labels, test_probabilities, settings.top_k)}
    figures["test"] |= scores.rounded({"base_rate": scores.base_rate(train.labels, test.labels)})
    by_class = scores.score_classes(test.labels, test_probabilities, classes)
    for side, images in (("val", val), ("extra", extra)):
        if len(images):
            judged = predict(images, f"{side} images")
            figures[side] = scores.score(images.labels, judged, settings.top_k)
    figures["model"] = {"parameters": model.count_params(), "bytes": MODEL.stat().st_size}

    mistakes = scores.most_confident_mistakes(test.labels, test_probabilities, settings.grad_cam)
    maps = _explain(model, test, mistakes, predicted, settings.batch_size)
    layers, sha256 = layer_table(model), file_sha256(MODEL)
    single = _seconds_per_single_image(model, test)
    by_epoch = _accuracy_by_epoch(model, extra, predict) if len(extra) else []

    print(_judged(figures), flush=True)
    _write_json(outputs.file(METRICS), scores.headline(figures))
    _write_json(outputs.file(SCORES), figures)
    _write_predictions(outputs.file(PREDICTIONS), test, test_probabilities, classes)
    _write_text(outputs.file(CLASSIFICATION_REPORT), scores.report(test.labels, predicted, classes))
    folder = outputs.directory(CURVES)
    for name, table in curves.TABLES.items():
        write_table(folder / f"{name}.csv", *table(test.labels, test_probabilities, classes))
    write_table(folder / "per_class.csv", *curves.per_class_table(by_class))
    write_table(folder / f"{curves.EXTRA}.csv", curves.EXTRA_COLUMNS, by_epoch)
    folder = outputs.directory(EVALUATION)
    np.save(folder / "probabilities.npy", test_probabilities)
    np.save(folder / "grad_cam.npy", maps)
    write_table(folder / "grad_cam.csv", ["id"], [[id] for id in test.ids[mistakes[: len(maps)]]])
    _write_json(folder / "model.json", {**info.model_dump(), "sha256": sha256, "layers": layers})
    card = model_card(info, figures, by_class, data, settings.model_dump())
    _write_text(outputs.file(CARD), card)
    score = Score.model_validate({name: figures["test"][name] for name in Score.model_fields})
    write_judgement(
        outputs.file(JUDGEMENT),
        Judgement(sha256=sha256, tta=settings.tta, top_k=settings.top_k, test=score),
    )
    return {
        "images_per_second": round(len(test) / forward, 1),
        "milliseconds_per_single_image": round(1000 * single, 3),
    }


def _judged(figures: dict[str, scores.Scores]) -> str:
    """Which images were judged and how right the model is, in one line."""
    sides = [side for side in ("test", "val", "extra") if side in figures]
    counts = ", ".join(f"{figures[side]['count']:,} {side}" for side in sides)
    return f"{counts} images judged; test accuracy {figures['test']['accuracy']:.2%}"


def _predict(
    model: "keras.Model", images: ImageSet, batch_size: int, tta: str, what: str
) -> np.ndarray:
    """Class probabilities float32 (n, classes); holds one batch of pixels at a time."""
    out = np.empty((len(images), model.output_shape[-1]), np.float32)
    with progress(len(images), "images", what) as bar:
        start = 0
        for batch in probabilities(model, images.batches(batch_size), tta):
            out[start : start + len(batch)] = batch
            start += len(batch)
            bar.update(len(batch))
    if bad := int((~np.isfinite(out)).any(axis=1).sum()):
        raise UserError(
            f"{MODEL} gives no numbers (NaN) for {bad:,} of {len(out):,} {what}: its training "
            "diverged; lower train.optimizer.learning_rate and train again"
        )
    return out


def _explain(
    model: "keras.Model",
    test: ImageSet,
    chosen: np.ndarray,
    predicted: np.ndarray,
    batch_size: int,
) -> np.ndarray:
    """Grad-CAM uint8 (n, 2, rows, columns) of the `chosen` images.

    First for the predicted class, then for the actual one; empty for a model without
    convolutions.
    """
    layer = last_convolution(model)
    if layer is None or not len(chosen):
        return np.zeros((0, 2, 1, 1), np.uint8)
    pixels = test.pixels.take(test.rows[chosen])
    size = min(batch_size, 16)
    both = [
        np.concatenate(
            [
                grad_cam(model, layer, pixels[at : at + size], targets[at : at + size])
                for at in range(0, len(chosen), size)
            ]
        )
        for targets in (predicted[chosen], test.labels[chosen])
    ]
    return np.stack(both, axis=1)


def _accuracy_by_epoch(
    model: "keras.Model", extra: ImageSet, predict: Callable[[ImageSet, str], np.ndarray]
) -> list[tuple]:
    """Accuracy on the extra set with the weights of each saved epoch. Nothing is chosen by it."""
    rows = []
    for path in sorted(EPOCHS.glob("epoch-*.weights.h5")):
        model.load_weights(path)
        right = predict(extra, f"extra images, {path.stem}").argmax(axis=1) == extra.labels
        accuracy = scores.accuracy(int(right.sum()), len(extra))
        accuracy.pop("count")
        rows.append((int(path.name.split(".")[0].removeprefix("epoch-")), *accuracy.values()))
    return rows


def _seconds_per_single_image(model: "keras.Model", test: ImageSet, runs: int = 20) -> float:
    """Median time of one image alone, as a service would see it."""
    times = []
    marks = (time.perf_counter() for _ in probabilities(model, [test.images(0, 1)] * (runs + 1)))
    first = next(marks)  # includes the compilation
    for mark in marks:
        times.append(mark - first)
        first = mark
    return float(np.median(times))


def _write_predictions(
    path: Path, test: ImageSet, probabilities: np.ndarray, classes: list[str]
) -> None:
    rows = zip(
        test.ids,
        (classes[label] for label in test.labels),
        (classes[label] for label in probabilities.argmax(axis=1)),
        (f"{confidence:.6f}" for confidence in probabilities.max(axis=1)),
        map(path_cell, test.paths),
        strict=True,
    )
    write_table(path, PREDICTIONS_COLUMNS, rows)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    _write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run(main, at_once=True)
