"""The result in a few lines, and as the card that travels with the model (Mitchell et al. 2019,
Model Cards for Model Reporting)."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from stages.metrics import scores
from stages.store.model import ModelInfo
from stages.store.names import markdown, printable

if TYPE_CHECKING:
    from stages.report.results import Results

# In a few lines


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def headline(metrics: dict) -> str:
    """Accuracy with interval and count."""
    return (
        f"{percent(metrics['accuracy'])} of {metrics['count']:,} test images right "
        f"(95 % interval {percent(metrics['accuracy_low'])} to "
        f"{percent(metrics['accuracy_high'])})"
    )


def weakest_classes(per_class: dict[str, dict], count: int = 3) -> list[str]:
    """Names of the classes with test images and the lowest F1, weakest first."""
    present = [name for name, scores in per_class.items() if scores["support"]]
    return sorted(present, key=lambda name: per_class[name]["f1"])[:count]


def console_summary(results: "Results", times: dict[str, dict[str, float]], page: str) -> str:
    """What a person sees at the end of a run. `times` are sections of timing.json, if known."""
    lines = [headline(results.metrics["test"])]
    if warning := scores.base_rate_warning(results.metrics["test"]):
        lines.append(f"  {warning}")
    per_class = results.metrics["test"]["per_class"]
    for name in weakest_classes(per_class):
        score = per_class[name]
        row = results.confusion[results.classes.index(name)].copy()
        row[results.classes.index(name)] = 0
        other = printable(results.classes[row.argmax()])
        taken = f", most often taken for {other}" if row.any() else ""
        lines.append(
            f"  weakest: {printable(name)}: F1 {score['f1']:.3f}, "
            f"recall {percent(score['recall'])} of {score['support']:,}{taken}"
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


TEMPLATE = Path(__file__).with_name("model_card.md.j2")


def model_card(info: ModelInfo, metrics: dict, data: dict, evaluate: dict) -> str:
    """Markdown text of the card.

    `metrics` is the content of metrics.json, `data` of data.json, `evaluate` the settings the
    scores were made with.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown: names go through `markdown`
    )
    environment.filters["md"] = markdown
    environment.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    environment.filters["json"] = escape_json
    environment.filters["numbers"] = _numbers
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    per_class = metrics["test"]["per_class"]
    return template.render(
        info=info,
        metrics=metrics,
        test=metrics["test"],
        warning=scores.base_rate_warning(metrics["test"]),
        per_class=per_class,
        weakest=weakest_classes(per_class),
        rare=[name for name, scores in per_class.items() if scores["support"] < 30],
        data=data,
        evaluate=evaluate,
    )


def escape_json(value: object) -> str:
    """`value` as JSON for a code span in a table: nothing in it ends the span or the cell."""
    return re.sub(r"[`|\x7f]", lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value))


def _numbers(values: dict) -> list[tuple[str, float]]:
    """The numbers of nested `values` down to its second level, with dotted names."""
    found = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += [
                (f"{name}.{key}", v) for key, v in value.items() if isinstance(v, int | float)
            ]
        elif isinstance(value, int | float):
            found.append((name, value))
    return found
