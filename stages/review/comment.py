"""The Markdown comment. Text from files (classes, paths, values) is escaped."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa

from stages.metrics.scores import Scores, base_rate_warning
from stages.review.changes import Change, ClassCount, PairedTest, Pairing, changes
from stages.review.revision import Revision
from stages.store.names import flatten, markdown

# The first line; finds the comment again when a later push updates it.
MARKER = "<!-- image classification review -->"
ROWS = 20  # of a table, at most; keeps the comment below GitHub's 65,536 characters
OPEN_PICTURES = ("Learning curves", "confusion_actual", "confusion")  # the others are folded
HEADLINE = ("accuracy", "loss", "top", "f1_macro", "balanced_accuracy", "roc_auc")
MINUS = "\N{MINUS SIGN}"
LOWER_IS_BETTER = ("loss", "brier", "calibration_error", "ece")
HIGHER_IS_BETTER = ("accuracy", "top", "f1", "precision", "recall", "roc_auc")


class Picture(NamedTuple):
    """Links to the pictures of both sides; `head` is None where one picture shows both."""

    caption: str
    base: str
    head: str | None = None


@dataclass
class Review:
    """All that the comment tells. None stands for what could not be compared."""

    base: Revision
    head: Revision
    pairing: Pairing | None = None
    test: PairedTest | None = None
    counts: list[ClassCount] | None = None
    code: list[str] = field(default_factory=list)
    stale: dict[str, list[str]] = field(default_factory=dict)
    moved_on: bool = False
    pictures: list[Picture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # on pictures that cannot be shown


def write_comment(review: Review) -> str:
    """The whole comment, ending in a newline."""
    sections = [
        MARKER,
        _headline(review),
        _warnings(review),
        _chance(review),
        _metrics(review),
        _settings(review),
        _data(review),
        _classes(review),
        _images(review),
        _pictures(review),
        _times(review),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def code(value: object) -> str:
    """`value` in a fixed-width font, shortened in the middle if very long."""
    value = str(value)
    if len(value) > 100:
        value = value[:48] + " … " + value[-48:]
    return f"<code>{markdown(value)}</code>"


def table(header: list[str], rows: list[list[str]], what: str = "rows", most: int = ROWS) -> str:
    """A Markdown table of at most `most` rows, and a line that counts the others."""
    lines = ["| " + " | ".join(header) + " |", "| --- " + "| ---: " * (len(header) - 1) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows[:most]]
    if len(rows) > most:
        lines += ["", f"... and {len(rows) - most:,} more {what}."]
    return "\n".join(lines)


def details(summary: str, body: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{body}\n\n</details>"


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def points(difference: float) -> str:
    return f"{100 * difference:+.2f}".replace("-", MINUS)


def number(value: object) -> str:
    """A score, or a setting."""
    if isinstance(value, bool) or value is None:
        return {None: "", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.1f}"
    return code(value)


def _name(side: Revision) -> str:
    return code(side.name)


def _headline(review: Review) -> str:
    base, head = review.base.test, review.head.test
    here = f"{percent(head['accuracy'])}{_interval(head)}"
    if "accuracy" not in base:
        return (
            f"## Test accuracy {here}\n\n{_name(review.base)} has no results to compare with: "
            "its commit holds no reports/scores.json."
        )
    lines = [
        f"## Test accuracy {percent(base['accuracy'])} → {percent(head['accuracy'])}"
        f" ({points(head['accuracy'] - base['accuracy'])} points){_verdict(review)}",
        f"{_name(review.base)}: {percent(base['accuracy'])}{_interval(base)}. Here: {here}.",
    ]
    return "\n\n".join(lines)


def _interval(figures: Scores) -> str:
    """How sure the accuracy is, as evaluate wrote it."""
    if not {"accuracy_low", "accuracy_high", "count"} <= figures.keys():
        return ""
    low, high = 100 * figures["accuracy_low"], 100 * figures["accuracy_high"]
    return f" (95 % interval {low:.2f} to {high:.2f} %, {figures['count']:,} images)"


def _verdict(review: Review) -> str:
    if review.test is None or review.pairing is None:
        return ""
    if not review.pairing.same_test_set:
        return ", on different test images"
    if not review.test.fixed and not review.test.broken:
        return ": the same outcome on every image"
    if not review.test.significant:
        return ": no more than chance"
    return ": better" if review.test.difference > 0 else ": worse"


def _warnings(review: Review) -> str:
    lines = []
    if review.stale:
        what = "; ".join(
            f"{code(stage)} ({', '.join(code(name) for name in names[:5])}"
            f"{', ...' if len(names) > 5 else ''})"
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
    return "\n\n".join(lines)


def _chance(review: Review) -> str:
    pairing, test = review.pairing, review.test
    if pairing is None:
        return ""
    title = "### Is the change more than chance?"
    lines = [title]
    if not pairing.same_test_set:
        parts = [
            (pairing.only_base, f"only in {_name(review.base)}'s"),
            (pairing.only_head, "only here"),
            (pairing.relabelled, "in both with different labels"),
        ]
        what = ", ".join(f"{count:,} {where}" for count, where in parts if count)
        lines.append(
            f"**The test sets differ**: {len(pairing.table):,} images are common ({what}), so the "
            "accuracies above are not of the same images. What follows compares the common ones."
        )
    if test is None:
        lines.append("There is no common test image, so nothing can be said.")
        return "\n\n".join(lines)
    if not pairing.same_test_set:
        lines.append(
            f"Accuracy on the common images: {percent(pairing.accuracy('base'))} → "
            f"{percent(pairing.accuracy('head'))} ({points(test.difference)} points)."
        )
    base_right = round(pairing.accuracy("base") * test.count)
    both_right, both_wrong = base_right - test.broken, test.count - base_right - test.fixed
    lines.append(
        table(
            [f"{test.count:,} test images in common", "here right", "here wrong"],
            [
                [f"{_name(review.base)} right", f"{both_right:,}", f"{test.broken:,} broken"],
                [f"{_name(review.base)} wrong", f"{test.fixed:,} fixed", f"{both_wrong:,}"],
            ],
        )
    )
    lines.append(_conclusion(test))
    return "\n\n".join(lines)


def _conclusion(test: PairedTest) -> str:
    if not test.fixed and not test.broken:
        return "No image changed its outcome: there is no change to judge."
    p_value = f"p = {test.p_value:.3f}" if test.p_value >= 0.001 else "p < 0.001"
    figures = (
        f"exact McNemar test {p_value}; paired bootstrap 95 % interval of the change "
        f"{points(test.low)} to {points(test.high)} points"
    )
    if test.significant:
        verdict = "**Yes, more than chance**"
        caveat = (
            "This is about these two trained models. Training again with another seed moves "
            "accuracy too; only repeated runs can show how much."
        )
    else:
        verdict = "**No: chance alone explains it**"
        caveat = "A real change of this size would need more test images to show."
    return f"{verdict}: {figures}. {caveat}"


def _metrics(review: Review) -> str:
    base, head = review.base.scores, review.head.scores
    if not base:
        rows = [[code(key), number(value)] for key, value in flatten(head).items()]
        return "### Metrics\n\n" + table(["metric", "here"], rows)
    changed = changes(base, head)
    if not changed:
        return "### Metrics\n\nNo metric changed."
    main: list[list[str]] = []
    rest: list[list[str]] = []
    for change in changed:
        (main if _is_headline(change.key) else rest).append(_metric_row(change))
    header = ["metric", _name(review.base), "here", "change"]
    parts = ["### Metrics"]
    if main:
        parts.append(table(header, main, "metrics"))
    if rest:
        summary = f"Other metrics that changed: {len(rest):,}"
        parts.append(details(summary, table(header, rest, "metrics", most=100)))
    return "\n\n".join(parts)


def _is_headline(key: str) -> bool:
    group, _, name = key.partition(".")
    if name in ("accuracy_low", "accuracy_high"):
        return False
    return group != "val" and any(name.startswith(start) for start in (*HEADLINE, "parameters"))


def _metric_row(change: Change) -> list[str]:
    row = [code(change.key), number(change.base), number(change.head)]
    if change.difference is None:
        return [*row, ""]
    return [*row, _signed(change) + _direction(change.key, change.difference)]


def _signed(change: Change) -> str:
    """The difference of two numbers with its sign; empty where there is none."""
    difference = change.difference
    if difference is None:
        return ""
    signed = f"{difference:+,}" if isinstance(difference, int) else f"{difference:+.4f}"
    return signed.replace("-", MINUS)


def _direction(key: str, difference: float) -> str:
    name = key.rpartition(".")[2]
    if any(word in name for word in LOWER_IS_BETTER):
        difference = -difference
    elif not any(word in name for word in HIGHER_IS_BETTER):
        return ""
    return " better" if difference > 0 else " worse"


def _settings(review: Review) -> str:
    parts = ["### Settings and code"]
    changed = changes(review.base.parameters, review.head.parameters)
    if changed:
        rows = [
            [code(change.key), _setting(change.base), _setting(change.head)] for change in changed
        ]
        parts.append(table(["setting", _name(review.base), "here"], rows, "settings"))
    else:
        parts.append("No setting changed.")
    if review.code:
        files = ", ".join(code(name) for name in review.code[:ROWS])
        more = f" and {len(review.code) - ROWS:,} more" if len(review.code) > ROWS else ""
        parts.append(f"Pipeline code changed: {files}{more}.")
    else:
        parts.append("No pipeline code changed.")
    return "\n\n".join(parts)


def _setting(value: object) -> str:
    """As YAML writes it, so that null and 0, or 1 and "1", stay apart."""
    import yaml

    return code(
        yaml.safe_dump(value, default_flow_style=True, width=10_000).split("\n...")[0].strip()
    )


def _data(review: Review) -> str:
    title = "### Data"
    if review.counts is not None:
        if not review.counts:
            return f"{title}\n\nThe same images with the same labels."
        added = sum(count.added for count in review.counts)
        removed = sum(count.removed for count in review.counts)
        rows = [
            [
                markdown(count.label),
                f"{count.base:,}",
                f"{count.head:,}",
                f"+{count.added:,}" if count.added else "0",
                f"{MINUS}{count.removed:,}" if count.removed else "0",
            ]
            for count in sorted(review.counts, key=lambda c: (-c.added - c.removed, c.label))
        ]
        header = ["class", _name(review.base), "here", "added", "removed"]
        return (
            f"{title}\n\nImages added: {added:,}; removed: {removed:,} "
            f"(a relabelled image is both).\n\n{table(header, rows, 'classes')}"
        )
    base, head = (_totals(side.data) for side in (review.base, review.head))
    if not base or not head:
        side = _name(review.head if base else review.base)
        return f"{title}\n\n{side} has no reports/data.json to compare with."
    changed = changes(base, head)
    said = "The lists of images (data/splits) are not in the DVC cache here, so only totals compare"
    if not changed:
        return f"{title}\n\n{said}: the same number of images of every class."
    rows = [
        [markdown(change.key), number(change.base), number(change.head), _signed(change)]
        for change in changed
    ]
    header = ["class", _name(review.base), "here", "change"]
    return f"{title}\n\n{said}.\n\n{table(header, rows, 'classes')}"


def _totals(data: dict[str, Any]) -> dict[str, int]:
    """Images of each class on all sides of the split, from reports/data.json."""
    return {
        name: sum(count for side, count in counts.items() if side != "bytes")
        for name, counts in data.get("classes", {}).items()
    }


def _classes(review: Review) -> str:
    base, head = review.base.class_scores, review.head.class_scores
    if not base or not head:
        return ""
    gone, new = sorted(base.keys() - head.keys()), sorted(head.keys() - base.keys())
    lines = ["### Classes"]
    for names, what in ((new, "New"), (gone, "Gone")):
        if names:
            more = f" and {len(names) - ROWS:,} more" if len(names) > ROWS else ""
            lines.append(f"{what}: {', '.join(markdown(name) for name in names[:ROWS])}{more}.")
    both = [name for name in head if name in base and base[name].f1 != head[name].f1]
    both.sort(key=lambda name: (-abs(head[name].f1 - base[name].f1), name))
    rows = [
        [
            markdown(name),
            number(base[name].f1),
            number(head[name].f1),
            points(head[name].f1 - base[name].f1),
            points(head[name].precision - base[name].precision),
            points(head[name].recall - base[name].recall),
        ]
        for name in both
    ]
    if rows:
        header = [
            "class",
            f"F1 {_name(review.base)}",
            "F1 here",
            "F1, points",
            "precision",
            "recall",
        ]
        lines.append(f"{len(rows):,} of {len(head):,} classes changed, the most changed first.")
        lines.append(table(header, rows, "classes"))
    elif not gone and not new:
        lines.append("No class changed.")
    return "\n\n".join(lines)


def _images(review: Review) -> str:
    if review.pairing is None:
        return ""
    parts = [
        _image_list(rows, f"Images {what}: {len(rows):,}", review)
        for what, rows in (("broken", review.pairing.broken), ("fixed", review.pairing.fixed))
        if len(rows)
    ]
    return "\n\n".join(["### Images fixed and broken", *parts]) if parts else ""


def _image_list(rows: pa.Table, summary: str, review: Review) -> str:
    """The images about which the side that is wrong was most confident come first."""
    wrong = "head_confidence" if "broken" in summary else "base_confidence"
    rows = rows.sort_by([(wrong, "descending"), ("path", "ascending")])
    shown = [
        [
            code(row["path"]),
            markdown(row["actual"]),
            f"{markdown(row['base'])} {row['base_confidence']:.2f}",
            f"{markdown(row['head'])} {row['head_confidence']:.2f}",
        ]
        for row in rows.slice(0, ROWS).to_pylist()
    ]
    body = table(["image", "actual", f"{_name(review.base)} said", "here said"], shown)
    if len(rows) > ROWS:
        body += f"\n\n... and {len(rows) - ROWS:,} more; all are in reports/review/images.csv."
    return details(summary, body)


def _pictures(review: Review) -> str:
    shown: list[str] = []
    folded: list[str] = []
    for picture in review.pictures:
        drawn = _picture(picture, review)
        (shown if picture.caption in OPEN_PICTURES else folded).append(drawn)
    if folded:
        shown.append(details(f"Other plots that changed: {len(folded):,}", "\n\n".join(folded)))
    command = code(f"dvc plots diff {review.base.name}")
    overlay = f"{command} overlays the curves of both sides in a browser."
    return "\n\n".join(["### Plots", *shown, *review.notes, overlay])


def _picture(picture: Picture, review: Review) -> str:
    alt = markdown(picture.caption.replace("_", " "))
    if picture.head:
        links = (picture.base, picture.head)
        row = [f'<img src="{link}" width="400" alt="{alt}">' for link in links]
        drawn = table([_name(review.base), "here"], [row]).replace("| ---: |", "| --- |")
    else:
        drawn = f'<img src="{picture.base}" width="800" alt="{alt}">'
    return f"**{alt}**\n\n{drawn}"


def _times(review: Review) -> str:
    if not review.head.timing:
        return ""
    rows = [
        [code(key), number(value)]
        for key, value in flatten(review.head.timing).items()
        if not isinstance(value, list)  # one entry an epoch
    ]
    body = table(["time, on the machine that wrote this comment", "here"], rows)
    return details("Times (they vary from run to run, and are not compared)", body)
