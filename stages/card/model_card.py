"""Render the model card (Mitchell et al. 2019, Model Cards for Model Reporting)."""

import json
import re
from pathlib import Path

import jinja2

from stages.metrics import baseline
from stages.store.model import ModelInfo
from stages.store.names import markdown

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
        warning=baseline.warning(metrics["test"]),
        per_class=per_class,
        weakest=weakest_classes(per_class),
        rare=[name for name, scores in per_class.items() if scores["support"] < 30],
        data=data,
        evaluate=evaluate,
    )


def weakest_classes(per_class: dict[str, dict], count: int = 3) -> list[str]:
    """Names of the classes with test images and the lowest F1, weakest first."""
    present = [name for name, scores in per_class.items() if scores["support"]]
    return sorted(present, key=lambda name: per_class[name]["f1"])[:count]


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
