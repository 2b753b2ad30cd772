"""train.precision: auto is measured once a kind of machine, and then stays; and whose kernels."""

import json
import os
import platform
import subprocess
import sys

import pytest

from stages.training import environment
from stages.training.environment import WORTHWHILE, Machine, _cpu, choose_precision, measure

ABLE = Machine("any", bfloat16=True, cores=2, tensorflow="2.0")


@pytest.mark.parametrize("wanted", ["float32", "bfloat16"])
def test_what_is_asked_for_is_taken(wanted, tmp_path):
    assert choose_precision(wanted, tmp_path) == wanted
    assert not list(tmp_path.iterdir())


def test_auto_never_takes_bfloat16_without_instructions_for_it(tmp_path):
    chosen = choose_precision("auto", tmp_path)
    if not _cpu()[1] & {"avx512_bf16", "amx_bf16", "bf16"}:
        assert chosen == "float32"
        assert not list(tmp_path.iterdir())
    else:
        (record,) = tmp_path.glob("precision-*.json")
        kept = json.loads(record.read_text())
        assert kept["precision"] == chosen
        assert (kept["bfloat16_speedup"] >= WORTHWHILE) == (chosen == "bfloat16")


@pytest.fixture
def measured(monkeypatch):
    """Says how many times faster bfloat16 is measured to be."""
    return lambda ratio: monkeypatch.setattr(environment, "measure", lambda: ratio)


@pytest.mark.parametrize(
    ("ratio", "faster"), [(WORTHWHILE - 0.01, "float32"), (WORTHWHILE, "bfloat16")]
)
def test_auto_measures_once_and_keeps_to_its_choice(measured, tmp_path, ratio, faster):
    measured(ratio)
    assert choose_precision("auto", tmp_path, ABLE) == faster
    measured(2 if faster == "float32" else 1)
    assert choose_precision("auto", tmp_path, ABLE) == faster
    (record,) = tmp_path.glob("precision-*.json")
    for kept in ("float32", "bfloat16", "float32"):
        record.write_text(json.dumps({"precision": kept}))
        assert choose_precision("auto", tmp_path, ABLE) == kept
    assert choose_precision("auto", tmp_path, ABLE._replace(bfloat16=False)) == "float32"


@pytest.mark.parametrize("damage", ["", "[]", '{"precision": "float8"}'])
def test_a_damaged_record_is_measured_anew(measured, tmp_path, damage):
    measured(1)
    choose_precision("auto", tmp_path, ABLE)
    (record,) = tmp_path.glob("precision-*.json")
    record.write_text(damage)
    measured(2)
    assert choose_precision("auto", tmp_path, ABLE) == "bfloat16"
    kept = json.loads(record.read_text())
    assert (kept["precision"], kept["bfloat16_speedup"]) == ("bfloat16", 2)


def test_the_measurement_is_a_ratio():
    assert 0 < measure(rounds=1) < 100


ONE_CONVOLUTION = (
    "import stages.quiet, tensorflow as tf; print('starts', flush=True)\n"
    "tf.nn.conv2d(tf.ones((2, 8, 8, 8)), tf.ones((3, 3, 8, 8)), 1, 'SAME')"
)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="of x86 processors")
@pytest.mark.parametrize(("wish", "used"), [(None, True), ("0", False)])
def test_convolutions_are_those_of_onednn_unless_the_user_says_otherwise(wish, used):
    """Also where TensorFlow itself would not take them: processors without AVX-512 VNNI."""
    environment = {**os.environ, "ONEDNN_VERBOSE": "1", "TF_ENABLE_ONEDNN_OPTS": wish}
    done = subprocess.run(
        [sys.executable, "-c", ONE_CONVOLUTION],
        env={name: value for name, value in environment.items() if value is not None},
        check=True,
        capture_output=True,
        text=True,
    )
    called = done.stdout.partition("starts\n")[2]
    assert ("exec,cpu,convolution" in called) is used
