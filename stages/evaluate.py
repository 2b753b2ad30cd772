"""evaluate: the trained model on images it never saw. Scores, predictions, data of the plots."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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
from stages.inference.explain import grad_cam, last_convolution, layer_table
from stages.inference.fold import folded
from stages.inference.probabilities import Seen, observer, probabilities
from stages.metrics import curves, scores
from stages.parameters.evaluate import Evaluate
from stages.parameters.section import read_settings
from stages.progress import progress
from stages.report.summary import model_card
from stages.store.blobs import file_sha256
from stages.store.features import PLAIN, read_embedding, read_features
from stages.store.image_set import ImageSet, load_image_set
from stages.store.model import (
    Judgement,
    Limit,
    ModelInfo,
    Reference,
    Score,
    load_model,
    load_reference,
    record_times,
    write_judgement,
)
from stages.store.names import cell, path_cell
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
    reference = load_reference(MODEL)
    classes = info.classes
    if classes != test.dataset.classes:
        raise UserError(f"{MODEL} was trained for other classes than {PROCESSED} holds; dvc repro")
    if info.shape != test.dataset.shape:
        raise UserError(f"{MODEL} takes images of another size than {PROCESSED} holds; dvc repro")
    if not len(test):
        raise UserError(f"{SPLITS}/test.csv names no images; raise split.test")

    fast = folded(model)
    judge = _judge(fast, reference, settings.tta)

    def observe(images: ImageSet, what: str) -> Judged:
        return _observe(judge, images, settings.batch_size, what)

    before = time.perf_counter()
    seen = observe(test, "test images")
    test_probabilities = seen.probabilities
    forward = time.perf_counter() - before
    predicted = test_probabilities.argmax(axis=1)

    figures = {"test": scores.score(test.labels, test_probabilities, settings.top_k)}
    figures["test"] |= scores.rounded({"base_rate": scores.base_rate(train.labels, test.labels)})
    by_class = scores.score_classes(test.labels, test_probabilities, classes)
    held_out = observe(val, "validation images")
    judged = {"test": seen}
    for side, images in (("val", val), ("extra", extra)):
        if len(images):
            judged[side] = held_out if side == "val" else observe(images, "extra images")
            answers = judged[side].probabilities
            figures[side] = scores.score(images.labels, answers, settings.top_k)
    ordinary = _ordinary(info, reference, held_out)
    limits = _limits(settings, val.labels, held_out, ordinary)
    temperature = info.calibration.temperature if info.calibration else 1.0
    figures["trust"], sets, unlike = _trust(limits, temperature, test.labels, seen)
    sides = {"train": train, "val": val, "test": test, "extra": extra}
    found = _suspects(sides, {side: one.probabilities for side, one in judged.items()})
    figures["suspects"] = {
        side: sum(suspect.side == side for suspect in found)
        for side, images in sides.items()
        if len(images)
    }
    suspected = _describe_suspects(fast, sides, found, settings)
    figures["model"] = {"parameters": model.count_params(), "bytes": MODEL.stat().st_size}

    mistakes = scores.most_confident_mistakes(test.labels, test_probabilities, settings.grad_cam)
    maps = _explain(model, test, mistakes, predicted, settings.batch_size)
    layers, sha256 = layer_table(model), file_sha256(MODEL)
    single = _seconds_per_single_image(fast, test)
    by_epoch = _accuracy_by_epoch(model, extra, settings) if len(extra) else []

    print(
        "\n".join([_judged(figures), *_unknown(settings, limits, len(val), len(ordinary))]),
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
    return {
        "images_per_second": round(len(test) / forward, 1),
        "milliseconds_per_single_image": round(1000 * single, 3),
    }


def _judged(figures: dict[str, scores.Scores]) -> str:
    """Which images were judged and how right the model is, in one line."""
    sides = [side for side in ("test", "val", "extra") if side in figures]
    counts = ", ".join(f"{figures[side]['count']:,} {side}" for side in sides)
    return f"{counts} images judged; test accuracy {figures['test']['accuracy']:.2%}"


class Judged(NamedTuple):
    """What the model makes of images: `probabilities` float32 (n, classes), `distance` float32
    (n,) from the training images (NaN if unknown), `place` float32 (n, 2) on the map of features.
    """

    probabilities: np.ndarray
    distance: np.ndarray
    place: np.ndarray


def _judge(
    model: "keras.Model", reference: Reference | None, tta: str
) -> Callable[[np.ndarray], Judged]:
    """A function from uint8 (n, height, width, channels) to what `model` makes of them."""
    observe = observer(model, tta, reference.trained if reference else None)
    mean, axes = trust.plane(reference.trained) if reference else (0.0, np.zeros((1, 2)))

    def judge(pixels: np.ndarray) -> Judged:
        seen = observe(pixels)
        features = seen.features if reference else np.zeros((len(pixels), 1))
        place = ((features - mean) @ axes).astype(np.float32)
        return Judged(seen.probabilities, seen.distance, place)

    return judge


def _observe(
    judge: Callable[[np.ndarray], Judged], images: ImageSet, batch_size: int, what: str
) -> Judged:
    """What the model makes of `images`; holds one batch of pixels and features at a time."""
    parts = [judge(images.images(0, 0))]  # for the shapes, if there are no images
    with progress(len(images), "images", what) as bar:
        for pixels in images.batches(batch_size):
            parts.append(judge(pixels))
            bar.update(len(pixels))
    seen = Judged(*map(np.concatenate, zip(*parts, strict=True)))
    if bad := int((~np.isfinite(seen.probabilities)).any(axis=1).sum()):
        raise UserError(
            f"{MODEL} gives no numbers (NaN) for {bad:,} of {len(images):,} {what}: its training "
            "diverged; lower train.optimizer.learning_rate and train again"
        )
    return seen


class Limits(NamedTuple):
    """Thresholds that the validation images give, None where they are too few."""

    sets: Limit | None
    unlike: Limit | None


def _ordinary(info: ModelInfo, reference: Reference | None, held_out: Judged) -> np.ndarray:
    """How far from the training images are images like them, float32 (n,).

    Those that the net did not learn from: the validation images, and where the backbone is frozen
    the training images too, each beside the others.
    """
    ordinary = held_out.distance[np.isfinite(held_out.distance)]
    if reference and info.model.get("backbone") == "frozen" and len(reference.trained) > 1:
        ordinary = np.concatenate([ordinary, trust.nearest_other(reference.trained)])
    return ordinary


def _limits(
    settings: Evaluate, labels: np.ndarray, held_out: Judged, ordinary: np.ndarray
) -> Limits:
    """The thresholds for what `settings` ask for, by the validation images, and by the distances
    of `ordinary` images."""
    sets = trust.set_threshold(held_out.probabilities, labels, settings.coverage)
    unlike = trust.quantile(ordinary, 1 - settings.unlike)
    return Limits(
        None if sets is None else Limit(share=settings.coverage, threshold=sets),
        None if unlike is None else Limit(share=settings.unlike, threshold=unlike),
    )


def _unknown(settings: Evaluate, limits: Limits, val: int, ordinary: int) -> Iterator[str]:
    """What so many validation images, and so many `ordinary` distances, are too few for."""
    for limit, count, what, key, share in (
        (limits.sets, val, "prediction sets", "coverage", settings.coverage),
        (limits.unlike, ordinary, "image is called unlike", "unlike", 1 - settings.unlike),
    ):
        if limit is None:
            yield (
                f"no {what}: evaluate.{key} = {getattr(settings, key):g} needs at least "
                f"{trust.images_for(share):,} validation images, not {count:,}; raise split.val"
            )


def _trust(
    limits: Limits, temperature: float, labels: np.ndarray, seen: Judged
) -> tuple[scores.Scores, np.ndarray | None, np.ndarray | None]:
    """How far the model's doubts can be believed, by the test images; their sets bool (n, classes)
    and which of them are unlike, bool (n,)."""
    raw = scores.without_temperature(seen.probabilities, temperature)
    correct = seen.probabilities.argmax(axis=1) == labels
    figures = {
        "temperature": temperature,
        "ece_before": scores.expected_calibration_error(correct, raw.max(axis=1)),
    }
    sets = unlike = None
    if limits.sets:
        sets = trust.prediction_sets(seen.probabilities, limits.sets.threshold)
        figures |= {"coverage_asked": limits.sets.share, "set_threshold": limits.sets.threshold}
        figures |= scores.score_sets(labels, sets)
    if limits.unlike:
        unlike = seen.distance > limits.unlike.threshold
        figures |= {"unlike_asked": limits.unlike.share, "unlike": unlike.mean()}
        figures["unlike_threshold"] = limits.unlike.threshold
    return scores.rounded(figures), sets, unlike


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


def _describe_suspects(
    model: "keras.Model",
    sets: dict[str, ImageSet],
    found: list[suspects.Suspect],
    settings: Evaluate,
) -> list[tuple]:
    """The rows of reports/label_suspects.csv."""
    listed, train = found[: settings.suspects], sets["train"]
    if not listed:
        return []
    names, size = train.dataset.classes, settings.batch_size
    images = [(sets[suspect.side], suspect.position) for suspect in listed]
    rows = np.array([of.rows[at] for of, at in images])
    given = np.array([of.labels[at] for of, at in images])
    observe = observer(model)

    def look(rows: np.ndarray) -> Seen:
        starts = range(0, len(rows), size)
        parts = [observe(train.pixels.take(rows[start : start + size])) for start in starts]
        return Seen(*map(np.concatenate, zip(*parts, strict=True)))

    probabilities, features, _ = look(rows)
    better = suspects.suggested(given, probabilities)
    wrong = [suspect.position for suspect in found if suspect.side == "train"]
    others = suspects.candidates(train.labels, np.union1d(given, better), wrong)
    with made_by("features", FEATURES):
        if read_embedding(FEATURES):  # then they are there
            both = np.concatenate([rows, train.rows[others]])
            embedded = read_features(FEATURES, train.pixels.starts, both, PLAIN)
            features, compared = embedded[: len(rows)], embedded[len(rows) :]
        else:
            compared = look(train.rows[others]).features if len(others) else features[:0]
    neighbours = [
        ["" if at < 0 else train.ids[others[at]] for at in found.tolist()]
        for found in (
            suspects.nearest(features, classes, compared, train.labels[others])
            for classes in (given, better)
        )
    ]
    return [
        (
            of.ids[at],
            path_cell(of.paths[at]),
            cell(names[given[number]]),
            cell(names[better[number]]),
            suspect.side,
            f"{suspect.score:.4f}",
            *near,
        )
        for number, (suspect, (of, at), *near) in enumerate(
            zip(listed, images, *neighbours, strict=True)
        )
    ]


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


def _accuracy_by_epoch(model: "keras.Model", extra: ImageSet, settings: Evaluate) -> list[tuple]:
    """Accuracy on the extra set with the weights of each saved epoch. Nothing is chosen by it."""
    judge, rows = _judge(model, None, settings.tta), []
    for path in sorted(EPOCHS.glob("epoch-*.weights.h5")):
        model.load_weights(path)
        seen = _observe(judge, extra, settings.batch_size, f"extra images, {path.stem}")
        right = seen.probabilities.argmax(axis=1) == extra.labels
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
