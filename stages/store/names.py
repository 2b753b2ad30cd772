"""Names that others chose, made safe for people's eyes and programs."""

import functools
import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.errors import UserError

if TYPE_CHECKING:
    from jinja2 import Template

# What a terminal, a page or a table would obey instead of showing: control characters, line and
# paragraph separators, marks that reverse the direction of writing, and halves of a character
# (with which Python stands for bytes that are not UTF-8).
UNSHOWABLE = re.compile(
    "[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
# What Markdown, or GitHub's, gives a meaning. Not the _ of f1_macro.
_MARKUP = re.compile(r"[&<>\"'\\`*\[\]|~@#$]|(?<![^\W_])_|_(?![^\W_])")
_FORMULA = tuple("=+-@\t\r")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)

# Class names end in pages, tables and terminals, which would obey these instead of showing them.
LABEL_MARKUP = re.compile("<[A-Za-z/!?]")
LABEL_FORMULA = re.compile(r"[=@]|[+-](?!(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$)", re.ASCII)
LONGEST_LABEL = 255  # bytes, as of a file name


def printable(name: str) -> str:
    r"""A file name as one line of text that is safe to show and that UTF-8 can hold.

    ASCII control characters and bytes that are not UTF-8 become \xNN, other characters that
    cannot be shown \uNNNN. What comes out stays as it is when this is done once more.
    """
    return UNSHOWABLE.sub(_escape, name) if not name.isprintable() else name


def cell(text: str, mark: str = "'") -> str:
    """`printable(text)` for a CSV file: after `mark` if a spreadsheet would take it for a formula.

    Numbers stay as they are.
    """
    text = printable(text)
    formula = text.startswith(_FORMULA) and not _NUMBER.fullmatch(text)
    return mark + text if formula else text


def path_cell(path: str) -> str:
    """`path` as `cell` writes it; ./=x is the same file as =x, and no formula."""
    return cell(path, "./")


def clean_label(name: str) -> str:
    """A class name in the one form (Unicode NFC) in which equal names are equal text."""
    return unicodedata.normalize("NFC", name.strip())


def read_label(name: str, where: str) -> str:
    """The class that `name` says, in the form of `clean_label`.

    Raises `UserError` for a name that would not be shown but obeyed where people look at classes:
    on a page, in a terminal, in a table.
    """
    label = clean_label(name)
    if problem := _label_problem(label):
        raise UserError(f"{where}: the class name '{printable(label)[:100]}' {problem}; rename it")
    return label


@functools.lru_cache(maxsize=10_000)
def _label_problem(label: str) -> str:
    if not label:
        return "is empty"
    if printable(label) != label:
        return "has characters that cannot be shown"
    if LABEL_MARKUP.search(label):
        return "has a < that HTML takes for the start of a tag"
    if LABEL_FORMULA.match(label):
        return f"begins with {label[0]}, which spreadsheets take for a formula"
    if len(label.encode()) > LONGEST_LABEL:
        return f"is longer than {LONGEST_LABEL} bytes"
    return ""


def markdown(text: object) -> str:
    """`text` in one line of plain text inside Markdown: no markup, no mention, no broken table."""
    line = printable(" ".join(str(text).split()))
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", line)


def markdown_template(path: Path, **filters: Callable[[Any], str]) -> "Template":
    """The template of Markdown in the file `path`, with the filter `md` for text from outside, and
    `filters`."""
    import jinja2  # late: what only reads names needs none

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # this is no HTML: names go through `md`
    )
    environment.filters |= {"md": markdown, **filters}
    return environment.from_string(path.read_text(encoding="utf-8"))


def json_span(value: object) -> str:
    """`value` as JSON for a code span of a Markdown table: nothing ends the span or the cell."""
    return re.sub(r"[`|\x7f]", lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names: {"test": {"loss": 1}} gives {"test.loss": 1}.

    Lists and empty mappings are values.
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _escape(match: re.Match) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"
