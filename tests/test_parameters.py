"""params.yaml is checked whole on reading; each mistake is one line."""

from pathlib import Path

import pytest
import yaml

from stages.errors import UserError
from stages.parameters import Parameters, read_parameters

ROOT = Path(__file__).parent.parent


def write(folder: Path, text: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def every_key(section, values, prefix=""):
    for name, field in section.model_fields.items():
        assert name in values, f"{prefix}{name} is not set"
        if hasattr(field.annotation, "model_fields"):
            every_key(field.annotation, values[name], f"{prefix}{name}.")


def test_the_default_settings_are_valid_and_name_every_key():
    path = ROOT / "params.yaml"
    read_parameters(path)
    every_key(Parameters, yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {epoch: 3}", "train.epoch is not a setting; did you mean epochs?"),
        ("train: {epochs: ten}", "train.epochs = 'ten': input should be a valid integer"),
        ("train: {epochs: 0}", "train.epochs = 0: input should be greater than or equal to 1"),
        ("split: {val: 0.5, test: 0.5}", "split: val + test = 1 leaves no images to train on"),
        ("preprocess: {resize: fit}", "input should be 'stretch', 'pad' or 'crop'"),
        ("download: {url: 'https://a/b.zip'}", "url goes with source archive, csv or parquet"),
        ("download: {source: archive, url: b.zip}", "'b.zip' should begin with https://, s3://"),
        ("download: {source: archive, sha256: abc}", "'abc' should be 64 hexadecimal digits"),
        (
            f"download: {{source: archive, sha256: [{'a' * 64}, {'b' * 64}]}}",
            "2 sha256 for 1 files",
        ),
        ("nonsense", "valid dictionary"),
        ("train: [", "is not valid YAML"),
    ],
)
def test_a_mistake_is_one_line_naming_key_value_and_what_is_allowed(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(UserError, match=r"params\.yaml") as caught:
        read_parameters(path)
    assert message in str(caught.value)
