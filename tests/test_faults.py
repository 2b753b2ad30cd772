"""The harness of mutated, hostile and interrupted cases: a small run, and faults it must find."""

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bench.faults.__main__ import run, run_images
from bench.faults.archives import HOSTILE, Case, case, compare, judge_archive, photos
from bench.faults.cases import (
    ACCEPTED,
    REJECTED,
    Outcome,
    Place,
    Tally,
    case_random,
    differences,
    tree,
)
from bench.faults.images import mutated
from bench.faults.kills import judge_struck
from bench.faults.models import on_purpose
from bench.faults.params import special, spoilt
from bench.faults.watched import GIB, Done, judge, run_program
from stages.parameters.pixels import PixelSettings, Preprocessing
from stages.store.model import ModelInfo, save_model
from stages.store.tables import write_table

ROOT = Path(__file__).parent.parent

# Importing TensorFlow on any machine, generously; the harness itself measures it.
TENSORFLOW = Done(0, "", "", 30.0, GIB)


def test_no_fault_among_a_few_cases():
    counts = {"images": 150, "archives": 12, "params": 60, "kills": 0, "models": 0}
    options = [f"--{kind}={count}" for kind, count in counts.items()]
    # A process of its own: a child starts with the memory of its parent on its account.
    done = subprocess.run(
        [sys.executable, "-m", "bench.faults", *options], cwd=ROOT, capture_output=True, text=True
    )
    results = json.loads(done.stdout.splitlines()[-1])
    assert {"images", "images_staged", "archives", "params", "params_staged", "photos"} < set(
        results
    )
    assert results["met"], done.stdout


def test_light_stages_survive_a_few_kills():
    options = {"kills": {"stages": ("download", "preprocess", "split")}}
    results = run({"kills": 3}, seed=0, options=options)
    assert results["met"], json.dumps(results)


def test_a_few_foreign_models_are_refused(tmp_path):
    import keras

    layers = [
        keras.Input((8, 8, 3), dtype="uint8"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(2, activation="softmax"),
    ]
    settings = Preprocessing(size=[8, 8], color="rgb")
    info = ModelInfo(classes=["a", "b"], shape=settings.shape, preprocess=settings)
    save_model(keras.Sequential(layers), tmp_path / "model.keras", info)
    options = {"sound": (tmp_path / "model.keras").read_bytes(), "basis": TENSORFLOW}
    results = run({"models": 6}, seed=0, options={"models": options})
    assert results["met"], json.dumps(results)


def test_a_case_depends_on_the_seed_and_its_number_alone():
    for make in (mutated, spoilt, photos):
        first = make(case_random(3, "kind", 7))
        make(case_random(3, "kind", 8))
        assert make(case_random(3, "kind", 7)) == first
        assert make(case_random(4, "kind", 7)) != first
    assert case(3, 6) == case(3, 6) != case(4, 6)


# Decoders with faults, which the harness has to find.


def raises(data: bytes, settings: PixelSettings) -> np.ndarray:
    raise KeyError("no such tag")


def crashes(data: bytes, settings: PixelSettings) -> np.ndarray:
    os.kill(os.getpid(), signal.SIGSEGV)


def sleeps(data: bytes, settings: PixelSettings) -> np.ndarray:
    time.sleep(60)


def works(data: bytes, settings: PixelSettings) -> np.ndarray:
    while True:
        pass


def devours(data: bytes, settings: PixelSettings) -> np.ndarray:
    np.ones(GIB + 2**26, np.uint8)
    return np.zeros(settings.shape, np.uint8)


CALLS = itertools.count()


def changes(data: bytes, settings: PixelSettings) -> np.ndarray:
    return np.full(settings.shape, next(CALLS) % 251, np.uint8)


def misshapes(data: bytes, settings: PixelSettings) -> np.ndarray:
    return np.zeros((*settings.shape, 1), np.uint8)


@pytest.mark.parametrize(
    ("decode", "fault"),
    [
        (raises, "traceback"),
        (crashes, "crash"),
        (sleeps, "hang"),
        (works, "hang"),
        (devours, "memory"),
        (changes, "differs"),
        (misshapes, "wrong shape"),
    ],
)
def test_faults_of_a_decoder_are_found(decode, fault):
    numbers = [0, 1] if fault == "crash" else [0]  # the next case gets a fresh process
    tally = Tally("images", len(numbers))
    seconds = 1 if fault == "hang" else 10
    for number, outcome in run_images(numbers, 0, Path(), decode=decode, seconds=seconds):
        tally.add(number, outcome)
    assert tally.figures()["faults"] == {fault: len(numbers)}
    assert tally.figures()["examples"][0].startswith("images:")


def test_a_fault_is_a_goal_not_met():
    results = run({"images": 1}, seed=0, options={"images": {"decode": raises}})
    assert results["images"]["other"] == 1
    assert results["met"] is False


TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 1\nValueError: x\n'


@pytest.mark.parametrize(
    ("done", "verdict"),
    [
        (Done(0, "12 images", "", 1, 2**20), ACCEPTED),
        (Done(1, "", "error: it is damaged\n", 1, 2**20), REJECTED),
        (Done(1, "", "reading: 5 files [00:01, 3.2 files/s]\nerror: x\n", 1, 1), REJECTED),
        (Done(1, "", "error: one\nerror: two\n", 1, 2**20), "no single error line"),
        (Done(1, "", "", 1, 2**20), "no single error line"),
        (Done(2, "", "error: x\n", 1, 2**20), "no single error line"),
        (Done(1, "", TRACEBACK, 1, 2**20), "traceback"),
        (Done(0, "", TRACEBACK, 1, 2**20), "traceback"),
        (Done(-11, "", "", 1, 2**20), "crash"),
        (Done(0, "", "", 1, 2 * GIB), "memory"),
        (Done(-9, "", "", 1, 2 * GIB, "memory"), "memory"),
        (Done(-9, "", "", 30, 2**20, "hang"), "hang"),
    ],
)
def test_how_a_stage_ended_is_judged(done, verdict):
    assert judge(done).verdict == verdict


def test_a_program_that_waits_for_ever_is_ended(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    done = run_program(["cat", "pipe"], tmp_path, seconds=1)
    assert (done.code, done.stopped) == (-signal.SIGKILL, "hang")


def test_lost_and_altered_photos_of_an_archive_are_found():
    files = photos(case_random(0, "archives", 0))
    found = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
    one = Case("sound", b"")
    assert compare(one, files, found) == []
    assert compare(one, files, found | {"a/more.png": "0" * 64}) == ["a/more.png was never in it"]
    altered = found | {"a/00.png": "0" * 64}
    assert compare(one, files, altered) == ["a/00.png has other bytes"]
    assert compare(one._replace(changed=frozenset(["a/00.png"])), files, altered) == []
    del found["b/01.jpeg"]
    assert compare(one, files, found) == ["b/01.jpeg is lost"]


def test_refusing_what_is_sound_and_accepting_what_is_not_are_faults(tmp_path):
    files = photos(case_random(0, "archives", 0))
    refused = Outcome(REJECTED, "error: x")
    assert judge_archive(Case("", b"", "accept"), files, tmp_path, refused).verdict == "refused"
    assert judge_archive(Case("", b""), files, tmp_path, refused) == refused
    (tmp_path / "data/raw").mkdir(parents=True)
    write_table(tmp_path / "data/raw/manifest.csv", ["path", "sha256"], [])
    for must, verdict in (("", "lost"), ("refuse", "lost")):
        outcome = judge_archive(Case("", b"", must), files, tmp_path, Outcome(ACCEPTED))
        assert outcome.verdict == verdict
    outcome = judge_archive(Case("", b"", "refuse"), {}, tmp_path, Outcome(ACCEPTED))
    assert outcome.verdict == "accepted what is damaged"


def test_what_is_written_outside_a_project_is_found(tmp_path):
    place = Place(tmp_path / "case")
    (place.project / "inside.txt").write_text("x")
    assert place.written_outside() == []
    (place.project.parent / "escaped.png").write_text("x")
    (place.top / "canary.txt").unlink()
    (place.top / "above/canary.txt").write_text("changed")
    assert place.written_outside() == [
        "above/beside/escaped.png",
        "above/canary.txt",
        "canary.txt",
    ]


def test_what_a_kill_left_behind_is_found(tmp_path):
    for name in ("kept", "gone", "other"):
        (tmp_path / name).write_text(name)
    before = tree(tmp_path)
    (tmp_path / "gone").unlink()
    (tmp_path / "other").write_text("changed")
    (tmp_path / ".model.tmp").write_text("x")
    lines = [".model.tmp was left over", "gone is missing", "other differs"]
    assert differences(tree(tmp_path), before) == lines


@pytest.mark.parametrize(
    ("code", "err", "how", "verdict"),
    [
        (-9, "", "SIGKILL", ACCEPTED),
        (0, "", "SIGKILL", ACCEPTED),
        (-15, "", "SIGTERM", ACCEPTED),
        (130, "error: interrupted; run it again\n", "SIGINT", REJECTED),
        (143, "error: ended; run it again\n", "SIGTERM", REJECTED),
        (-2, "", "SIGINT", "no single error line"),
        (1, TRACEBACK, "SIGINT", "traceback"),
        (1, "error: x\n", "SIGKILL", "no single error line"),
    ],
)
def test_how_a_struck_stage_ended_is_judged(code, err, how, verdict):
    assert judge_struck(Done(code, "", err, 1, 1), how).verdict == verdict


def test_names_of_what_is_made_on_purpose_are_unique():
    for cases in (HOSTILE, on_purpose(), special()):
        names = [what for what, *_ in cases]
        assert len(set(names)) == len(names)
