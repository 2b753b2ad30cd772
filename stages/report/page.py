"""The page: a self-contained HTML file, the same bytes for the same results."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from stages.metrics.scores import base_rate_warning, weakest_classes
from stages.report.results import Results
from stages.report.summary import headline, percent
from stages.store.image_set import ImageSet
from stages.store.names import flatten, printable

# Small pictures inside the page


SIDE = 112  # pixels of the longer side; smaller images keep their size
LOSSLESS = 48  # up to this side PNG is as small as JPEG, and exact


def data_uri(image: np.ndarray) -> str:
    """uint8 (h, w, c) as a data: URI, reduced to at most `SIDE` pixels."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    file = io.BytesIO()
    if max(picture.size) <= LOSSLESS:
        picture.save(file, "PNG", optimize=True)
        kind = "png"
    else:
        picture.save(file, "JPEG", quality=85)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


FOLDER = Path(__file__).parent
# Charts with a place of their own on the page, or in the place of which it has a table.
PLACED = (
    *("learning_curves", "accuracy_by_epoch", "roc", "precision_recall", "reliability"),
    *("class_scores", "class_counts"),
)
MATRIX = 150  # most classes in the confusion matrix of the page
PAIRS = 20  # rows of the table of most frequent confusions
SHOWN_REJECTS = 50


def render_page(
    results: Results,
    settings: dict[str, Any],
    defaults: dict[str, Any],
    charts: dict[str, str],
    shown: dict[str, np.ndarray],
    explanations: list[tuple[int, np.ndarray, np.ndarray]],
) -> str:
    """HTML text.

    `settings` and `defaults` are all of params.yaml, `charts` SVG elements by name. `shown`
    has positions: `samples` in the training set, `mistakes` in the test set.
    `explanations` are (position in the test set, picture for the predicted class, picture
    for the actual class), pictures uint8 (h, w, 3).
    """
    classes = [printable(name) for name in results.classes]
    test = results.scores["test"]
    usual = flatten(defaults)
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            headline=headline(test),
            warning=base_rate_warning(test),
            scores=results.scores,
            test=test,
            weakest=weakest_classes(results.class_scores),
            classes=classes,
            rows=_class_rows(results),
            pairs=_pairs(results),
            matrix=_matrix(results),
            mistakes=[_item(results, at) for at in shown["mistakes"]],
            mistakes_total=int((results.labels != results.predicted).sum()),
            samples=[
                {"src": src, "name": classes[results.train.labels[at]]}
                for at, src in _thumbnails(results.train, shown["samples"])
            ],
            explanations=[
                _item(results, at) | {"wrong": data_uri(wrong), "right": data_uri(right)}
                for at, wrong, right in explanations
            ],
            charts=charts,
            further_charts={name: c for name, c in charts.items() if name not in PLACED},
            layers=results.layers,
            shape=results.shape,
            chosen_epoch=results.chosen_epoch,
            data=[
                (name, value)
                for part, values in results.data.items()
                if part != "classes"  # the table of classes has them
                for name, value in flatten({part: values}).items()
            ],
            near=[_near(results, line) for line in results.near],
            near_total=results.data.get("duplicates", {}).get(
                "near_across_sides", len(results.near)
            ),
            rejects=results.rejects[:SHOWN_REJECTS],
            rejects_total=len(results.rejects),
            settings=[
                (name, value, usual.get(name, "none") != value)
                for name, value in flatten(settings).items()
            ],
            counts=results.counts,
        )
    )


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
    return made


def _thumbnails(images: ImageSet, positions: np.ndarray) -> Iterator[tuple[int, str]]:
    """Position and picture of each."""
    for at in positions:
        yield at, data_uri(images.images(at, at + 1)[0])


def _item(results: Results, at: int) -> dict[str, Any]:
    """A test image with what the model says about it."""
    probabilities = results.probabilities[at]
    actual, predicted = int(results.labels[at]), int(results.predicted[at])
    return {
        "src": data_uri(results.test.images(at, at + 1)[0]),
        "actual": actual,
        "predicted": predicted,
        "confidence": float(probabilities[predicted]),
        "of_actual": float(probabilities[actual]),
        "path": results.test.paths[at],
        "id": results.test.ids[at],
    }


def _near(results: Results, line: dict[str, str]) -> dict[str, str]:
    """A line of data_issues.csv on two near-duplicates, with their pictures."""

    def picture(side: str, id: str) -> str:
        images = results.sets[side]
        at = int(np.flatnonzero(images.ids == id)[0])
        return data_uri(images.images(at, at + 1)[0])

    return line | {
        "src": picture(line["side"], line["id"]),
        "other_src": picture(line["other_side"], line["other_id"]),
    }


def _class_rows(results: Results) -> list[dict[str, Any]]:
    return [
        score._asdict()
        | {"counts": {side: int(values[k]) for side, values in results.counts.items()}}
        for k, score in enumerate(results.class_scores)
    ]


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


def _matrix(results: Results) -> dict[str, list]:
    """What the script on the page draws: classes, totals, and the cells that are not zero.

    `cells` is indexed by position in `classes`, `wrong` (all mistakes) by class.
    """
    counts = results.confusion
    wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diag(counts)
    chosen = np.sort(np.argsort(-wrong, kind="stable")[:MATRIX])
    errors = counts - np.diag(np.diag(counts))
    inside = counts[np.ix_(chosen, chosen)]
    return {
        "classes": chosen.tolist(),
        "names": [printable(name) for name in results.classes],
        "actual": counts.sum(axis=1)[chosen].tolist(),
        "predicted": counts.sum(axis=0)[chosen].tolist(),
        "f1": [results.class_scores[k].f1 for k in chosen],
        "wrong": [[int(i), int(j), int(errors[i, j])] for i, j in np.argwhere(errors)],
        "cells": [[int(i), int(j), int(inside[i, j])] for i, j in np.argwhere(inside)],
    }
