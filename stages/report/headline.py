"""The result in a few lines."""

from stages.metrics import baseline
from stages.report.results import Results
from stages.store.names import printable


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def headline(metrics: dict) -> str:
    """Accuracy with interval and count."""
    return (
        f"{percent(metrics['accuracy'])} of {metrics['count']:,} test images right "
        f"(95 % interval {percent(metrics['accuracy_low'])} to "
        f"{percent(metrics['accuracy_high'])})"
    )


def weakest_classes(results: Results, count: int = 3) -> list[tuple[str, dict]]:
    """Names and scores of the classes with test images and the lowest F1, weakest first."""
    scored = [item for item in results.metrics["test"]["per_class"].items() if item[1]["support"]]
    return sorted(scored, key=lambda item: item[1]["f1"])[:count]


def console_summary(results: Results, times: dict[str, dict[str, float]], page: str) -> str:
    """What a person sees at the end of a run. `times` are sections of timing.json, if known."""
    lines = [headline(results.metrics["test"])]
    if warning := baseline.warning(results.metrics["test"]):
        lines.append(f"  {warning}")
    for name, scores in weakest_classes(results):
        row = results.confusion[results.classes.index(name)].copy()
        row[results.classes.index(name)] = 0
        other = printable(results.classes[row.argmax()])
        taken = f", most often taken for {other}" if row.any() else ""
        lines.append(
            f"  weakest: {printable(name)}: F1 {scores['f1']:.3f}, "
            f"recall {percent(scores['recall'])} of {scores['support']:,}{taken}"
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
