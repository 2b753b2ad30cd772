"""Malformed and hostile requests to the service, and the harness that judges what comes of them."""

import socketserver
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from bench.faults.cases import ACCEPTED, REJECTED
from bench.faults.requests import (
    ACCEPT,
    ALONE,
    REFUSE,
    Request,
    case,
    form_of,
    on_purpose,
    png,
    prepare,
    run_case,
    sound,
    statuses,
    whole,
)
from bench.serve import ask, flat, running

AT_RANDOM = 60  # requests spoilt at random, after those made on purpose
SECONDS = 15  # until a request has to have come to an end; the service's own limits are shorter


@pytest.fixture(scope="module")
def service(
    exported,
    tmp_path_factory,
):
    limits = ["--idle", "1", "--seconds", "2"]
    command = [
        sys.executable,
        "-m",
        "stages.serve",
        "--model",
        str(exported / "model.tflite"),
        *limits,
    ]
    with running(command, tmp_path_factory.mktemp("serve"), form_of([("a.png", png())])) as service:
        yield service


def test_sound_requests_are_answered(service):
    for number, data in enumerate(sound()):
        outcome = run_case(Request(f"sound {number}", (data,), ACCEPT), service.port, SECONDS)
        assert outcome.verdict == ACCEPTED, outcome.detail


def test_no_malformed_request_harms_the_service(service):
    prepare()
    numbers = range(len(on_purpose()) + AT_RANDOM)
    quick = [number for number in numbers if not case(0, number).what.startswith("slow")]
    files, memory = service.written(), []
    with ThreadPoolExecutor(16) as pool:
        for chosen in (numbers, quick):  # what it holds after the first time may not grow
            outcomes = pool.map(lambda n: run_case(case(0, n), service.port, SECONDS), chosen)
            assert [f"{one.verdict}: {one.detail}" for one in outcomes if one.is_fault] == []
            memory.append(service.memory())
    assert service.process.poll() is None
    assert service.written() == files
    assert flat(*memory), memory
    kind, body = form_of([("a.png", png())])
    assert ask(service.port, "/predict", body, kind) == service.answer


def test_names_of_what_is_made_on_purpose_are_unique():
    names = [request.what for request in on_purpose()]
    assert len(set(names)) == len(names) > 200


def test_a_request_depends_on_the_seed_and_its_number_alone():
    number = len(on_purpose()) + 7
    first = case(3, number)
    case(3, number + 1)
    assert case(3, number) == first != case(4, number)


# Services with faults, which the harness has to find.


@contextmanager
def answering(answer: bytes | None):
    """A service that says the same to all, or nothing; yields its port."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.recv(2**16)
            if answer is None:
                ended.wait(10)
            else:
                self.request.sendall(answer)

    ended = threading.Event()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_address[1]
        ended.set()
        server.shutdown()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize(
    ("answer", "must", "verdict"),
    [
        (OK, ACCEPT, ACCEPTED),
        (OK, "", ACCEPTED),
        (OK, REFUSE, "accepted what is malformed"),
        (OK.replace(b"200", b"404"), REFUSE, REJECTED),
        (OK.replace(b"200", b"404"), ACCEPT, "refused"),
        (OK.replace(b"200", b"503"), "", REJECTED),
        (OK.replace(b"200", b"500"), REFUSE, "server error"),
        (OK.replace(b"200", b"502"), "", "server error"),
        (OK + OK.replace(b"200", b"500"), "", "server error"),  # to a request within the request
        (OK + OK, ALONE, "answered what is hidden"),
        (OK, ALONE, ACCEPTED),
        (b"", REFUSE, REJECTED),
        (b"", ACCEPT, "refused"),
        (None, REFUSE, "hang"),
    ],
)
def test_how_a_request_ended_is_judged(answer, must, verdict):
    with answering(answer) as port:
        assert (
            run_case(Request("x", (b"GET / HTTP/1.1\r\n\r\n",), must), port, 0.5).verdict == verdict
        )


def test_the_end_of_an_answer_is_found():
    assert statuses(OK + OK.replace(b"200", b"404")) == [200, 404]
    assert whole(OK)
    assert not whole(OK[:-1])
    assert not whole(OK[:20])
    assert not whole(b"HTTP/1.1 100 Continue\r\n\r\n")
    chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"
    assert not whole(chunks)
    assert whole(chunks + b"0\r\n\r\n")
