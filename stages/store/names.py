"""Names that others chose, made safe for people's eyes and programs."""

import json
import re
from collections.abc import Mapping
from typing import Any

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


def markdown(text: object) -> str:
    """`text` in one line of plain text inside Markdown: no markup, no mention, no broken table."""
    line = printable(" ".join(str(text).split()))
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", line)


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
