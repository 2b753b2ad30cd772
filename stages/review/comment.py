"""The Markdown comment. Text from files (classes, paths, values) is escaped."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from stages.metrics.paired import PairedTest
from stages.metrics.scores import Scores, base_rate_warning
from stages.review.changes import Change, ImageChanges, Pairing, changes, tally
from stages.review.revision import Revision
from stages.store.names import flatten, markdown

# The first line; finds the comment again when a later push updates it.
MARKER = "<!-- image classification review -->"
ROWS = 10  # of a table or list, at most: the comment is read, reports/review/images.csv is searched
FEW = 5  # items of a list within a sentence
LOWER_IS_BETTER = ("loss", "brier", "ece")
NO_SCORES = ("count", "base_rate")  # they tell of the images, not of the model
BROKEN, EPOCHS = "images/broken.png", "images/epochs.png"  # beside the comment


@dataclass
class Review:
    """All that the comment tells. None stands for what could not be compared.

    `pictures` are those drawn, of `BROKEN` and `EPOCHS`.
    """

    base: Revision
    head: Revision
    pairing: Pairing | None = None
    test: PairedTest | None = None
    images: ImageChanges | None = None
    code: list[str] = field(default_factory=list)
    stale: dict[str, list[str]] = field(default_factory=dict)
    moved_on: bool = False
    pictures: list[str] = field(default_factory=list)

    @property
    def same_model(self) -> bool:
        return self.head.model is not None and self.base.model == self.head.model


def write_comment(review: Review) -> str:
    """The whole comment, ending in a newline; what is decided by comes first."""
    sections = [
        MARKER,
        _verdict(review),
        *_warnings(review),
        _metrics(review),
        _exported(review),
        _changes(review),
        *_outcomes(review),
        _training(review),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


# Text


def code(value: object) -> str:
    """`value` in a fixed-width font, shortened in the middle if very long."""
    value = str(value)
    if len(value) > 100:
        value = value[:48] + " … " + value[-48:]
    return f"<code>{markdown(value)}</code>"


def table(header: list[str], rows: list[list[str]], more: str) -> str:
    """A Markdown table of at most `ROWS` rows, and a line that counts the others."""
    lines = ["| " + " | ".join(header) + " |", "| --- " + "| ---: " * (len(header) - 1) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows[:ROWS]]
    if len(rows) > ROWS:
        lines += ["", f"... and {len(rows) - ROWS:,} more {more}."]
    return "\n".join(lines)


def details(summary: str, *parts: str) -> str:
    return "\n\n".join([f"<details><summary>{summary}</summary>", *parts, "</details>"])


def picture(path: str, alt: str) -> str:
    return f'<img src="{path}" width="800" alt="{alt}">'


def listed(items: list[str], most: int = FEW) -> str:
    more = [f"{len(items) - most:,} more"] if len(items) > most else []
    return ", ".join(items[:most] + more)


def counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def most_common(counts: Counter) -> str:
    """`"cat ×3, dog ×1"`, or of pairs `"cat → dog ×3"`: the commonest first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    names = [(" → ".join(key) if isinstance(key, tuple) else key, count) for key, count in ordered]
    return listed([f"{markdown(name)} ×{count:,}" for name, count in names])


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def points(difference: float) -> str:
    return f"{100 * difference:+.2f}".replace("-", "−")


def number(value: object) -> str:
    if not isinstance(value, int | float):
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _name(side: Revision) -> str:
    return code(side.name)


# Verdict


def _verdict(review: Review) -> str:
    base, head = review.base.test, review.head.test
    here, pairing, test = percent(head["accuracy"]), review.pairing, review.test
    if "accuracy" not in base:
        return (
            f"## Test accuracy {here}\n\n{_name(review.base)} has no results to compare with: "
            "its commit holds no reports/scores.json."
        )
    title = f"## Test accuracy {percent(base['accuracy'])} → {here}"
    difference = f"({points(head['accuracy'] - base['accuracy'])} points)"
    if pairing is None:
        return f"{title} {difference}\n\nWithout predictions of both sides it cannot be judged."
    model = "The model is byte-identical. " if review.same_model else ""
    if not pairing.same_test_set:
        return f"{title}, on different test images\n\n{model}{_of_common_images(pairing, test)}"
    if test is None or not (test.fixed or test.broken):
        return f"## Test accuracy {here}: the same outcome on every image\n\n{model}".rstrip()
    return f"{title} {difference}: {_conclusion(test)}\n\n{model}{_evidence(test)}"


def _of_common_images(pairing: Pairing, test: PairedTest | None) -> str:
    parts = [
        (pairing.only_base, "left the test set"),
        (pairing.only_head, "joined it"),
        (pairing.relabelled, "with a corrected label"),
    ]
    why = ", ".join(f"{count:,} {what}" for count, what in parts if count)
    if test is None:
        return f"No test image is common to both ({why}), so nothing can be said."
    accuracies = " → ".join(percent(pairing.accuracy(side)) for side in ("base", "head"))
    return (
        f"Judged on the {counted(test.count, 'test image')} common to both ({why}): {accuracies}, "
        f"**{_conclusion(test)}**. {_evidence(test)}"
    )


def _conclusion(test: PairedTest) -> str:
    if not test.fixed and not test.broken:
        return "the same outcome on every image"
    if not test.significant:
        return "cannot be told from chance"
    return "better" if test.difference > 0 else "worse"


def _evidence(test: PairedTest) -> str:
    """What the conclusion rests on."""
    if not test.fixed and not test.broken:
        return ""
    p_value = f"p = {test.p_value:.3f}" if test.p_value >= 0.001 else "p < 0.001"
    caveat = (
        "This is about these two trained models: another seed moves accuracy too."
        if test.significant
        else "A real change of this size would need more test images to show."
    )
    return (
        f"{test.broken:,} broken, {test.fixed:,} fixed of {counted(test.count, 'image')}: exact "
        f"McNemar test {p_value}, 95 % interval of the change {points(test.low)} to "
        f"{points(test.high)} points. {caveat}"
    )


def _warnings(review: Review) -> list[str]:
    lines = []
    if review.stale:
        what = "; ".join(
            f"{code(stage)} ({listed([code(name) for name in names])})"
            for stage, names in review.stale.items()
        )
        lines.append(
            "> [!WARNING]\n> These results are stale: something changed since the stages last ran: "
            f"{what}. Run <code>dvc repro</code> and commit what it writes."
        )
    if review.moved_on:
        lines.append(
            f"> [!NOTE]\n> {_name(review.base)} has commits that this branch lacks; the "
            "differences below undo them. Merge or rebase for a clean comparison."
        )
    if warning := base_rate_warning(review.head.test):
        lines.append(f"> [!WARNING]\n> {warning}")
    return lines


def _metrics(review: Review) -> str:
    """The headline that changed. Accuracy alone is judged, above: the others have no test."""
    base, head = flatten(review.base.scores), flatten(review.head.scores)
    rows = []
    for key in review.head.headline:
        change = Change(key, base.get(key), head.get(key))
        if change.base == change.head or key.endswith(NO_SCORES):
            continue
        cells = [number(change.base), number(change.head)]
        if key == "test.accuracy":
            cells = [
                c + _interval(s.test)
                for c, s in zip(cells, (review.base, review.head), strict=True)
            ]
        name = code(key) + (" (less is better)" if key.endswith(LOWER_IS_BETTER) else "")
        rows.append([name, *cells, _signed(change)])
    if not rows:
        return ""
    own = review.pairing and not review.pairing.same_test_set
    title = "metric, on the test images of each" if own else "metric"
    return table([title, _name(review.base), "here", "change"], rows, "metrics")


def _interval(figures: Scores) -> str:
    """How sure the accuracy is, as evaluate wrote it."""
    if not {"accuracy_low", "accuracy_high"} <= figures.keys():
        return ""
    return f" ({figures['accuracy_low']:.4f} to {figures['accuracy_high']:.4f})"


def _signed(change: Change) -> str:
    """The difference of two numbers with its sign; empty where there is none."""
    difference = change.difference
    if difference is None:
        return ""
    signed = f"{difference:+,}" if isinstance(difference, int) else f"{difference:+.4f}"
    return signed.replace("-", "−")


def _exported(review: Review) -> str:
    """The exported formats, where they changed or one is less right than the model.

    Differences that the rounding of another machine makes are no change.
    """
    base, head = review.base.parity, review.head.parity
    lost = [name for name, of in head.items() if of["broken"] > of["fixed"]]
    if not lost and _outcome_of_export(base) == _outcome_of_export(head):
        return ""
    gone = [name for name in base if name not in head]
    parts = [f"No longer exported: {listed([code(name) for name in gone])}."] if gone else []
    if head:
        header = ["exported", "MB", "accuracy", "change", "broken, fixed", "same class"]
        header += ["largest difference", "ms an image", "images/s"]
        parts.append(table(header, [_format(review, name) for name in head], "formats"))
    if lost:
        names = listed([code(name) for name in lost])
        parts.append(f"Less right than the model that they were made of: {names}.")
    return "\n\n".join(["### Exported models", *parts])


def _outcome_of_export(parity: dict[str, Scores]) -> dict[str, list[float]]:
    counts = ("accuracy", "agreement", "broken", "fixed", "count")
    return {name: [figures[key] for key in counts] for name, figures in parity.items()}


def _format(review: Review, name: str) -> list[str]:
    """The row of an exported format; how fast it was if this machine knows."""
    of, before = review.head.parity[name], review.base.parity.get(name)
    times = review.head.timing.get("export", {}).get(name, {})
    return [
        code(name),
        f"{of['bytes'] / 1e6:.2f}",
        percent(of["accuracy"]),
        points(of["accuracy"] - before["accuracy"]) if before else "new",
        f"{of['broken']:,}, {of['fixed']:,}",
        percent(of["agreement"]),
        f"{of['largest_difference']:.2g}",
        str(times.get("milliseconds_per_single_image", "")),
        f"{times['images_per_second']:,.0f}" if "images_per_second" in times else "",
    ]


# What changed, and what came of it


def _changes(review: Review) -> str:
    lines = [f"- Data: {_data(review)}."]
    base, head = review.base.issues, review.head.issues
    if base is not None and head is not None and base != head:
        counts = [Change(kind, base.get(kind, 0), head.get(kind, 0)) for kind in {**head, **base}]
        what = [f"{markdown(c.key)} {c.base:,} → {c.head:,}" for c in counts if c.base != c.head]
        lines.append(f"- Data issues: {listed(what, ROWS)}.")
    settings = changes(review.base.parameters, review.head.parameters)
    lines += [
        f"- {code(change.key)}: {_setting(change.base)} → {_setting(change.head)}"
        for change in settings[:ROWS]
    ]
    if len(settings) > ROWS:
        lines.append(f"- {len(settings) - ROWS:,} more settings: <code>dvc params diff</code>")
    lines += [] if settings else ["- Settings: none changed."]
    lines.append(f"- Code: {listed([code(name) for name in review.code], ROWS) or 'none changed'}.")
    return "\n".join(["### What changed", "", *lines])


def _setting(value: object) -> str:
    """As YAML writes it, so that null and 0, or 1 and "1", stay apart."""
    import yaml

    return code(
        yaml.safe_dump(value, default_flow_style=True, width=10_000).split("\n...")[0].strip()
    )


def _data(review: Review) -> str:
    if review.images is None:
        return _totals(review)
    added, removed, relabelled, moved = review.images
    parts: list[tuple[Counter, str, str]] = [
        (relabelled, "label", "corrected"),
        (removed, "image", "removed"),
        (added, "image", "added"),
        (moved, "image", "moved to another side of the split"),
    ]
    said = [
        f"{counted(counts.total(), what)} {change} ({most_common(counts)})"
        for counts, what, change in parts
        if counts
    ]
    return ", ".join(said) or "the same images, labels and sides"


def _totals(review: Review) -> str:
    """All that can be said without the lists of images, which the DVC cache has."""
    base, head = (_class_totals(side.data) for side in (review.base, review.head))
    if not base or not head:
        side = review.head if base else review.base
        return f"{_name(side)} has no reports/data.json to compare with"
    changed = [
        f"{markdown(change.key)}: {number(change.base) or 0} → {number(change.head) or 0}"
        for change in changes(base, head)
    ]
    return (
        "only totals compare, as the lists of images (data/splits) are not in the DVC cache here: "
        + (listed(changed, ROWS) or "the same number of images of every class")
    )


def _class_totals(data: dict[str, Any]) -> dict[str, int]:
    """Images of each class on all sides of the split, from reports/data.json."""
    return {
        name: sum(count for side, count in counts.items() if side != "bytes")
        for name, counts in data.get("classes", {}).items()
    }


def _outcomes(review: Review) -> list[str]:
    """Which images broke or were fixed: by class, as pictures, by path."""
    if review.pairing is None:
        return []
    broken, fixed = review.pairing.broken, review.pairing.fixed
    if not len(broken) and not len(fixed):
        return []
    total, worse, better = (tally(rows, "actual") for rows in (review.pairing.table, broken, fixed))
    said: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for (actual, head), count in tally(broken, "actual", "head").items():
        said[actual][head] = count
    rows = [
        [
            markdown(name),
            f"{total[name]:,}",
            f"{worse[name]:,}",
            f"{better[name]:,}",
            most_common(said[name]),
        ]
        for name in sorted({*worse, *better}, key=lambda c: (better[c] - worse[c], -worse[c], c))
    ]
    header = ["class", "test images", "broken", "fixed", "broken ones are now taken for"]
    sections = ["### What broke or was fixed", table(header, rows, "classes")]
    if BROKEN in review.pictures:
        sections.append(picture(BROKEN, "broken images"))
    elif len(broken):
        sections.append("The broken images (data/processed) are not in the DVC cache here to show.")
    for what, images in (("broken", broken), ("fixed", fixed)):
        if len(images):
            sections.append(_image_list(what, images, review))
    return sections


def _image_list(what: str, images: pa.Table, review: Review) -> str:
    rows = [
        [
            code(row["path"]),
            markdown(row["actual"]),
            f"{markdown(row['base'])} {row['base_confidence']:.2f}",
            f"{markdown(row['head'])} {row['head_confidence']:.2f}",
        ]
        for row in images.slice(0, ROWS).to_pylist()
    ]
    body = table(["image", "actual", f"{_name(review.base)} said", "here said"], rows, "")
    more = f"All {len(images):,}: reports/review/images.csv." if len(images) > ROWS else ""
    return details(f"Images {what}: {len(images):,}", *filter(None, (body, more)))


def _training(review: Review) -> str:
    """Learning curves and times; a model that is the same was trained the same."""
    parts = [picture(EPOCHS, "learning curves")] if EPOCHS in review.pictures else []
    seconds = {stage: t["seconds"] for stage, t in review.head.timing.items() if "seconds" in t}
    if seconds and not review.same_model:
        times = ", ".join(f"{stage} {value:.1f} s" for stage, value in seconds.items())
        parts.append(f"Time it took on the machine that wrote this: {times}.")
    overlay = f"{code(f'dvc plots diff {review.base.name}')} overlays all curves of both sides."
    return details("Learning curves and times", *parts, overlay) if parts else ""
