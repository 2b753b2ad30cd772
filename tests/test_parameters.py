"""params.yaml is checked whole on reading; each mistake is one line."""

from pathlib import Path

import pytest
import yaml

from stages.errors import UserError
from stages.parameters.whole import Parameters, read_parameters

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
        (
            "train: {optimizer: {groups: [{match: bias, nme: sgd}]}}",
            "train.optimizer.groups.0.nme is not a setting; did you mean name?",
        ),
        ("train: {epochs: ten}", "train.epochs = 'ten': input should be a valid integer"),
        ("train: {epochs: 0}", "train.epochs = 0: input should be greater than or equal to 1"),
        ("split: {val: 0.5, test: 0.5}", "split: val + test = 1 leaves no images to train on"),
        ("preprocess: {resize: fit}", "input should be 'stretch', 'pad' or 'crop'"),
        ("download: {url: 'https://a/b.zip'}", "url goes with source archive, csv,"),
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {devices: 1000}", "train.devices = 1000: input should be less than or equal to"),
        ("train: {devices: 1%s}" % ("0" * 30), "input should be less than or equal to 64"),
        ("train: {batch_size: 2, devices: 3}", "devices = 3 share a batch of batch_size = 2"),
        ("train: {hardest: 0.5, sampling: balanced}", "hardest = 0.5 and sampling: balanced would"),
        ("train: {batch_size: 1000000000}", "should be less than or equal to 1048576"),
        ("train: {epochs: 1000000000000}", "should be less than or equal to 100000"),
        ("train: {clip_norm: 1.0e-300}", "should be greater than or equal to 0.000001"),
        ("train: {optimizer: {groups: [{match: '('}]}}", "'(' is not a regular expression"),
        ("augment: {randaugment: {layers: 1000000000}}", "should be less than or equal to 16"),
        ("augment: {mixup: 1.0e+30}", "augment.mixup = 1e+30: input should be less than or equal"),
        ("model: {settings: {filters: [3, .nan]}}", "model.settings: filters = nan is no number"),
        ("model: {settings: {a: {b: [[-.inf]]}}}", "model.settings: a.b = -inf is no number that"),
        ("model: {settings: {dense: 1%s}}" % ("0" * 400), "is no number that a net can use"),
        ("model: {settings: {1: 2}}", "model.settings.1"),
        ("model: {settings: [1]}", "model.settings = [1]: input should be a valid dictionary"),
        ("model: {settings: {a: [%s]}}" % ("1, " * 1001), "a has 1001 entries; 1000 are the most"),
        ("model: {weights: ''}", "model.weights = '': string should have at least 1 character"),
    ],
)
def test_what_cannot_end_well_is_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=r"params\.yaml") as caught:
        read_parameters(write(tmp_path, text))
    assert message in str(caught.value)


@pytest.mark.parametrize("number", [".inf", ".nan"])
@pytest.mark.parametrize(
    "key",
    [
        *(f"augment: {{{name}" for name in ("rotation", "width_shift", "zoom", "mixup", "cutmix")),
        *(f"train: {{{name}" for name in ("label_smoothing", "clip_norm", "memory_limit")),
        *(
            f"train: {{optimizer: {{{name}"
            for name in ("learning_rate", "momentum", "weight_decay")
        ),
        "train: {checkpoint_minutes",
        "train: {early_stopping: {min_delta",
        "train: {fine_tune: {learning_rate_factor",
        "train: {schedule: {warmup",
        "train: {averaging: {decay",
        "train: {debug: {data_fraction",
    ],
)
def test_no_setting_of_training_is_infinite(tmp_path, key, number):
    text = f"{key}: {number}" + "}" * key.count("{")
    with pytest.raises(UserError, match=r"params\.yaml: \w+\..* = (inf|nan): input should be"):
        read_parameters(write(tmp_path, text))
