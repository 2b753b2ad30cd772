"""Times of a run: they differ from run to run, so they are kept apart from every result."""

import json
from pathlib import Path

from stages.store.atomic import replace_file


def record_times(path: str | Path, section: str, times: dict[str, float]) -> None:
    """Set `section` of the JSON file `path` to `times` (figures by name), keep the others."""
    sections = read_times(path) | {section: times}
    with replace_file(path) as temporary:
        temporary.write_text(json.dumps(sections, indent=2) + "\n", encoding="utf-8")


def read_times(path: str | Path) -> dict[str, dict[str, float]]:
    """All sections of `path`; none if the file is missing or was cut short."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
