"""File names are shown as text that nothing obeys; class names that would be obeyed are refused."""

import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.errors import UserError
from stages.sources.layout import read_layout
from stages.store.names import printable, read_label

# Surrogates too: Python stands with them for bytes that are not UTF-8.
ANY = st.text(st.characters(codec=None, exclude_categories=()), max_size=30)
BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def is_safe(text: str) -> bool:
    return not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in BIDI for c in text)


@given(ANY)
def test_any_name_becomes_safe_text_and_stays_so(name):
    shown = printable(name)
    assert is_safe(shown)
    assert printable(shown) == shown
    shown.encode()
    if is_safe(name):
        assert shown == name


@given(ANY, ANY)
def test_different_names_stay_different(one, other):
    # But for those that spell an escape with a backslash: two such files are refused by path.
    if one != other and "\\" not in one + other:
        assert printable(one) != printable(other)


@given(st.binary(max_size=20))
def test_bytes_that_are_not_utf8_are_shown_as_hexadecimal(content):
    shown = printable(os.fsdecode(content))
    assert is_safe(shown)
    if not content.isascii():
        try:
            content.decode()
        except UnicodeDecodeError:
            assert "\\x" in shown


@given(ANY)
def test_any_class_name_is_safe_or_refused(name):
    try:
        label = read_label(name, "here")
    except UserError as error:
        label, message = None, str(error)
    if label is None:
        assert is_safe(message)
        return
    assert is_safe(label)
    assert label[0] not in "=@"
    assert len(label.encode()) <= 255
    assert read_label(label, "here") == label


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("cat\x1b[31m", r"cat\\x1b\[31m"),
        ("c\u202eat", r"c\\u202eat"),
        ("c\u2028at", r"c\\u2028at"),
        ("c\x85at", r"c\\u0085at"),
        ("caf\udce9", r"caf\\xe9"),
        ("a\nb", r"a\\x0ab"),
        ("<script>alert(1)</script>", "<script>"),
        ("</b>", "</b>"),
        ("<!-- x", "<!-- x"),
        ("<?php", "<?php"),
        ('=cmd|"/c calc"!A1', "=cmd"),
        ("@SUM(1)", "@SUM"),
        ("+1+1", r"\+1\+1"),
        ("-cat", "-cat"),
        ("-", "'-'"),
        ("x" * 256, "xxx"),
        (" ", "''"),
    ],
)
def test_class_names_that_would_be_obeyed_are_refused(name, shown):
    with pytest.raises(UserError, match=rf"here: the class name .*{shown}.*; rename it"):
        read_label(name, "here")


@pytest.mark.parametrize(
    "name",
    ["<5mm", "a < b", "-1", "+2.5", "-1e-3", "T-shirt/top", "it's", "猫", "👩‍🔬", "50 %", "a=b"],
)
def test_ordinary_class_names_are_legal(name):
    assert read_label(f" {name} ", "here") == name


def test_a_class_folder_that_is_not_safe_is_refused_with_its_place():
    with pytest.raises(UserError, match=r"mine: the class name 'c\\x1bat' has characters"):
        list(read_layout(["c\x1bat/1.jpg", "dog/1.jpg"], "mine"))


# Labels from file names

PATTERN = r"([a-z]+)[._]\d+\.\w+$"


@pytest.mark.parametrize("wrap", ["", "pets/"])
def test_labels_from_file_names(wrap):
    paths = [f"{wrap}cat.12.jpg", f"{wrap}dog_3.png", f"{wrap}more/here/cat.13.jpg"]
    assert list(read_layout(paths, "mine", PATTERN)) == [("", "cat"), ("", "dog"), ("", "cat")]


@pytest.mark.parametrize("wrap", ["", "pets/"])
def test_labels_from_file_names_in_declared_sides(wrap):
    paths = [f"{wrap}train/cat.1.jpg", f"{wrap}Train/dog.2.jpg", f"{wrap}test/x/dog.1.jpg"]
    places = [("train", "cat"), ("train", "dog"), ("test", "dog")]
    assert list(read_layout(paths, "mine", PATTERN)) == places
    for stray in ("cat.3.jpg", "unsorted/cat.3.jpg"):
        with pytest.raises(UserError, match=r"declared sets Train/, test/, train/"):
            list(read_layout([*paths, wrap + stray], "mine", PATTERN))


def test_the_whole_match_is_the_class_where_the_pattern_has_no_group():
    assert list(read_layout(["a/cat1.jpg", "a/dog1.jpg"], "mine", "cat|dog")) == [
        ("", "cat"),
        ("", "dog"),
    ]


@pytest.mark.parametrize("pattern", [PATTERN, r"(cat)?", r"^(\d*)"])
def test_names_without_a_class_are_counted_and_the_first_is_named(pattern):
    paths = ["IMG\x1b1.jpg", "IMG2.jpg"]
    with pytest.raises(UserError, match=r"no class in .* 2 images of mine, e.g. IMG\\x1b1.jpg"):
        list(read_layout(paths, "mine", pattern))


def test_a_label_from_a_file_name_is_checked_like_any_other():
    with pytest.raises(UserError, match="mine: the class name '=1' begins with ="):
        list(read_layout(["=1.jpg", "a.jpg"], "mine", r"^([^.]+)"))
