"""The service: python -m stages.serve, in a process of its own."""

import base64
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from tempfile import TemporaryFile

import numpy as np
import psutil
import pytest
from factory import EXPORTED_CLASSES, EXPORTED_SHAPE, ROOT
from PIL import Image

from stages import serve
from stages.errors import UserError
from stages.serving.app import create_app
from stages.serving.settings import Settings

_, GREEN_NAME, RED_NAME = EXPORTED_CLASSES


def _env(**more):
    return os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"} | more


class Server:
    """A running service."""

    def __init__(self, process, address, log):
        self.process, self.address, self._log = process, address, log

    def stop(self):
        """What it said on standard error and in its log, when it has ended."""
        self.process.terminate()
        _, errors = self.process.communicate(timeout=20)
        self._log.seek(0)
        return errors, [json.loads(line) for line in self._log]

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
    command = [sys.executable, "-m", "stages.serve", "--model", model, "--port", "0", *arguments]
    with TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=_env(), stdout=log, stderr=subprocess.PIPE, text=True
        )
        try:
            line = process.stderr.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert found, line + process.stderr.read()
            yield Server(process, found[0], log)
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def server(exported):
    with serving(exported / "model.onnx") as server:
        yield server


@pytest.fixture(scope="session")
def strict(exported):
    """A service that takes little, so that it is soon too much."""
    limits = {
        **{"request-bytes": 200_000, "held-bytes": 250_000, "pixels": 1_000_000, "images": 3},
        **{"queue": 2, "seconds": 4, "idle": 1, "connections": 20, "threads": 1},
    }
    arguments = [part for name, value in limits.items() for part in (f"--{name}", str(value))]
    with serving(exported / "model.tflite", *arguments) as server:
        yield server


PNG, JSON = {"content-type": "image/png"}, {"content-type": "application/json"}
RED, GREEN = (250, 20, 20), (20, 250, 20)


def image(color=RED, size=(40, 30), format="PNG"):
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, format)
    return file.getvalue()


def form(*files):
    """A form with (name, content) of each file."""
    parts = [
        b'--end\r\ncontent-disposition: form-data; name="file"; filename="%s"\r\n\r\n%s\r\n'
        % (name.encode(), content)
        for name, content in files
    ]
    kind = {"content-type": "multipart/form-data; boundary=end"}
    return b"".join(parts) + b"--end--\r\n", kind


def best(prediction):
    return prediction["classes"][0]["name"]


# POST /predict


def test_an_image_is_classified(server):
    status, _, found = server.ask("/predict", image(), PNG)
    (prediction,) = found["predictions"]
    assert status == 200
    assert prediction["file"] is None
    assert best(prediction) == RED_NAME
    assert len(prediction["classes"]) == 2  # as many as evaluate's top_k
    assert prediction["set"] == [RED_NAME]
    assert prediction["unlike"] is False
    assert [at % 3 for at in prediction["nearest"]] == [0, 0, 0]  # of the reference, those are red
    assert "heat" not in prediction
    _, _, found = server.ask("/predict?top_k=9", image(), PNG)
    assert len(found["predictions"][0]["classes"]) == 3


def test_where_the_class_is_seen_is_told_if_asked_for(server):
    picture = Image.new("RGB", (40, 48), (90, 20, 20))
    picture.paste(RED, (0, 0, 20, 48))
    file = io.BytesIO()
    picture.save(file, "PNG")
    _, _, found = server.ask("/predict?heat=true", file.getvalue(), PNG)
    heat = np.array(found["predictions"][0]["heat"])
    assert heat.shape == EXPORTED_SHAPE[:2]
    np.testing.assert_allclose(heat[:, :5], 1)
    np.testing.assert_allclose(heat[:, 5:], 0.36)  # 90 / 250
    assert "heat" not in server.ask("/predict?heat=false", image(), PNG)[2]["predictions"][0]
    status, _, found = server.ask("/predict?heat=1", image(), PNG)
    assert (status, found) == (400, {"error": "heat must be true or false"})


def test_several_files_are_answered_in_their_order_each_by_its_name(server):
    names = ["a.jpg", "../../etc/x\u202e.png", "c.png", "d.png"]
    contents = [image(GREEN, format="JPEG"), image(RED), b"no image", image((250, 20, 250))]
    status, _, found = server.ask("/predict", *form(*zip(names, contents, strict=True)))
    first, second, third, fourth = found["predictions"]
    assert status == 200
    assert (first["file"], best(first)) == ("a.jpg", GREEN_NAME)
    assert (second["file"], best(second)) == ("../../etc/x\\u202e.png", RED_NAME)
    assert third == {"file": "c.png", "error": "not an image"}
    assert fourth["unlike"] is True


def test_json_with_base64_is_answered_alike(server):
    images = [base64.b64encode(image(GREEN)).decode(), "?", base64.b64encode(image()).decode()]
    body = json.dumps({"images": images}).encode()
    status, _, found = server.ask("/predict", body, JSON)
    first, second, third = found["predictions"]
    assert (status, best(first), best(third)) == (200, GREEN_NAME, RED_NAME)
    assert second == {"file": None, "error": "not base64"}


def test_where_no_image_can_be_read_the_request_is_at_fault(server):
    status, _, found = server.ask("/predict", *form(("a.png", b"x"), ("b.png", image()[:-30])))
    assert status == 422
    assert found["error"] == "no image could be read: not an image"
    assert [answer["file"] for answer in found["predictions"]] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        (b"", PNG, 400, "the request has no images"),
        (b"x", {"content-type": "text/html"}, 415, "send a form with image files"),
        (b"{", JSON, 400, "expected JSON"),
        (b'{"images": "x"}', JSON, 400, "images: Input should be a valid array"),
        (b'{"images": [], "path": "/etc/passwd"}', JSON, 400, "path: Extra inputs"),
        (b'{"images": []}', JSON, 400, "the request has no images"),
        (b"[" * 100_000, JSON, 400, "the JSON has more than"),
        (b'{"images": ["\xff"]}', JSON, 400, "expected JSON"),
        (b"x", {"content-type": "multipart/form-data"}, 400, "Missing boundary"),
        (form(("a", b"x"))[0][:60], form()[1], 400, "the request has no images"),
        (*form(*[("a", b"x")] * 65), 413, "Too many files"),
        (form()[0].replace(b"--end", b"--no"), form()[1], 400, "the form cannot be read"),
        (
            b'--end\r\ncontent-disposition: form-data; name="top"\r\n\r\n1\r\n--end--\r\n',
            form()[1],
            400,
            "the field 'top' of the form is no file",
        ),
    ],
)
def test_a_request_that_is_none_is_told_what_is_wrong(server, body, headers, status, message):
    found = server.ask("/predict", body, headers)
    assert found[0] == status
    assert message in found[2]["error"]
    assert "\n" not in found[2]["error"]


def test_only_what_is_declared_is_there(server):
    assert server.ask("/predict")[0] == 405
    assert server.ask("/healthz", b"x")[0] == 405
    assert server.ask("/predict", b"x", PNG, "DELETE")[0] == 405
    assert server.ask("/predict?top_k=none", image(), PNG)[0] == 400
    for path in ("/nothing", "/../../etc/passwd", "/%2e%2e/app.py", "/app.py", "/model.onnx"):
        assert server.ask(path)[::2] == (404, {"error": "Not Found"})


def test_answers_are_those_of_predict(server, exported, tmp_path):
    random = np.random.default_rng(1)
    noise = Image.fromarray(random.integers(0, 256, (90, 61, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    noise.resize((400, 270)).save(tmp_path / "a.jpg", exif=exif, quality=80)
    noise.convert("CMYK").save(tmp_path / "b.jpg")
    noise.convert("RGBA").rotate(30).save(tmp_path / "c.png")
    noise.convert("P").save(tmp_path / "d.gif")
    Image.fromarray(random.integers(0, 65536, (33, 70), np.uint16)).save(tmp_path / "e.png")
    files = sorted(tmp_path.iterdir())
    model = exported / "model.onnx"
    command = [sys.executable, "-m", "stages.predict", "--model", model, *files]
    subprocess.run([*command, "--output", tmp_path / "found.json"], check=True, cwd=ROOT)
    expected = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    sent = form(*((file.name, file.read_bytes()) for file in files))
    answers = server.ask("/predict", *sent)[2]["predictions"]
    for answer, record in zip(answers, expected, strict=True):
        for found, suffix in zip(answer["classes"], ("", "_2"), strict=True):
            assert found["name"] == record[f"predicted{suffix}"]
            # Batches of another size round otherwise, in the last digit.
            assert found["probability"] == pytest.approx(record[f"confidence{suffix}"], abs=2e-6)
        assert (answer["set"], answer["unlike"]) == (record["set"], record["unlike"])


# The Open Inference Protocol


def infer(server, request, tensors=b"", **headers):
    text = json.dumps(request).encode()
    if tensors:
        headers["inference-header-content-length"] = str(len(text))
    return server.ask("/v2/models/model/infer", text + tensors, headers)


@pytest.fixture
def pixels():
    """Three images of the size that the model takes."""
    return np.random.default_rng(2).integers(0, 256, (3, *EXPORTED_SHAPE), np.uint8)


def tensor(pixels, **more):
    return {"name": "images", "shape": list(pixels.shape), "datatype": "UINT8", **more}


def outputs(answer):
    return {
        output["name"]: np.array(output["data"]).reshape(output["shape"])
        for output in answer["outputs"]
    }


def test_server_and_model_tell_what_they_are(server):
    assert server.ask("/v2")[2]["extensions"] == ["binary_tensor_data"]
    assert server.ask("/v2/health/live")[::2] == (200, {"live": True})
    assert server.ask("/v2/health/ready")[::2] == (200, {"ready": True})
    assert server.ask("/v2/models/model/ready")[2] == {"name": "model", "ready": True}
    model = server.ask("/v2/models/model")[2]
    assert (model["name"], model["platform"]) == ("model", "onnx_onnxv1")
    assert model["inputs"] == [
        {"name": "images", "datatype": "UINT8", "shape": [-1, *EXPORTED_SHAPE]}
    ]
    assert model["outputs"][0] == {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}
    status, _, found = server.ask("/v2/models/other")
    assert (status, found) == (404, {"error": "there is one model here, model"})


def test_a_tensor_of_pixels_gives_every_output(server, exported, pixels):
    from stages.inference.exported import load_exported

    status, _, found = infer(server, {"id": "7", "inputs": [tensor(pixels, data=pixels.tolist())]})
    assert (status, found["model_name"], found["id"]) == (200, "model", "7")
    _, observe = load_exported(exported / "model.onnx", 1)
    expected = observe(pixels)
    for name, values in outputs(found).items():
        np.testing.assert_allclose(values, getattr(expected, name), atol=1e-6)
    flat = tensor(pixels, data=pixels.ravel().tolist())
    some = [{"name": "nearest"}, {"name": "probabilities"}]
    _, _, again = infer(server, {"inputs": [flat], "outputs": some})
    assert list(outputs(again)) == ["nearest", "probabilities"]
    assert "id" not in again


def test_tensors_may_be_binary(server, pixels):
    given = tensor(pixels, parameters={"binary_data_size": pixels.size})
    asked = [{"name": "probabilities", "parameters": {"binary_data": True}}, {"name": "nearest"}]
    status, headers, body = infer(server, {"inputs": [given], "outputs": asked}, pixels.tobytes())
    length = int(headers["inference-header-content-length"])
    found = json.loads(body[:length])
    assert (status, headers["content-type"]) == (200, "application/octet-stream")
    assert found["outputs"][0]["parameters"] == {"binary_data_size": 4 * 3 * 3}
    binary = np.frombuffer(body[length:], "<f4").reshape(3, 3)
    _, _, plain = infer(server, {"inputs": [tensor(pixels, data=pixels.tolist())]})
    np.testing.assert_array_equal(binary, outputs(plain)["probabilities"].astype(np.float32))
    everything = {"inputs": [given], "parameters": {"binary_data_output": True}}
    _, headers, body = infer(server, everything, pixels.tobytes())
    assert len(body) - int(headers["inference-header-content-length"]) == 4 * 3 * (
        3 + 3 + 1 + 3 + 12 * 10
    )


def test_image_files_are_elements_of_bytes(server):
    files = [image(GREEN), image(RED, format="JPEG")]
    given = {"name": "images", "shape": [2], "datatype": "BYTES"}
    encoded = [base64.b64encode(file).decode() for file in files]
    _, _, found = infer(server, {"inputs": [given | {"data": encoded}]})
    assert outputs(found)["probabilities"].argmax(axis=1).tolist() == [1, 2]
    tensors = b"".join(len(file).to_bytes(4, "little") + file for file in files)
    given["parameters"] = {"binary_data_size": len(tensors)}
    assert infer(server, {"inputs": [given]}, tensors)[2]["outputs"] == found["outputs"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "pixels"}, "the model has one input, images"),
        ({"shape": [1, 2, 3, 3]}, "images must be UINT8 of shape [-1, 12, 10, 3]"),
        ({"shape": [2**63, *EXPORTED_SHAPE]}, "images, where 64 are taken"),
        ({"shape": [-1, *EXPORTED_SHAPE]}, "the request has no images"),
        ({"shape": []}, "inputs.0.shape: List should have at least 1 item"),
        ({"datatype": "FP32"}, "images must be UINT8"),
        ({"datatype": "BYTES", "shape": [1], "data": ["?"]}, "element 0 of images: not base64"),
        ({"datatype": "BYTES", "shape": [1], "data": ["eA=="]}, "element 0: not an image"),
        ({"datatype": "BYTES", "shape": [2], "data": ["eA=="]}, "images has 1 elements, not 2"),
        ({"data": [1]}, "images is not 360 whole numbers from 0 to 255"),
        ({"data": [256] * 360}, "images is not 360 whole numbers from 0 to 255"),
        ({"data": [True] * 360}, "images is not 360 whole numbers from 0 to 255"),
        ({"data": [0.5] * 360}, "images is not 360 whole numbers from 0 to 255"),
        ({"data": [[1, 2], [3]]}, "images is not 360 whole numbers from 0 to 255"),
        ({"data": [10**30] * 360}, "images is not 360 whole numbers from 0 to 255"),
        ({"data": None}, "images needs data, or binary_data_size"),
        ({"parameters": {"binary_data_size": 5}}, "binary_data_size is not the length"),
    ],
)
def test_a_tensor_that_does_not_fit_is_told_why(server, pixels, change, message):
    given = tensor(pixels[:1], data=pixels[:1].ravel().tolist()) | change
    status, _, found = infer(server, {"inputs": [given]})
    assert status in (400, 413)
    assert message in found["error"]


def test_an_inference_that_is_none_is_told_why(server, pixels):
    good = tensor(pixels, data=pixels.tolist())
    for request in ({}, {"inputs": []}, {"inputs": [good, good]}, {"inputs": [good], "id": 7}):
        assert infer(server, request)[0] == 400
    _, _, found = infer(server, {"inputs": [good], "outputs": [{"name": "loss"}]})
    assert found["error"].startswith("the model has the outputs probabilities, features")
    given = tensor(pixels, parameters={"binary_data_size": 1})
    for header in ("x", "-1", "9" * 50):
        status, _, _ = server.ask(
            "/v2/models/model/infer",
            json.dumps({"inputs": [given]}).encode(),
            {"inference-header-content-length": header},
        )
        assert status == 400


# How it is, and what it tells of itself


def test_health_figures_and_description_are_there(server):
    assert server.ask("/healthz")[::2] == (200, {"status": "ok"})
    assert server.ask("/readyz")[::2] == (200, {"status": "ok"})
    server.ask("/predict", image(), PNG)
    server.ask("/nothing/1")
    figures = server.ask("/metrics")[2].decode()
    assert re.search(
        r'^http_requests_total\{method="POST",route="/predict",status="200"\} \d', figures, re.M
    )
    assert f'images_predicted_total{{class="{RED_NAME}"}}' in figures
    assert "/nothing/1" not in figures  # what clients invent makes no series
    document = server.ask("/openapi.json")[2]
    assert document["openapi"] == "3.1.0"
    page = server.ask("/docs")[2].decode()
    for path in document["paths"]:
        assert path in page
        method = "POST" if "post" in document["paths"][path] else "GET"
        status, _, _ = server.ask(path.replace("{model}", "model"), method=method)
        assert status == (400 if method == "POST" else 200)
    assert "<script" not in page
    assert "http" not in page.replace("http://127.0.0.1:8000", "")


def test_no_answer_may_be_framed_sniffed_or_read_by_other_pages(server):
    for path in ("/docs", "/nothing", "/healthz"):
        _, headers, _ = server.ask(path, headers={"origin": "https://example.org"})
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers


def test_nothing_that_is_slow_to_start_is_imported(exported):
    code = f"""
import sys
from pathlib import Path
from stages.serving.app import create_app
from stages.serving.settings import Settings
create_app(Settings(Path({str(exported / "model.tflite")!r})))
print(*sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    slow = {"tensorflow", "keras", "dvc", "sklearn", "scipy", "matplotlib", "pyarrow", "onnx"}
    assert not slow & set(done.stdout.split())
    assert "ai_edge_litert" in done.stdout.split()


# Limits


def test_what_is_too_large_is_refused_and_the_next_is_answered(strict):
    big = image(size=(1001, 1000))
    status, _, found = strict.ask("/predict", *form(("big.png", big), ("small.png", image())))
    assert status == 200
    assert found["predictions"][0]["error"] == (
        "too large: 1001 x 1000 pixels, where 1,000,000 are taken; save it smaller"
    )
    assert best(found["predictions"][1]) == RED_NAME
    status, _, found = strict.ask("/predict", bytes(200_001), PNG)
    assert (status, found["error"]) == (413, "the request has more than 200,000 bytes")
    status, _, found = strict.ask("/predict", *form(*[("a", image())] * 4))
    assert status == 413
    assert strict.ask("/predict", image(), PNG)[0] == 200


def raw(server):
    host, port = server.address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


HEAD = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: %d\r\n\r\n"


def everything(connection):
    with connection.makefile("rb") as file:
        return file.read()


def test_a_body_of_unknown_length_is_counted_as_it_comes(strict):
    with raw(strict) as connection:
        connection.sendall(HEAD.replace(b"content-length: %d", b"transfer-encoding: chunked"))
        for _ in range(5):
            connection.sendall(b"c350\r\n" + bytes(50_000) + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        assert connection.recv(20).startswith(b"HTTP/1.1 413")


def test_what_is_left_of_a_refused_request_is_no_request(strict):
    with raw(strict) as connection:
        connection.sendall((HEAD % 10**8).replace(b"host: x", b"host: x\r\nexpect: 100-continue"))
        answer = everything(connection)  # ends, as the connection is closed
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"\r\nconnection: close\r\n" in answer


def test_headers_have_to_come_soon(strict):
    with raw(strict) as connection:
        connection.sendall(HEAD[:30])
        assert everything(connection).startswith(b"HTTP/1.1 408")
    with raw(strict) as connection:
        assert everything(connection) == b""


def test_headers_without_end_are_refused(strict):
    with raw(strict) as connection:
        connection.sendall(HEAD[:30] + b"x: " + b"y" * 100_000)
        answer = connection.recv(500)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b'{"error": "Invalid HTTP request received."}' in answer


def test_requests_hold_no_more_than_they_may_together_and_not_for_long(strict):
    with raw(strict) as connection:
        connection.sendall(HEAD % 190_000 + bytes(180_000))
        # While a part is on its way, the other request could be the one that fits.
        deadline = time.monotonic() + 3
        while b"http_request_bytes_held 180000.0" not in strict.ask("/metrics")[2]:
            assert time.monotonic() < deadline
        status, headers, found = strict.ask("/predict", image() + bytes(100_000), PNG)
        assert (status, headers["retry-after"]) == (503, "1")
        assert found == {"error": "too much to do at the moment; try again"}
        assert everything(connection).startswith(b"HTTP/1.1 408")
    assert strict.ask("/predict", image(), PNG)[0] == 200
    assert b"http_request_bytes_held 0.0" in strict.ask("/metrics")[2]


def test_beyond_its_queue_and_connections_it_asks_to_try_again(strict):
    sent = form(*[("a.png", image(size=(1000, 900)))] * 3)
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda _: strict.ask("/predict", *sent), range(48)))
    assert {status for status, _, _ in found} == {200, 503}
    assert all(headers["retry-after"] for status, headers, _ in found if status == 503)
    idle = [raw(strict) for _ in range(21)]
    try:
        assert everything(idle[-1]).startswith(b"HTTP/1.1 503")
    finally:
        for connection in idle:
            connection.close()
    assert strict.ask("/predict", image(), PNG)[0] == 200


# From start to end


def test_what_was_accepted_is_answered_before_it_stops(exported):
    content = image()
    with serving(exported / "model.onnx") as server:
        with raw(server) as connection:
            connection.sendall(HEAD % len(content))
            connection.sendall(content[:10])
            while "active 2.0" not in server.ask("/metrics")[2].decode():
                pass  # until it has begun; the other one is ours
            server.process.terminate()
            while server.ask("/readyz")[0] != 503:
                pass
            assert server.ask("/v2/health/ready")[0] == 503
            status, headers, found = server.ask("/predict", image(), PNG)
            assert (status, found["error"]) == (503, "about to stop; try again")
            assert headers["retry-after"] == "1"
            connection.sendall(content[10:])
            assert connection.recv(20).startswith(b"HTTP/1.1 200")
        errors, records = server.stop()
    assert (server.process.returncode, errors) == (0, "")
    assert [record["message"] for record in records].count("draining") == 1


def test_the_log_is_json_lines_whatever_is_asked_for(exported):
    with serving(exported / "model.onnx") as server:
        server.ask("/a%0a%1b%5b2J{}")
        server.ask("/predict", *form(("x\u202e\x1b.png", image())))
        _, records = server.stop()
    requests = [record for record in records if record["message"] == "request"]
    assert [(r["method"], r["path"], r["status"]) for r in requests] == [
        ("GET", "/a\n\x1b[2J{}", 404),
        ("POST", "/predict", 200),
    ]
    assert requests[1]["bytes"] == len(form(("x\u202e\x1b.png", image()))[0])


def test_workers_count_together_and_are_replaced(exported):
    with serving(exported / "model.onnx", "--workers", "2", "--threads", "1") as server:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: server.ask("/predict", image(), PNG), range(40)))
        figures = server.ask("/metrics")[2].decode()
        assert 'http_requests_total{method="POST",route="/predict",status="200"} 40.0' in figures
        children = psutil.Process(server.process.pid).children()
        workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        assert len(workers) == 2
        workers[0].kill()
        for _ in range(20):
            assert server.ask("/predict", image(), PNG)[0] == 200
        errors, _ = server.stop()
    assert (server.process.returncode, errors) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "none.onnx"], "there is no model none.onnx"),
        (["--model", __file__], "is missing, which belongs to test_serve.py"),
        (["--queue", "0"], "argument --queue: 0 is not a whole number of at least 1"),
        (["--seconds", "nan"], "argument --seconds: nan is no number of seconds above 0"),
        (["--port", "99999"], "argument --port: 99999 is no port, 0 to 65535"),
        (
            ["--host", "192.0.2.1"],
            "cannot listen at 192.0.2.1 port 8000: Cannot assign requested address; take another",
        ),
    ],
)
def test_a_mistake_is_one_line(exported, monkeypatch, arguments, message):
    model = [] if "--model" in arguments else ["--model", str(exported / "model.onnx")]
    monkeypatch.setattr(sys, "argv", ["serve", *arguments, *model])
    with pytest.raises(UserError) as caught:
        serve.main()
    assert message in str(caught.value)


def test_a_model_that_answers_otherwise_than_where_it_was_exported_is_not_served(
    exported, tmp_path
):
    folder = shutil.copytree(exported, tmp_path / "other")
    Image.new("RGB", EXPORTED_SHAPE[1::-1], (9, 9, 250)).save(folder / "golden/1.png")
    with pytest.raises(UserError, match=r"golden/1\.png differs by") as caught:
        create_app(Settings(folder / "model.onnx"))
    assert "gives another answer here than where it was exported" in str(caught.value)
