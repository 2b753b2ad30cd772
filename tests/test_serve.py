"""The service: python -m stages.serve, in a process of its own."""

import io
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
CLASSES = ["blue", "green", "<red>"]
SHAPE = (12, 10, 3)


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """The folder of a small model, exported to ONNX and LiteRT in a process of its own each."""
    folder = tmp_path_factory.mktemp("export")
    subprocess.run([sys.executable, __file__, str(folder)], check=True, cwd=ROOT, env=_env())
    return folder


def _env(**more):
    return os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"} | more


def make(folder):
    """Export a net that tells images by their strongest colour."""
    import keras

    from stages.inference.convert import convert
    from stages.inference.exported import load_exported
    from stages.parameters.pixels import Preprocessing
    from stages.store import exported as store
    from stages.store.model import Judgement, Limit, ModelInfo, Reference, Score, save_model

    layers = [
        keras.Input(SHAPE, dtype="uint8"),
        keras.layers.Rescaling(1 / 25),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(3, activation="softmax"),
    ]
    model = keras.Sequential(layers)
    model.layers[-1].set_weights([np.eye(3)[::-1], np.zeros(3)])
    preprocess = Preprocessing(size=list(SHAPE[:2]), color="rgb", interpolation="area")
    random = np.random.default_rng(0)
    known = (np.eye(3)[np.arange(30) % 3] * 9 + random.normal(0, 0.3, (30, 3))).astype(np.float16)
    info = ModelInfo(classes=CLASSES, shape=SHAPE, preprocess=preprocess)
    save_model(model, folder / "model.keras", info, Reference(known, known))
    pixels = random.integers(0, 256, (2, *SHAPE), np.uint8)
    for format in ("onnx", "litert"):
        convert(format, folder / "model.keras", "none", pixels, folder / store.FILES[format])
    score = Score(accuracy=0.9, accuracy_low=0.8, accuracy_high=1.0, count=9)
    judgement = Judgement(
        sha256="0" * 64,
        tta="none",
        top_k=2,
        test=score,
        sets=Limit(share=0.9, threshold=0.2),
        unlike=Limit(share=0.01, threshold=0.1),
    )
    takes, gives = store.tensors(SHAPE, 3, 3)

    def write(golden):
        store.write_exported(
            folder,
            store.Exported(
                classes=CLASSES,
                preprocess=preprocess,
                input=takes,
                outputs=gives,
                temperature=1.0,
                judgement=judgement,
                calibration=None,
                files={
                    format: store.describe_file(folder / store.FILES[format])
                    for format in ("onnx", "litert")
                },
                golden=golden,
                neighbours=None,
            ),
        )

    write([])
    (folder / "golden").mkdir()
    _, observe = load_exported(folder / "model.onnx", 1)
    seen = observe(pixels)
    golden = []
    for at, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"golden/{at}.png")
        np.save(folder / f"golden/{at}.npy", image)
        golden.append(
            store.Golden(
                image=f"golden/{at}.png",
                tensor=f"golden/{at}.npy",
                probabilities=seen.probabilities[at].tolist(),
                distance=float(seen.distance[at]),
            )
        )
    write(golden)


class Server:
    """A running service."""

    def __init__(self, process, address):
        self.process, self.address = process, address

    def ask(self, path, data=None, headers=None, method=None):
        """(status, headers, body), decoded if it is JSON."""
        request = urllib.request.Request(self.address + path, data, headers or {}, method=method)
        try:
            answer = urllib.request.urlopen(request, timeout=20)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            body = answer.read()
            kind = answer.headers["content-type"]
            return answer.status, answer.headers, json.loads(body) if "json" in kind else body


@contextmanager
def serving(model, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.serve", "--model", model, "--port", "0", *arguments],
        cwd=ROOT,
        env=_env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line + process.stderr.read()
        yield Server(process, found[0])
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.fixture(scope="session")
def server(exported):
    with serving(exported / "model.onnx") as server:
        yield server


def png(color, size=(40, 30)):
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


def test_an_image_is_classified(server):
    status, _, found = server.ask("/predict", png((250, 20, 20)), {"content-type": "image/png"})
    assert status == 200
    (prediction,) = found["predictions"]
    assert prediction["classes"][0]["name"] == "<red>"
    assert len(prediction["classes"]) == 2  # as many as evaluate's top_k
    assert prediction["set"] == ["<red>"]


def test_errors_are_one_line_of_json(server):
    assert server.ask("/nothing")[2] == {"error": "Not Found"}
    assert server.ask("/predict")[0] == 405


if __name__ == "__main__":
    make(Path(sys.argv[1]))
