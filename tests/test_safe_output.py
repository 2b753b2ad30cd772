"""Names of files and classes, whatever is in them, in every kind of text that is written."""

import csv
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stages.metrics import scores
from stages.report.page import environment
from stages.store.names import cell, json_span, markdown, path_cell, printable

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]>",
    "\u2028\u2029\x1b]0;x\x07\u202e",
    "=cmd|' /C calc'!A0",
    "@everyone #1 $x$ `a` | [a](b) ![c](d) _e_ \\",
    "a\r\n| b | c |",
    "\udcff",
    "-1",
    "",
]
TEXT = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(st.characters(codec=None), max_size=30),
    st.text(st.sampled_from("<>/!-&'\"`|\\=+@\t\r\n\x1b\u202e\u2028script"), max_size=30),
)
law = settings(max_examples=300, deadline=None, derandomize=True)


@law
@given(TEXT)
def test_printable_text_is_one_line_without_anything_hidden_in_it(text):
    shown = printable(text)
    shown.encode("utf-8")
    assert len(shown.splitlines()) <= 1
    assert all(c.isprintable() or c == "\xa0" or c > "\xa0" for c in shown)
    assert not set("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069") & set(
        shown
    )
    assert printable(shown) == shown
    if text.isprintable() and text.isascii():
        assert shown == text


@law
@given(st.lists(TEXT, min_size=1, max_size=4))
def test_a_csv_file_holds_the_fields_and_none_is_a_formula(texts):
    for made in (cell, path_cell):
        file = io.StringIO()
        csv.writer(file, lineterminator="\n").writerow([made(text) for text in texts])
        (row,) = csv.reader(io.StringIO(file.getvalue()))
        for field, text in zip(row, texts, strict=True):
            assert field in (printable(text), "'" + printable(text), "./" + printable(text))
            if field[:1] in tuple("=+-@\t\r"):
                float(field)  # a number, which a spreadsheet may take for one


@law
@given(TEXT)
def test_markdown_of_a_name_has_no_markup(text):
    line = markdown(text)
    assert len(line.splitlines()) <= 1
    plain = re.sub(r"&#\d+;", "", line)
    assert not set("&<>\"'`*[]|~@#$\\") & set(plain)
    assert not re.search(r"(?<![^\W_])_|_(?![^\W_])", plain)
    read = re.sub(r"&#(\d+);", lambda found: chr(int(found[1])), line)
    assert read == printable(" ".join(text.split()))


@law
@given(TEXT)
def test_json_in_a_code_span_of_a_table_is_the_same_json(text):
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return  # settings come from UTF-8 files
    span = json_span({"name": text})
    assert len(span.splitlines()) == 1
    assert not set("`|\x1b\u202e") & set(span)
    assert json.loads(span) == {"name": text}


class Page(HTMLParser):
    """Elements with their attributes, and the text of each script."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self.scripts = [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.elements[-1][0] == "script":
            self.scripts[-1] += data


@law
@given(TEXT)
@example("\u2028</script>")
def test_names_stay_text_in_html_in_attributes_and_in_the_json_of_a_script(text):
    template = environment().from_string(
        '<p title="{{ x }}">{{ x }}</p><script type="application/json">{{ [x] | tojson }}</script>'
    )
    html = template.render(x=text)
    page = Page(html)
    assert page.elements == [
        ("p", {"title": printable(text)}),
        ("script", {"type": "application/json"}),
    ]
    (script,) = page.scripts
    assert json.loads(script) == [text]
    assert not set("<>&\u2028") & set(script)


# The headline, and what it is worth


@law
@given(st.integers(1, 3000), st.data())
def test_the_interval_holds_the_accuracy_and_narrows_with_more_images(count, data):
    right = data.draw(st.integers(0, count))
    found, more = scores.accuracy(right, count), scores.accuracy(10 * right, 10 * count)
    assert 0 <= found["accuracy_low"] <= found["accuracy"] <= found["accuracy_high"] <= 1
    widths = [score["accuracy_high"] - score["accuracy_low"] for score in (found, more)]
    assert widths[1] < widths[0]


@law
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.data())
def test_naming_the_commonest_class_is_never_called_better_than_itself(trained, data):
    tested = np.array(data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=60)))
    rate = scores.base_rate(np.array(trained), tested)
    commonest = max(range(5), key=lambda k: (trained.count(k), -k))
    assert rate == np.mean(tested == commonest)
    constant = scores.accuracy(int((tested == commonest).sum()), len(tested))
    constant |= scores.rounded({"base_rate": rate})
    assert scores.base_rate_warning(constant).startswith("No better than")
    right = data.draw(st.integers(0, len(tested)))
    score = scores.accuracy(right, len(tested)) | scores.rounded({"base_rate": rate})
    better = score["accuracy_low"] > score["base_rate"]
    assert (scores.base_rate_warning(score) is None) == better


@pytest.mark.parametrize(
    ("right", "said"), [(50, "No better"), (55, "Not shown to be better"), (70, None)]
)
def test_what_is_said_of_two_classes_of_equal_size(right, said):
    score = scores.accuracy(right, 100) | {"base_rate": 0.5}
    warning = scores.base_rate_warning(score)
    assert warning is None if said is None else warning.startswith(said)
