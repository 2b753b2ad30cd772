"""Settings are read as YAML 1.2 has them, like DVC does; what cannot be read is one line."""

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from stages.errors import UserError
from stages.parameters.yaml_file import read_yaml

SCALARS = st.from_regex(r"\A[-+]?(0[xob])?[0-9_]{1,6}(\.[0-9]{0,3})?([eE][-+]?[0-9]{1,2})?\Z") | (
    st.sampled_from(["yes", "no", "on", "off", "True", "false", "~", "null", ".inf", "-.inf", "Y"])
)


@given(SCALARS)
@example("1e-05")
@example("1e5")
@example("010")
@example("0o17")
@example("1_000")
@example("12:30")
def test_scalars_mean_what_they_mean_to_dvc(tmp_path_factory, scalar):
    path = tmp_path_factory.getbasetemp() / "scalar.yaml"
    path.write_text(f"key: {scalar}\n")
    expected = YAML(typ="safe").load(path.read_text())["key"]
    found = read_yaml(path)["key"]
    assert (type(found), found) == (type(expected), expected)


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 8)}]\n"
    for before, name in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "the key 'a' comes twice"),
        ("a: !!int abc", "invalid literal for int"),
        ("a: " + "9" * 5000, "limit"),
        ("[" * 20_000, "nested too deeply"),
        (BOMB, "aliases for more than"),
        ("a: &a [*a]", "aliases for more than"),
        ("a: !!python/object:os.system x", "could not determine a constructor"),
        ("a: !!timestamp x", "could not determine a constructor"),
        ("? [a]\n: b", "unhashable"),
        ("a\0b", "special characters are not allowed"),
        ("a:\n\tb: 1", "cannot start any token"),
        ("a: 1\n---\nb: 2", "expected a single document"),
        ("#" * 300_000, "300,000 bytes; that is no file of settings"),
    ],
)
def test_what_is_no_file_of_settings_is_one_line(tmp_path, text, message):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"settings\.yaml") as caught:
        read_yaml(path)
    assert message in str(caught.value)


def test_what_is_no_file_or_has_another_encoding_is_one_line(tmp_path):
    with pytest.raises(UserError, match="is a folder, not a file of settings"):
        read_yaml(tmp_path)
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    with pytest.raises(UserError, match=r"loop\.yaml cannot be read: Too many levels"):
        read_yaml(tmp_path / "loop.yaml")
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(UserError, match=r"pipe\.yaml is no regular file"):
        read_yaml(tmp_path / "pipe.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: caf\xe9")
    with pytest.raises(UserError, match=r"latin\.yaml is not valid YAML"):
        read_yaml(tmp_path / "latin.yaml")
