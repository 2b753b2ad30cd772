"""make recipe NAME=mnist: write params.yaml for a known job; without NAME, list the recipes.

recipes/digits.yaml is the default and has every setting with its comment. The other recipes
name only what differs from it. What is written is the default with a recipe's head comment and
values in place, so that each comment has one home.
"""

import argparse
import difflib
import io
import itertools
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, RoundTripRepresenter
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import ScalarNode

from stages.arguments import Parser
from stages.errors import UserError, run
from stages.parameters.whole import read_parameters
from stages.store.outputs import replace_file

RECIPES = Path("recipes")
DEFAULT = "digits"
PARAMS = Path("params.yaml")


def main() -> None:
    arguments = _arguments()
    if arguments.name is None:
        _list_recipes()
        return
    path = find_recipe(arguments.name)
    text = write_recipe(arguments.name)
    present = PARAMS.read_text(encoding="utf-8", errors="replace") if PARAMS.exists() else None
    if text == present:
        print(f"{PARAMS} is {path} already")
        return
    with replace_file(PARAMS) as draft:
        draft.write_text(text, encoding="utf-8")
        try:
            read_parameters(draft)
        except UserError as error:
            raise UserError(str(error).replace(str(draft), str(path))) from None
        if present is not None and not arguments.force and not _saved_in_git(present):
            raise UserError(
                f"{PARAMS} has settings that are not saved in git; commit them, or replace them "
                f"for good: make recipe NAME={arguments.name} FORCE=1"
            )
    for line in changes(present, text):
        print(line)
    print(f"{PARAMS} is {path} now; next: dvc repro")


def _arguments() -> argparse.Namespace:
    parser = Parser("recipe", __doc__)
    parser.add_argument("name", nargs="?", help="a file of recipes/, without .yaml")
    parser.add_argument(
        "--force", action="store_true", help="replace settings that are not saved in git"
    )
    return parser.parse_args()


def _list_recipes() -> None:
    names = _names(RECIPES)
    width = max(map(len, names), default=0)
    for name in names:
        head = _head(_read(RECIPES / f"{name}.yaml"))
        print(f"{name:{width}}  {head.splitlines()[0].lstrip('# ') if head else ''}".rstrip())


def find_recipe(name: str, folder: Path = RECIPES) -> Path:
    """The file of recipe `name`. Raises `UserError`, with names that exist, for an unknown one."""
    names = _names(folder)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(names) or 'none'}"
        raise UserError(f"there is no {folder}/{name}.yaml; {hint}")
    return folder / f"{name}.yaml"


def write_recipe(name: str, folder: Path = RECIPES) -> str:
    """The complete, commented params.yaml of recipe `name`, whose values are not checked yet.

    Raises `UserError` for a recipe that does not exist, is no YAML or names an unknown setting.
    """
    path, default = find_recipe(name, folder), find_recipe(DEFAULT, folder)
    default_text = _read(default)
    if path == default:
        return default_text
    text = _read(path)
    settings = _load(default_text, default, _round_trip())
    _overlay(settings, _load(text, path), path)
    written = io.StringIO()
    _round_trip().dump(settings, written)
    return _head(text) + written.getvalue().removeprefix(_head(default_text))


def changes(old: str | None, new: str) -> Iterator[str]:
    """Lines `key: old -> new`, for every setting whose value two params.yaml do not share.

    Nothing is said of an `old` that is absent or cannot be read.
    """
    try:
        present = None if old is None else _load(old, PARAMS)
    except UserError:
        present = None
    if present:
        yield from _differences(present, _load(new, PARAMS, _round_trip()))


def _differences(old: Any, new: dict, prefix: str = "") -> Iterator[str]:
    for key, value in new.items():
        before = old.get(key) if isinstance(old, dict) else None
        if _is_section(value):
            yield from _differences(before, value, f"{prefix}{key}.")
        elif before != value:
            yield f"{prefix}{key}: {_shown(before)} -> {_shown(value)}"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _overlay(section: dict, values: dict, path: Path, prefix: str = "") -> None:
    """Set `values` in `section`; a value that is a list or a mapping replaces the whole one."""
    for key, value in values.items():
        if key not in section:
            close = difflib.get_close_matches(str(key), section, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known keys: {', '.join(section)}"
            raise UserError(f"{path}: {prefix}{key} is not a setting; {hint}")
        if not _is_section(section[key]):
            section[key] = value
        elif isinstance(value, dict):
            _overlay(section[key], value, path, f"{prefix}{key}.")
        else:
            raise UserError(
                f"{path}: {prefix}{key} = {_shown(value)}: should be a section, with settings "
                f"like {next(iter(section[key]))}"
            )


def _is_section(value: Any) -> bool:
    """Sections of the default are in block style; a mapping that is a value stands in braces."""
    return isinstance(value, CommentedMap) and value.fa.flow_style() is False


class _Representer(RoundTripRepresenter):
    def represent_none(self, data: None) -> ScalarNode:  # ruamel.yaml would write nothing
        return self.represent_scalar("tag:yaml.org,2002:null", "null")


_Representer.add_representer(type(None), _Representer.represent_none)


def _round_trip() -> YAML:
    """Reads and writes YAML with its comments and layout; new lists and mappings in one line."""
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.preserve_quotes = True
    yaml.default_flow_style = True
    yaml.width = 4096
    return yaml


def _load(text: str, path: Path, yaml: YAML | None = None) -> dict:
    """The mapping in `text`, the content of `path`; empty if there are only comments."""
    try:
        values = (yaml or YAML(typ="safe", pure=True)).load(text)
    except YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict | None):
        raise UserError(f"{path} should have lines like train: {{epochs: 5}}, not {values!r}")
    return values or {}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}") from None


def _names(folder: Path) -> list[str]:
    return sorted(path.name.removesuffix(".yaml") for path in folder.glob("*.yaml"))


def _head(text: str) -> str:
    """The comment that `text` begins with."""
    lines = text.splitlines(keepends=True)
    return "".join(itertools.takewhile(lambda line: line.startswith("#"), lines))


def _saved_in_git(text: str) -> bool:
    """Whether `text` is the params.yaml of the last commit."""
    command = ["git", "show", f"HEAD:./{PARAMS}"]
    try:
        committed = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        return False
    # On Windows, git may hold other ends of lines than the file has.
    return committed.returncode == 0 and committed.stdout.splitlines() == text.encode().splitlines()


if __name__ == "__main__":
    run(main)
