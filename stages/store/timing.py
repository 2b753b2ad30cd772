"""Times of a run: they differ from run to run, so they are kept apart from every result."""

import json
from pathlib import Path

from stages.store.model import file_sha256
from stages.store.outputs import replace_file


def record_times(path: str | Path, section: str, times: dict, model: str | Path) -> None:
    """Set `section` of the JSON file `path` to `times` (figures by name), keep the others.

    The section says which `model` file it is about: the file `path` belongs to no revision, so
    another model may be checked out beside it.
    """
    times = {"model": file_sha256(model), **times}
    with replace_file(path) as temporary:
        text = json.dumps(_read(path) | {section: times}, indent=2)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_times(path: str | Path, sha256: str | None) -> dict[str, dict]:
    """The sections of `path` about the model whose file has this `sha256`.

    None if the file is missing or was cut short.
    """
    return {
        section: {name: value for name, value in times.items() if name != "model"}
        for section, times in _read(path).items()
        if isinstance(times, dict) and sha256 and times.get("model") == sha256
    }


def _read(path: str | Path) -> dict:
    try:
        sections = json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return sections if isinstance(sections, dict) else {}
