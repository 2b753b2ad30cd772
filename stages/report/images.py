"""Every processed image for the browser on the page: what is known of it, and a small picture.

A page cannot hold a million images. So they stand in an order of which every beginning is a fair
sample: as many are listed, and as many of these pictured, as fit.
"""

import base64
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from stages.files import SIDES
from stages.report.results import Results
from stages.store.names import printable
from stages.store.processed import Pixels

NOT_JUDGED = -1
SHOWN_SIDES = (*SIDES, "left out")
MAP_POINTS = 20_000
SHOWN_SET = 8  # classes of a prediction set


@dataclass(frozen=True)
class Gallery:
    """All images in the order in which they get a place on the page.

    int (n,) each: `sides` (into `SHOWN_SIDES`), `at` (position in its side), `labels`,
    `predicted` (or `NOT_JUDGED`) and `rows` (of the pixels).
    """

    sides: np.ndarray
    at: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.sides)


def gallery(results: Results) -> Gallery:
    """One of each class and side; then every other one a suspect or with an issue, and in turn
    between these mistakes and others.

    Mistakes come in proportion to how often their two classes are confused, the most confident
    ones first; the others by turns of every class on every side.
    """
    sets = [*results.sets.values(), results.left_out]
    lengths = [len(images) for images in sets]
    sides, at = np.repeat(np.arange(len(sets)), lengths), np.concatenate([*map(np.arange, lengths)])
    labels = np.concatenate([images.labels for images in sets])
    test = np.flatnonzero(sides == SHOWN_SIDES.index("test"))
    predicted = np.full(len(sides), NOT_JUDGED)
    predicted[test] = results.predicted

    starts = np.cumsum([0, *lengths])
    places = [results.places[id] for id in _named(results)]
    flagged = np.array([starts[side] + at for side, at in places], int)
    wrong = test[results.labels != results.predicted]
    wrong = wrong[np.argsort(-results.confidence[at[wrong]], kind="stable")]
    rank, size = _ranks(labels[wrong] * len(results.classes) + predicted[wrong])
    wrong = wrong[np.argsort((rank + 0.5) / size, kind="stable")]
    others = np.random.default_rng(0).permutation(len(sides))
    rank, _ = _ranks(sides[others] * len(results.classes) + labels[others])
    turns = np.argsort(rank, kind="stable")

    place = np.empty(len(sides), int)
    place[others[turns]] = 4 * np.arange(len(sides)) + 3
    place[wrong] = np.minimum(place[wrong], 4 * np.arange(len(wrong)) + 1)
    place[flagged] = np.minimum(place[flagged], 2 * np.arange(len(flagged)))
    place[others[rank == 0]] = -1
    order = np.argsort(place, kind="stable")
    rows = np.concatenate([images.rows for images in sets])
    return Gallery(sides[order], at[order], labels[order], predicted[order], rows[order])


def _named(results: Results) -> list[str]:
    """The ids that suspects, each with its neighbours, and issues name: in turn, each id once."""
    suspects = (
        (line["id"], line["nearest_given"], line["nearest_suggested"]) for line in results.suspects
    )
    issues = ((line["id"], line["other_id"]) for line in results.issues)
    turns = chain.from_iterable(zip_longest(suspects, issues, fillvalue=()))
    return list(dict.fromkeys(id for ids in turns for id in ids if id))


def _ranks(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many of its group come before each, and how many the group has, int (n,)."""
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")
    rank = np.empty(len(groups), int)
    rank[order] = np.arange(len(groups)) - (np.cumsum(sizes) - sizes)[group[order]]
    return rank, sizes[group]


def facts(results: Results, images: Gallery, room: int) -> dict[str, Any]:
    """What the script of the page knows of images, a list a fact: the first that fit in `room`
    bytes of JSON.

    `confidence` and `of_actual` are the probabilities of the predicted and the actual class in
    thousandths; `set` has the first classes of the prediction set, `set_size` how many it has (-1
    where it is not known), `unlike` the numbers of the images that are. `map` has the number of an
    image, its x and its y, 0 to 1000, one after another.
    """
    sets = [*results.sets.values(), results.left_out]
    ids: list[str] = []
    paths: list[str] = []
    for side, at in zip(images.sides.tolist(), images.at.tolist(), strict=True):
        path = printable(sets[side].paths[at])
        room -= len(path.encode()) + 60
        if room < 0:
            break
        ids.append(sets[side].ids[at])
        paths.append(path)
    count = len(paths)
    sides, at, labels = images.sides[:count], images.at[:count], images.labels[:count]
    judged = images.predicted[:count] != NOT_JUDGED
    confidence, of_actual = np.full(count, -1), np.full(count, -1)
    confidence[judged] = np.round(1000 * results.confidence[at[judged]])
    of_actual[judged] = np.round(1000 * results.probabilities[at[judged], labels[judged]])
    told = results.told.take(at[judged])
    set_size, class_number = np.full(count, -1), _numbers(results.classes)
    set_of: list[list[int]] = [[] for _ in ids]
    for n, text in zip(np.flatnonzero(judged).tolist(), told["set"].to_pylist(), strict=True):
        names = _separate(text)
        set_size[n] = len(names) or -1
        set_of[n] = [class_number[name] for name in names[:SHOWN_SET]]
    listed = dict(zip(zip(sides.tolist(), at.tolist(), strict=True), range(count), strict=True))
    number = {id: listed[place] for id, place in results.places.items() if place in listed}
    return {
        "total": len(images),
        "sides": SHOWN_SIDES,
        "id": ids,
        "path": paths,
        "side": sides.tolist(),
        "label": labels.tolist(),
        "predicted": images.predicted[:count].tolist(),
        "confidence": confidence.tolist(),
        "of_actual": of_actual.tolist(),
        "set": set_of,
        "set_size": set_size.tolist(),
        "unlike": np.flatnonzero(judged)[told["unlike"].to_numpy() == "yes"].tolist(),
        "map": _map(results.map, np.flatnonzero(judged)[:MAP_POINTS], at),
        "suspects": _suspects(results, number),
        "issues": _issues(results, number),
    }


def _numbers(classes: list[str]) -> dict[str, int]:
    return {name: k for k, name in enumerate(classes)}


@functools.lru_cache(maxsize=1000)  # most sets are one of few
def _separate(names: str) -> list[str]:
    r"""The names of classes of a text as cat|dog, where a | or \ of a name follows a \."""
    return [re.sub(r"\\(.)", r"\1", name) for name in re.findall(r"(?:\\.|[^|\\])+", names)]


def _suspects(results: Results, number: dict[str, int]) -> list[list[Any]]:
    """Suspected label errors, most suspicious first: image, suggested class, score, and the nearest
    images of the given and of the suggested class (or -1). `number` has the images listed by id."""
    class_number = _numbers(results.classes)
    return [
        [
            number[line["id"]],
            class_number[line["suggested"]],
            float(line["score"]),
            number.get(line["nearest_given"], -1),
            number.get(line["nearest_suggested"], -1),
        ]
        for line in results.suspects
        if line["id"] in number
    ]


def _map(points: np.ndarray | None, judged: np.ndarray, at: np.ndarray) -> list[int]:
    if points is None or not len(judged):
        return []
    low, high = points.min(axis=0), points.max(axis=0)
    scaled = 1000 * (points[at[judged]] - low) / np.maximum(high - low, 1e-9)
    return np.column_stack([judged, np.round(scaled).astype(int)]).ravel().tolist()


def _issues(results: Results, number: dict[str, int]) -> list[dict[str, Any]]:
    """Kinds of issue, those with conflicting labels first: `name`, `count`, how many `conflicts`,
    and `lines` of image, other image (or -1), a note, and whether their labels differ."""
    kinds: dict[str, list[list[Any]]] = {}
    counts: dict[str, int] = {}
    for line in results.issues:
        name = printable(line["issue"])
        counts[name] = counts.get(name, 0) + 1
        if line["id"] in number:
            other = number.get(line["other_id"], -1)
            conflict = bool(line["other_id"]) and line["label"] != line["other_label"]
            note = f"distance {line['distance']}" if line["distance"] else line["value"]
            kinds.setdefault(name, []).append([number[line["id"]], other, note, int(conflict)])
    for lines in kinds.values():
        lines.sort(key=lambda line: -line[3])
    return [
        {
            "name": name,
            "count": counts[name],
            "conflicts": sum(conflict for *_, conflict in lines),
            "lines": lines,
        }
        for name, lines in sorted(kinds.items(), key=lambda item: -item[1][0][3])
    ]


# Small pictures

LARGE, SMALL = 224, 112  # pixels of the longer side; smaller images keep their size
LARGE_BYTES = 16_000  # of a picture of that size in the page
QUALITY = 80
AT_A_TIME = 256


def data_uri(image: np.ndarray) -> str:
    """uint8 (h, w, c) as a data: URI, reduced to at most `SMALL` pixels."""
    return "data:image/jpeg;base64," + _base64(_jpeg(image, SMALL))


def thumbnails(pixels: Pixels, rows: np.ndarray, room: int) -> Iterator[str]:
    """First what all pictures begin with, then the pictures of the first of `rows`, as many as fit
    in `room` bytes with a space between any two.

    The beginning and a picture, joined, are a JPEG file in base64. Files of one size begin with the
    same 600 bytes of tables, twice as much as a small picture: so these stand there once.
    """
    side = LARGE if len(rows) * LARGE_BYTES <= room else SMALL
    start = b""
    for first in range(0, len(rows), AT_A_TIME):
        for image in pixels.take(rows[first : first + AT_A_TIME]):
            file = _jpeg(image, side)
            if not start:
                start = file[: _pixels_begin(file)]
                room -= len(_base64(start))
                yield _base64(start)
            assert file.startswith(start)
            picture = _base64(file[len(start) :])
            room -= len(picture) + 1
            if room < 0:
                return
            yield picture


def _jpeg(image: np.ndarray, side: int) -> bytes:
    """A file of uint8 (h, w, c), whose pixels begin at a multiple of 3 bytes: its base64 can be cut
    there."""
    if max(image.shape[:2]) > side:
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        picture.thumbnail((side, side), Image.Resampling.BOX)
        image = np.asarray(picture).reshape(picture.height, picture.width, -1)
    grey = image.shape[-1] == 1
    file = simplejpeg.encode_jpeg(
        np.ascontiguousarray(image),
        QUALITY,
        colorspace="GRAY" if grey else "RGB",
        colorsubsampling="Gray" if grey else "420",
    )
    # A comment (marker, length, text) fills up.
    comment = b" " * ((-_pixels_begin(file) - 4) % 3)
    return file[:2] + b"\xff\xfe" + (2 + len(comment)).to_bytes(2) + comment + file[2:]


def _pixels_begin(file: bytes) -> int:
    scan = file.index(b"\xff\xda")
    return scan + 2 + int.from_bytes(file[scan + 2 : scan + 4])


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
