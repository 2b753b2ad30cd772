"""The result in a few lines, and as the card that travels with the model (Mitchell et al. 2019,
Model Cards for Model Reporting)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.files import SUSPECTS
from stages.metrics.scores import (
    ClassScore,
    Scores,
    accuracy,
    base_rate_warning,
    weakest_classes,
)
from stages.store.model import ModelInfo
from stages.store.names import flatten, json_span, markdown_template, printable

if TYPE_CHECKING:
    from stages.report.results import Results

# In a few lines


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def headline(test: Scores) -> str:
    """Accuracy with interval and count."""
    return (
        f"{percent(test['accuracy'])} of {test['count']:,} test images right "
        f"(95 % interval {percent(test['accuracy_low'])} to {percent(test['accuracy_high'])})"
    )


def trust_lines(scores: dict[str, Scores]) -> list[str]:
    """When the model can be believed: a line on calibration, on sets and on unlike images, as far
    as evaluate could tell."""
    trust, lines = scores.get("trust", {}), []
    if "ece_before" in trust:
        lines.append(
            f"calibration: a confidence is off by {percent(scores['test']['ece'])} on average "
            f"({percent(trust['ece_before'])} before the temperature of {trust['temperature']:g})"
        )
    if "coverage" in trust:
        lines.append(
            f"prediction sets: {percent(trust['coverage'])} hold the right class (asked: "
            f"{percent(trust['coverage_asked'])}), with {trust['set_size']:.2f} classes on average"
        )
    if "unlike" in trust:
        lines.append(
            f"called unlike the training images: {percent(trust['unlike'])} of the test images "
            f"(asked: {percent(trust['unlike_asked'])})"
        )
    return lines


def cross_validation(curve: dict[str, np.ndarray]) -> str | None:
    """How right a last layer is on training images that it did not learn from: all of them tell,
    where few test images do not. None without the table learning_curve.csv."""
    if not len(curve["photos"]):
        return None
    found = accuracy(int(curve["right"][-1]), int(curve["judged"][-1]))
    return (
        f"in cross-validation {percent(found['accuracy'])} of {found['count']:,} training images "
        f"(95 % interval {percent(found['accuracy_low'])} to {percent(found['accuracy_high'])})"
    )


def suspects_line(scores: dict[str, Scores]) -> str:
    """How many labels are suspected, by side."""
    counts = scores.get("suspects", {})
    shown = ", ".join(f"{count:,.0f} {side}" for side, count in counts.items() if count)
    if not shown:
        return "no label is suspected to be wrong"
    return (
        f"suspected label errors: {shown}, in {SUSPECTS}; nothing was learned from that, "
        "and test labels change no training"
    )


def console_summary(results: "Results", times: dict[str, dict[str, float]], page: str) -> str:
    """What a person sees at the end of a run. `times` are sections of timing.json, if known."""
    test = results.scores["test"]
    lines = [headline(test)]
    if warning := base_rate_warning(test):
        lines.append(f"  {warning}")
    if line := cross_validation(results.learning_curve):
        lines.append(f"  {line}")
    lines += [f"  {line}" for line in trust_lines(results.scores)]
    lines.append(f"  {suspects_line(results.scores)}")
    for score in weakest_classes(results.class_scores):
        label = results.classes.index(score.name)
        mistakes = results.confusion[label].copy()
        mistakes[label] = 0
        other = printable(results.classes[mistakes.argmax()])
        taken = f", most often taken for {other}" if mistakes.any() else ""
        lines.append(
            f"  weakest: {printable(score.name)}: F1 {score.f1:.3f}, "
            f"recall {percent(score.recall)} of {score.support:,}{taken}"
        )
    for stage, figures in times.items():
        shown = ", ".join(
            f"{name.replace('_', ' ')} {value:,g}"
            for name, value in figures.items()
            if isinstance(value, int | float)
        )
        lines.append(f"  {stage}: {shown}")
    lines.append(f"open {page}")
    return "\n".join(lines)


# The model card


# Names of scores that do not read well as they are.
LABELS = {"ece": "expected calibration error", "roc_auc": "ROC-AUC", "brier": "Brier score"}
TEMPLATE = Path(__file__).with_name("model_card.md.j2")


def model_card(
    info: ModelInfo,
    scores: dict[str, Scores],
    class_scores: list[ClassScore],
    data: dict[str, Any],
    evaluate: dict[str, Any],
) -> str:
    """Markdown text of the card.

    `scores` is the content of scores.json, `data` of data.json, `evaluate` the settings the
    scores were made with.
    """
    template = markdown_template(TEMPLATE, percent=percent, json=json_span)
    return template.render(
        info=info,
        scores=scores,
        test=scores["test"],
        labels=LABELS,
        warning=base_rate_warning(scores["test"]),
        trust=trust_lines(scores),
        weakest=weakest_classes(class_scores),
        rare=[score.name for score in class_scores if score.support < 30],
        data=counts(data),
        evaluate=evaluate,
    )


def counts(data: dict[str, Any]) -> dict[str, float]:
    """The numbers of data.json by dotted name, but for those of each class."""
    whole = flatten({part: values for part, values in data.items() if part != "classes"})
    return {name: value for name, value in whole.items() if isinstance(value, int | float)}
