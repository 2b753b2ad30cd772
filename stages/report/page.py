"""The page: a self-contained HTML file, the same bytes for the same results."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from stages.metrics.scores import base_rate_warning, weakest_classes
from stages.report.curves import panels
from stages.report.images import data_uri, facts, gallery, thumbnails
from stages.report.results import Results
from stages.report.summary import headline, percent
from stages.store.corrections import Corrected
from stages.store.names import flatten, printable

FOLDER = Path(__file__).parent
# Charts with a place of their own on the page, or in the place of which it has a table.
PLACED = (
    *("learning_curves", "accuracy_by_epoch", "accuracy_by_photos"),
    *("roc", "precision_recall", "reliability", "class_scores", "class_counts"),
)
MATRIX = 150  # most classes in the confusion matrix of the page
PAIRS = 20  # rows of the table of most frequent confusions
SHOWN_REJECTS = 50
STEPS = 200  # of the threshold slider, from 0 to 1
# Where the pictures go. No text on the page can hold it: < is escaped there.
PICTURES = "<!-- pictures -->"


def render_page(
    results: Results,
    settings: dict[str, Any],
    defaults: dict[str, Any],
    charts: dict[str, str],
    explanations: list[tuple[int, np.ndarray, np.ndarray]],
    size: int,
) -> Iterator[str]:
    """The HTML text in parts, of at most `size` bytes together: as many pictures as fit.

    `settings` and `defaults` are all of params.yaml, `charts` SVG elements by name.
    `explanations` are (position in the test set, picture for the predicted class, picture
    for the actual class), pictures uint8 (h, w, 3).
    """
    classes = [printable(name) for name in results.classes]
    test = results.scores["test"]
    usual = flatten(defaults)
    images = gallery(results)
    known = facts(results, images, size // 3)
    table = settings["download"]["corrections"]
    html = (
        environment()
        .get_template("page.html.j2")
        .render(
            headline=headline(test),
            warning=base_rate_warning(test),
            run=_run(results, settings),
            scores=results.scores,
            test=test,
            weakest=weakest_classes(results.class_scores),
            classes=classes,
            rows=_class_rows(results),
            pairs=_pairs(results),
            data={
                "names": classes,
                "matrix": _matrix(results),
                "threshold": _threshold(results),
                "images": known,
                "sha256": results.sha256,
                "corrections": _corrections(results, size // 12),
            },
            issues=known["issues"],
            suspects=known["suspects"],
            suspected=_suspected(results),
            table=table,
            corrected=str(Corrected(**results.data.get("corrections", {}))),
            trust=results.scores.get("trust", {}),
            across=results.data.get("duplicates", {}).get("near_across_sides", 0),
            explanations=[
                _item(results, at) | {"wrong": data_uri(wrong), "right": data_uri(right)}
                for at, wrong, right in explanations
            ],
            charts=charts,
            curves={name: shown for name, shown in panels(results).items() if name in charts},
            further_charts={name: c for name, c in charts.items() if name not in PLACED},
            parity=results.parity,
            layers=results.layers,
            shape=results.shape,
            sha256=results.sha256,
            chosen_epoch=results.chosen_epoch,
            epochs=_epochs(results),
            monitor=settings["train"]["monitor"],
            softened=results.softened,
            hardest=results.hardest,
            floor=_loss_floor(settings["train"]["label_smoothing"], len(classes)),
            summary=[
                (name, value)
                for part, values in results.data.items()
                # Others stand elsewhere on the page.
                if part not in ("classes", "notes", "corrections")
                for name, value in flatten({part: values}).items()
            ],
            notes=results.data.get("notes", []),
            rejects=results.rejects[:SHOWN_REJECTS],
            rejects_total=len(results.rejects),
            settings=[
                (name, value, usual.get(name, "none") != value)
                for name, value in flatten(settings).items()
            ],
            counts=results.counts,
        )
    )
    rows = images.rows[: len(known["path"])]
    pictures = thumbnails(results.test.pixels, rows, size - len(html.encode()))
    before, after = html.split(PICTURES)
    yield before
    for picture in pictures:
        yield picture + " "
    yield after


def environment() -> jinja2.Environment:
    """For templates whose values are text, never markup, and show all that is in them."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        # Not of `Markup`, which is what `safe` and `tojson` give.
        finalize=lambda value: printable(value) if type(value) is str else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["percent"] = percent
    made.filters["number"] = lambda value: f"{value:,}"
    made.policies["json.dumps_function"] = _compact
    made.policies["json.dumps_kwargs"] = {}
    return made


def _compact(value: Any, **options: Any) -> str:
    """JSON in few bytes: names as they are, but for the two line ends of Unicode, which end a line
    of JavaScript."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, **options)
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _run(results: Results, settings: dict[str, Any]) -> dict[str, str]:
    """What was run on what, by name.

    Not when: the page of a commit is the same on every run. The commit is made after the page;
    the model's hash leads to it.
    """
    download = settings["download"]
    source = download["url"] or ("" if download["source"] == "digits" else download["path"])
    first = source if isinstance(source, str) else source[0]
    images = sum(int(values.sum()) for values in results.counts.values())
    epochs = _epochs(results)
    return {
        "Data": f"{download['source']} {Path(first).name.split('?')[0]}".strip(),
        "Images": f"{images:,} of {len(results.classes):,} classes",
        "Pixels": " x ".join(map(str, results.shape)),
        "Architecture": settings["model"]["name"]
        + (f", from {settings['model']['weights']}" if settings["model"]["weights"] else ""),
        **({"Epochs": f"{epochs:,}"} if epochs else {}),
        "Model": results.sha256[:12],
    }


def _epochs(results: Results) -> int:
    return max((int(epochs[-1]) for epochs, _ in results.history.values()), default=0)


def _loss_floor(smoothing: float, classes: int) -> float:
    """Cross-entropy of a perfect model in training: the entropy of a smoothed label."""
    share = np.full(classes, smoothing / classes)
    share[0] += 1 - smoothing
    return float(-(share[share > 0] * np.log(share[share > 0])).sum())


def _item(results: Results, at: int) -> dict[str, Any]:
    """A test image with what the model says about it."""
    return {
        "src": data_uri(results.test.images(at, at + 1)[0]),
        "actual": int(results.labels[at]),
        "predicted": int(results.predicted[at]),
        "path": results.test.paths[at],
    }


def _class_rows(results: Results) -> list[dict[str, Any]]:
    """Of each class its scores and numbers of images, the weakest first."""
    rows = [
        score._asdict()
        | {"counts": {side: int(values[k]) for side, values in results.counts.items()}}
        for k, score in enumerate(results.class_scores)
    ]
    return sorted(rows, key=lambda row: (not row["support"], row["f1"]))


def _pairs(results: Results) -> list[tuple[int, int, int, float]]:
    """Most frequent confusions: actual, predicted, count, share of the actual class."""
    wrong = results.confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    pairs = [(int(at) // len(wrong), int(at) % len(wrong)) for at in order]
    return [
        (i, j, int(wrong[i, j]), wrong[i, j] / results.confusion[i].sum())
        for i, j in pairs
        if wrong[i, j]
    ]


def _suspected(results: Results) -> dict[str, int]:
    """How many suspects there are on each side that has some, listed or not."""
    listed = Counter(line["side"] for line in results.suspects)
    counts = results.scores.get("suspects", listed)
    return {side: int(count) for side, count in counts.items() if count}


def _corrections(results: Results, room: int) -> dict[str, Any]:
    """Columns and lines of the table of corrections, to which the page adds; `whole` if they fit in
    `room` bytes, otherwise there is no line."""
    columns, lines = results.corrections
    whole = len(json.dumps(lines)) <= room
    return {"columns": columns, "lines": lines if whole else [], "whole": whole}


def _matrix(results: Results) -> dict[str, list]:
    """What the script on the page draws: classes, totals, and the cells that are not zero, by
    position in `classes`."""
    counts = results.confusion
    wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diag(counts)
    chosen = np.sort(np.argsort(-wrong, kind="stable")[:MATRIX])
    inside = counts[np.ix_(chosen, chosen)]
    return {
        "classes": chosen.tolist(),
        "actual": counts.sum(axis=1)[chosen].tolist(),
        "predicted": counts.sum(axis=0)[chosen].tolist(),
        "f1": [results.class_scores[k].f1 for k in chosen],
        "cells": [[int(i), int(j), int(inside[i, j])] for i, j in np.argwhere(inside)],
    }


def _threshold(results: Results) -> list[list[int]]:
    """How many test images have at least the confidence k / `STEPS`, and how many of them the
    model gets right, for k from 0 to `STEPS`."""
    steps = np.arange(STEPS + 1) / STEPS
    right = results.predicted == results.labels

    def at_least(confidence: np.ndarray) -> np.ndarray:
        return len(confidence) - np.searchsorted(np.sort(confidence), steps)

    confidence = results.confidence
    return np.column_stack([at_least(confidence), at_least(confidence[right])]).tolist()
