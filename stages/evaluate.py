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
    FEATURES,
    JUDGEMENT,
    LABEL_CONFIDENCE,
    METRICS,
    MODEL,
    PREDICTIONS,
    PREDICTIONS_COLUMNS,
    PROCESSED,
    SCORES,
    SPLITS,
    SUSPECTS,
    SUSPECTS_COLUMNS,
    TIMES,
    TRUST_COLUMNS,
)
from stages.inference import suspects, trust
from stages.inference.explain import explain, layer_table
from stages.inference.fold import folded
from stages.inference.frozen import after_features
from stages.inference.judge import (
    Judged,
    accuracy_by_epoch,
    believed,
    judge_of,
    limits_of,
    look_at,
    ordinary_distances,
    seconds_per_single_image,
    unknown,
)
from stages.inference.probabilities import observer
from stages.metrics import curves, scores
from stages.parameters.evaluate import Evaluate
from stages.parameters.section import read_settings
from stages.report.summary import model_card
from stages.store.blobs import file_sha256
from stages.store.features import Features, read_embedding
from stages.store.image_set import ImageSet, load_image_set
from stages.store.model import (
    Judgement,
    ModelInfo,
    Score,
    load_model,
    load_reference,
    record_times,
    write_judgement,
)
from stages.store.names import path_cell
from stages.store.outputs import Outputs, made_by, outputs_of
from stages.store.processed import Pixels
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
    reference = load_reference(MODEL)
    classes = info.classes
    if classes != test.dataset.classes:
        raise UserError(f"{MODEL} was trained for other classes than {PROCESSED} holds; dvc repro")
    if info.shape != test.dataset.shape:
        raise UserError(f"{MODEL} takes images of another size than {PROCESSED} holds; dvc repro")
    if not len(test):
        raise UserError(f"{SPLITS}/test.csv names no images; raise split.test")

    known = _from_features(model, info, settings.tta, test.pixels)
    take, net = known or (test.pixels.take, folded(model))
    observe = observer(net, settings.tta, reference.trained if reference else None)
    judge = judge_of(lambda rows: observe(take(rows)), reference)

    def look(images: ImageSet, what: str) -> Judged:
        return look_at(judge, images, settings.batch_size, what)

    before = time.perf_counter()
    seen = look(test, "test images")
    test_probabilities = seen.probabilities
    forward = time.perf_counter() - before
    predicted = test_probabilities.argmax(axis=1)

    figures = {"test": scores.score(test.labels, test_probabilities, settings.top_k)}
    figures["test"] |= scores.rounded({"base_rate": scores.base_rate(train.labels, test.labels)})
    by_class = scores.score_classes(test.labels, test_probabilities, classes)
    held_out = look(val, "validation images")
    judged = {"test": seen}
    for side, images in (("val", val), ("extra", extra)):
        if len(images):
            judged[side] = held_out if side == "val" else look(images, "extra images")
            answers = judged[side].probabilities
            figures[side] = scores.score(images.labels, answers, settings.top_k)
    ordinary = ordinary_distances(info, reference, held_out)
    limits = limits_of(settings, val.labels, held_out, ordinary)
    temperature = info.calibration.temperature if info.calibration else 1.0
    figures["trust"], sets, unlike = believed(limits, temperature, test.labels, seen)
    sides = {"train": train, "val": val, "test": test, "extra": extra}
    found = _suspects(sides, {side: one.probabilities for side, one in judged.items()})
    figures["suspects"] = {
        side: sum(suspect.side == side for suspect in found)
        for side, images in sides.items()
        if len(images)
    }
    once = observe if settings.tta == "none" else observer(net)
    suspected = suspects.describe(
        lambda rows: once(take(rows)),
        sides,
        found,
        FEATURES,
        settings.suspects,
        settings.batch_size,
    )
    figures["model"] = {"parameters": model.count_params(), "bytes": MODEL.stat().st_size}

    mistakes = scores.most_confident_mistakes(test.labels, test_probabilities, settings.grad_cam)
    maps, plain = explain(model, test, mistakes, predicted, settings.batch_size)
    if settings.tta == "none":
        _check(test_probabilities[mistakes[: len(plain)]], plain)
    layers, sha256 = layer_table(model), file_sha256(MODEL)
    times = {}
    if not known:  # else the net was not run
        single = seconds_per_single_image(once, test.images(0, 1))
        times["images_per_second"] = round(len(test) / forward, 1)
        times["milliseconds_per_single_image"] = round(1000 * single, 3)
    by_epoch = accuracy_by_epoch(model, EPOCHS, extra, settings) if len(extra) else []

    print(
        "\n".join([_judged(figures), *unknown(settings, limits, len(val), len(ordinary))]),
        flush=True,
    )
    _write_json(outputs.file(METRICS), scores.headline(figures))
    _write_json(outputs.file(SCORES), figures)
    _write_predictions(outputs.file(PREDICTIONS), test, test_probabilities, classes, sets, unlike)
    write_table(outputs.file(SUSPECTS), SUSPECTS_COLUMNS, suspected)
    _write_text(outputs.file(CLASSIFICATION_REPORT), scores.report(test.labels, predicted, classes))
    folder = outputs.directory(CURVES)
    for name, table in curves.TABLES.items():
        write_table(folder / f"{name}.csv", *table(test.labels, test_probabilities, classes))
    write_table(folder / "per_class.csv", *curves.per_class_table(by_class))
    write_table(folder / f"{curves.EXTRA}.csv", curves.EXTRA_COLUMNS, by_epoch)
    folder = outputs.directory(EVALUATION)
    np.save(folder / "probabilities.npy", test_probabilities)
    np.save(folder / "unlike.npy", seen.distance)
    np.save(folder / "map.npy", seen.place)
    np.save(folder / "grad_cam.npy", maps)
    write_table(folder / "grad_cam.csv", ["id"], [[id] for id in test.ids[mistakes[: len(maps)]]])
    _write_json(folder / "model.json", {**info.model_dump(), "sha256": sha256, "layers": layers})
    card = model_card(info, figures, by_class, data, settings.model_dump())
    _write_text(outputs.file(CARD), card)
    score = Score.model_validate({name: figures["test"][name] for name in Score.model_fields})
    write_judgement(
        outputs.file(JUDGEMENT),
        Judgement(
            sha256=sha256,
            tta=settings.tta,
            top_k=settings.top_k,
            test=score,
            sets=limits.sets,
            unlike=limits.unlike,
        ),
    )
    return times


def _from_features(
    model: "keras.Model", info: ModelInfo, tta: str, pixels: Pixels
) -> tuple[Callable[[np.ndarray], np.ndarray], "keras.Model"] | None:
    """A function that takes the features of images by their global rows, and the rest of the net;
    None if those in data/features are of another backbone, or not of all views."""
    if info.model.get("backbone") != "frozen" or tta != "none":
        return None
    with made_by("features", FEATURES):
        embedding = read_embedding(FEATURES)
        rest = after_features(model, embedding.key) if embedding else None
        if rest is None:
            return None
        features = Features(FEATURES, pixels.starts)

    def take(rows: np.ndarray) -> np.ndarray:
        with made_by("features", FEATURES):
            return features.take(rows)

    return take, rest


# Rounding in another order changes a probability by 1e-5, on a GPU with shorter numbers by 1e-3.
ROUNDING = 0.02


def _check(ours: np.ndarray, plain: np.ndarray) -> None:
    """Raise `UserError` unless the mistakes are those of the net as it is, too: the probabilities
    (n, classes) that were judged, and `plain` ones, without shortcut.

    A net that folding or wrong features spoil makes mistakes, and these are at hand.
    """
    if len(plain) and (difference := float(np.abs(ours - plain).max())) > ROUNDING:
        raise UserError(
            f"{MODEL} as it is answers otherwise than by {FEATURES} or without its normalisations "
            f"(stages/inference/fold.py): a probability differs by {difference:.2f}; make the "
            "features anew with dvc repro --force features, and report it if that does not help"
        )


def _judged(figures: dict[str, scores.Scores]) -> str:
    """Which images were judged and how right the model is, in one line."""
    sides = [side for side in ("test", "val", "extra") if side in figures]
    counts = ", ".join(f"{figures[side]['count']:,} {side}" for side in sides)
    return f"{counts} images judged; test accuracy {figures['test']['accuracy']:.2%}"


def _suspects(
    sets: dict[str, ImageSet], probabilities: dict[str, np.ndarray]
) -> list[suspects.Suspect]:
    """The images of all `sets` whose label is probably wrong; `probabilities` float32 (n, classes)
    of those that the model did not learn from."""
    with made_by("train", LABEL_CONFIDENCE):
        trained = np.load(LABEL_CONFIDENCE)
        if trained.shape != sets["train"].labels.shape:
            raise ValueError("it is about other images")
    sides = {"train": (sets["train"].labels, trained)}
    for side in [side for side in sets if side in probabilities]:  # in the order of the sides
        labels = sets[side].labels
        sides[side] = labels, probabilities[side][np.arange(len(labels)), labels]
    return suspects.find(sides)


def _write_predictions(
    path: Path,
    test: ImageSet,
    probabilities: np.ndarray,
    classes: list[str],
    sets: np.ndarray | None,
    unlike: np.ndarray | None,
) -> None:
    none = [""] * len(test)
    rows = zip(
        test.ids,
        (classes[label] for label in test.labels),
        (classes[label] for label in probabilities.argmax(axis=1)),
        (f"{confidence:.6f}" for confidence in probabilities.max(axis=1)),
        map(path_cell, test.paths),
        none if sets is None else map(trust.joined, trust.named(sets, probabilities, classes)),
        none if unlike is None else ("yes" if far else "no" for far in unlike),
        strict=True,
    )
    write_table(path, [*PREDICTIONS_COLUMNS, *TRUST_COLUMNS], rows)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    _write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run(main, at_once=True)
