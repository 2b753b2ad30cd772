"""Names that others chose, made safe for people's eyes and programs."""

import re

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


def _escape(match: re.Match) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"
