"""Malformed and hostile requests: the service refuses or answers each, and goes on.

An answer is any status but 500 and its like; 503 may be said by a service that has too much to do.
What is no HTTP may be left without an answer, but not without an end. The numbers up to the last of
`on_purpose` are made so; further ones are sound requests, cut or changed at random.
"""

import base64
import functools
import gzip
import json
import re
import socket
import struct
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import NamedTuple

from bench.faults.cases import ACCEPTED, REJECTED, Outcome, case_random
from bench.faults.images import MUTATIONS, _chunk, _saved, mutated, picture, seeds

HOST = "127.0.0.1"
BUSY = 503  # the one error of a server that is none
MULTIPART, JSON, OCTETS = "multipart/form-data; boundary=limit", "application/json", "image/png"
ACCEPT, REFUSE, ALONE = "accept", "refuse", "alone"
BOMB_SIDE = 12_000  # pixels: 144 million, which a few kB to a few hundred kB unfold to
INFER = "/v2/models/model/infer"
CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Request(NamedTuple):
    """Bytes for a connection, in `parts` that are sent `pause` seconds apart.

    If it `ends`, the sender is gone after the last part. `must` is ACCEPT, REFUSE, ALONE (what
    follows the answer may not be taken for another request) or empty, where any answer is right.
    """

    what: str
    parts: tuple[bytes, ...]
    must: str = ""
    pause: float = 0.0
    ends: bool = False


def case(seed: int, number: int) -> Request:
    """Request `number`, the same whichever others are made."""
    made = on_purpose()
    if number < len(made):
        return made[number]
    random = case_random(seed, "requests", number)
    return random.choice((spoilt, spoilt, with_spoilt_image, with_odd_value))(random)


def prepare() -> None:
    """Make what the cases share, which several threads would each make anew."""
    on_purpose()
    seeds()


def run_case(request: Request, port: int, seconds: float) -> Outcome:
    """Send a request to the service of this machine at `port` and judge what comes back.

    Nothing, and no end of the connection either, for `seconds` after the last part is a fault.
    """
    answer, hung = send(request, port, seconds)
    codes = statuses(answer)
    told = f"{request.what}: {answer[:300]!r}"
    if any(code >= 500 and code != BUSY for code in codes):
        return Outcome("server error", told)
    if hung and not codes:
        return Outcome("hang", f"no answer in {seconds:g} s: {request.what}")
    if request.must == ACCEPT and codes[:1] != [200]:
        return Outcome("refused", told)
    if request.must == REFUSE and any(code < 300 for code in codes):
        return Outcome("accepted what is malformed", told)
    if request.must == ALONE and len(codes) > 1:
        return Outcome("answered what is hidden", told)
    accepted = bool(codes) and codes[0] < 300
    return Outcome(ACCEPTED if accepted else REJECTED, told)


def send(request: Request, port: int, seconds: float) -> tuple[bytes, bool]:
    """What comes back, and whether nothing more came for `seconds` though there should."""
    answer, deadline = bytearray(), None
    with suppress(ConnectionError, BrokenPipeError), socket.create_connection((HOST, port)) as peer:
        peer.settimeout(seconds)
        for number, part in enumerate(request.parts):
            if number and request.pause:
                peer.settimeout(request.pause)
                with suppress(TimeoutError):
                    received = peer.recv(2**16)
                    answer += received
                    if not received or whole(answer):
                        break
                peer.settimeout(seconds)
            try:
                peer.sendall(part)
            except (TimeoutError, ConnectionError):
                break  # refused before all of it was sent: the answer says so, if there is one
        if request.ends:
            return bytes(answer), False
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            # What may follow a whole answer, to a second request within the first, follows soon.
            peer.settimeout(min(left, 0.05) if whole(answer) else left)
            try:
                received = peer.recv(2**16)
            except TimeoutError:
                break
            if not received:
                return bytes(answer), False
            answer += received
        return bytes(answer), not whole(answer)
    return bytes(answer), False


def statuses(answer: bytes) -> list[int]:
    """The status codes of all responses in `answer`."""
    return [int(code) for code in re.findall(rb"(?:^|(?<=[\n}]))HTTP/1\.[01] (\d{3})", answer)]


def whole(answer: bytes | bytearray) -> bool:
    """Whether a response has come to its end, by its own length."""
    head, limit, body = bytes(answer).partition(b"\r\n\r\n")
    if not limit or b" 100 " in head[:16]:
        return False
    if length := CONTENT_LENGTH.search(head):
        return len(body) >= int(length[1])
    return body.endswith(b"0\r\n\r\n")


# Sound requests.


def raw(method: str, path: str, body: bytes = b"", headers: str = "") -> bytes:
    """A request as it goes over the line; `headers` end in CRLF each."""
    length = f"Content-Length: {len(body)}\r\n" if body or method == "POST" else ""
    head = f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n{length}{headers}\r\n"
    return head.encode("latin-1") + body


def post(path: str, body: bytes, kind: str | None) -> bytes:
    return raw("POST", path, body, f"Content-Type: {kind}\r\n" if kind else "")


def part(content: bytes, name: str = "file", filename: str | None = "a.png", more: str = "") -> str:
    """A part of a form, as latin-1 text so that it can be put together."""
    file = "" if filename is None else f'; filename="{filename}"'
    head = f'Content-Disposition: form-data; name="{name}"{file}\r\n{more}\r\n'
    return f"--limit\r\n{head}{content.decode('latin-1')}\r\n"


def form_of(files: list[tuple[str, bytes]], name: str = "file") -> tuple[str, bytes]:
    """Content type and body of a sound form with `files`, (name, content) each."""
    parts = "".join(part(content, name, filename) for filename, content in files)
    return MULTIPART, f"{parts}--limit--\r\n".encode("latin-1")


def form(*parts: str, end: str = "--limit--\r\n") -> bytes:
    return post("/predict", ("".join(parts) + end).encode("latin-1"), MULTIPART)


def json_post(value: object, path: str = "/predict") -> bytes:
    """`value` as JSON, or as it is if it is bytes."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return post(path, body, JSON)


def chunked(chunks: list[bytes], end: bytes = b"0\r\n\r\n", coding: str = "chunked") -> bytes:
    head = f"POST /predict HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n"
    head += f"Content-Type: {MULTIPART}\r\nTransfer-Encoding: {coding}\r\n\r\n"
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head.encode() + body + end


@functools.cache
def png() -> bytes:
    return _saved(picture("RGB"), "PNG")


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def tensor(data: object, shape: object = (1, 2, 2, 3), kind: object = "UINT8", **more) -> dict:
    """A request of the Open Inference Protocol."""
    return {"inputs": [{"name": "images", "shape": shape, "datatype": kind, "data": data, **more}]}


def sound() -> list[bytes]:
    """One of each way to ask."""
    file = part(png())
    whole_form = (file + "--limit--\r\n").encode("latin-1")
    return [
        form(file),
        form(part(png(), filename="1.png"), part(png(), filename="2.png")),
        json_post({"images": [encoded(png())]}),
        post("/predict", png(), OCTETS),
        json_post(tensor([encoded(png())], (1,), "BYTES"), INFER),
        chunked([whole_form[:100], whole_form[100:]]),
    ]


# Made on purpose.


@functools.cache
def on_purpose() -> tuple[Request, ...]:
    """Every hostile request that is known by name."""
    kinds = (lines, lengths, codings, paths, forms, types, texts, tensors, files, slow)
    return tuple(request for kind in kinds for request in kind())


def _named(title: str, must: str, requests: dict[str, bytes]) -> list[Request]:
    return [Request(f"{title}: {what}", (data,), must) for what, data in requests.items()]


def _get(line: bytes, headers: bytes = b"Host: 127.0.0.1\r\nConnection: close\r\n") -> bytes:
    return line + b"\r\n" + headers + b"\r\n"


def lines() -> list[Request]:
    """What is hardly HTTP: request lines and headers."""
    get, host = b"GET /healthz HTTP/1.1", b"Host: 127.0.0.1\r\nConnection: close\r\n"
    refused = {
        "nothing but line ends": b"\r\n" * 4000,
        "zeros": bytes(5000),
        "all bytes": bytes(range(256)) * 20 + b"\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500) + b"\r\n\r\n",
        "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
        "no version": b"GET /healthz\r\n\r\n",
        "no path": _get(b"GET HTTP/1.1"),
        "three paths": _get(b"GET / / / HTTP/1.1"),
        "long method": _get(b"G" * 70_000 + b" / HTTP/1.1"),
        "long path": _get(b"GET /" + b"a" * 200_000 + b" HTTP/1.1"),
        "long header": _get(get, host + b"X: " + b"a" * 2_000_000 + b"\r\n"),
        "long name": _get(get, host + b"X" * 2_000_000 + b": a\r\n"),
        "no colon": _get(get, host + b"nonsense\r\n"),
        "zero in a name": _get(get, host + b"a\0b: c\r\n"),
        "space in a name": _get(get, host + b"a b: c\r\n"),
        "space before the colon": _get(get, host + b"Content-Length : 0\r\n"),
        "carriage return alone": _get(get, host + b"a: b\rc: d\r\n"),
    }
    either = {
        "many headers": _get(get, host + b"".join(b"x%d: y\r\n" % n for n in range(20_000))),
        "zero in a value": _get(get, host + b"a: b\0c\r\n"),
        "line feeds alone": (get + b"\r\n" + host + b"\r\n").replace(b"\r\n", b"\n"),
        "folded header": _get(get, host + b"a: b\r\n c\r\n"),
        "version 9": _get(b"GET /healthz HTTP/9.9"),
        "no host": _get(get, b"Connection: close\r\n"),
        "two hosts": _get(get, host + b"Host: example.org\r\n"),
        "strange host": _get(get, b"Host: a b/../@[::1\r\nConnection: close\r\n"),
        "bytes beyond ASCII": _get(get, host + b"a: \xff\xfe\xc3\x28\r\n"),
        "HTTP/1.0": _get(b"GET /healthz HTTP/1.0"),
        "HTTP/0.9": b"GET /healthz\n\n",
        "small letters": _get(b"get /healthz http/1.1"),
        "websocket": _get(
            b"GET /predict HTTP/1.1",
            host.replace(b"close", b"Upgrade") + b"Upgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eHh4eHh4eHh4eHh4eHh4eA==\r\n",
        ),
        "h2c": _get(get, b"Host: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"),
        "unknown expectation": raw("POST", "/predict", b"x", "Expect: 200-ok\r\n"),
        "cookies": _get(get, host + b"Cookie: " + b"a=b; " * 3000 + b"\r\n"),
        "strange accept": _get(get, host + b"Accept: ;;;,,,/\\q=NaN\r\n"),
        "range": _get(get, host + b"Range: bytes=" + b"0-," * 5000 + b"\r\n"),
        "fifty at once": (_get(get, b"Host: a\r\n") * 50),
    }
    methods = ("PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "OPTIONS", "PROPFIND", "A!#$%&'*+")
    refused_methods = {name: raw(name, "/predict", b"x") for name in methods if name != "OPTIONS"}
    either |= {"options": raw("OPTIONS", "*"), "head": raw("HEAD", "/predict")}
    return [
        *_named("lines", REFUSE, refused),
        *_named("lines", "", either),
        *_named("method", "", refused_methods),
    ]


def lengths() -> list[Request]:
    """Bodies that are not as long as they say."""
    head = f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: {MULTIPART}\r\n"
    body = (part(png()) + "--limit--\r\n").encode("latin-1")
    values = ("-1", "+5", "5,5", "5 5", "0x10", "1e3", "1_0", "9" * 30, "", "five", "\u0665")
    said = {
        f"length {value[:12]!a}": f"{head}Content-Length: {value}\r\n\r\n".encode() + body
        for value in values
        if value
    }
    said["two lengths"] = f"{head}Content-Length: 5\r\nContent-Length: 6\r\n\r\n".encode() + body
    cut = form(part(png()))
    smaller = head + f"Connection: close\r\nContent-Length: {len(body) - 30}\r\n\r\n"
    truncated = [
        Request(f"lengths: ends after {share:.0%}", (cut[: int(len(cut) * share)],), "", 0, True)
        for share in (0.02, 0.1, 0.3, 0.7, 0.99)
    ]
    return [
        *_named("lengths", REFUSE, said),
        *_named("lengths", "", {"shorter than the form": smaller.encode() + body}),
        *_named("lengths", REFUSE, {"no length": head.encode() + b"\r\n"}),
        # 64 GiB are promised; what matters is that nobody waits for, or makes room for them.
        Request(
            "lengths: 64 GiB are promised",
            (f"{head}Content-Length: {2**36}\r\n\r\n".encode() + body,),
            REFUSE,
        ),
        *truncated,
    ]


def codings() -> list[Request]:
    """Chunks that are none, and requests hidden in the bodies of others."""
    body = (part(png()) + "--limit--\r\n").encode("latin-1")
    hidden = b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: " + MULTIPART.encode() + b"\r\n"
    both = head + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden
    huge = b"FFFFFFFFFFFFFFFF\r\n" + body
    refused = {
        "chunk without a length": chunked([], b"\r\n" + body),
        "chunk of negative length": chunked([], b"-5\r\nhello\r\n0\r\n\r\n"),
        "chunk of 16 EiB": chunked([], huge),
        "chunk longer than any number": chunked([], b"1" * 5000 + b"\r\n" + body),
        "chunk of a length in words": chunked([], b"five\r\nhello\r\n0\r\n\r\n"),
        "chunk longer than it says": chunked([], b"3\r\nhello\r\n0\r\n\r\n"),
        "unknown coding": chunked([body], coding="nonsense"),
        "chunks after another coding": chunked([body], coding="chunked, nonsense"),
    }
    either = {
        "chunks twice": chunked([body], coding="chunked\r\nTransfer-Encoding: chunked"),
        "chunks and identity": chunked([body], coding="chunked, identity"),
        "a vertical tab": chunked([body], coding="\x0bchunked"),
        "long extension": chunked([], b"5;" + b"a" * 100_000 + b"\r\nhello\r\n0\r\n\r\n"),
        "many trailers": chunked([body], b"0\r\n" + b"a: b\r\n" * 5000 + b"\r\n"),
        "a byte a chunk": chunked([body[n : n + 1] for n in range(len(body))]),
        "nothing in the chunks": chunked([]),
        "hidden after the body": form(part(png())).replace(b": close", b": keep-alive") + hidden,
    }
    # A server that goes by one of the two has to close after it: another before it in the line may
    # have gone by the other (RFC 9112, 6.1).
    disputed = {
        "length and chunks": both % 5,
        "length of all and chunks": both % (5 + len(hidden)),
    }
    endless = Request("codings: no last chunk", (chunked([body], b""),), "", 0, True)
    return [
        *_named("codings", REFUSE, refused),
        *_named("codings", ALONE, disputed),
        *_named("codings", "", either),
        endless,
    ]


TRICKS = (
    *("/../../../../etc/passwd", "/..", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc/passwd"),
    *("/..\\..\\windows\\win.ini", "/%5c..%5c", "/static/../../params.yaml", "/%00", "/a%00.html"),
    *("/%ff%fe", "/%", "/%zz", "//etc/passwd", "///", "/predict/../../params.yaml", "/predict/"),
    *("/./predict", "/predict;x=y", "/models/export/model.json", "/model.tflite", "/golden/0.png"),
    *("/.git/config", "/.env", "/proc/self/environ", "/docs/../params.yaml", "/openapi.json/.."),
    *("http://example.org/", "file:///etc/passwd", "/v2/models/..%2f..%2fetc/infer"),
    *("/v2/models/../../etc/passwd", "/v2/models//infer", "/v2/models/%00/infer"),
    *("/v2/models/model/versions/..%2f..", "/healthz?" + "a=b&" * 10_000, "/?" + "%" * 5000),
    *(
        "/metrics/../../params.yaml",
        "/%2e%2e%2f" * 200,
        "/\u00e4\u00fc",
        "/<script>alert(1)</script>",
    ),
)


def paths() -> list[Request]:
    """Ways out of where files are."""
    secrets = {trick[:60]: raw("GET", trick) for trick in TRICKS}
    asked = {
        "model by query": raw("POST", "/predict?model=/etc/passwd", b"x"),
        "infer above": json_post(tensor([0] * 12), "/v2/models/..%2f..%2fetc%2fpasswd/infer"),
    }
    return [*_named("paths", "", secrets), *_named("paths", REFUSE, asked)]


def forms() -> list[Request]:
    """Forms that are torn, endless or name files as they should not."""
    file = part(png())
    body = (file + "--limit--\r\n").encode("latin-1")

    def of_kind(kind: str) -> bytes:
        return post("/predict", body, f"multipart/form-data{kind}")

    refused = {
        "no limit named": of_kind(""),
        "empty limit": of_kind("; boundary="),
        "limit of 10 kB": of_kind("; boundary=" + "a" * 10_000),
        "another limit": of_kind("; boundary=other"),
        "limit beyond ASCII": of_kind("; boundary=\xff\xfe"),
        "limit of quotes": of_kind('; boundary="\\"'),
        "nothing": post("/predict", b"", MULTIPART),
        "no part": form(),
        "no disposition": form("--limit\r\n\r\nhello\r\n"),
        "no name": form('--limit\r\nContent-Disposition: form-data; filename="a"\r\n\r\nx\r\n'),
        "part of headers alone": form("--limit\r\n" + "a: b\r\n" * 20_000 + "\r\nx\r\n"),
        "long header": form(part(b"x", more="a: " + "b" * 200_000 + "\r\n")),
        "5,000 files": form(*[part(b"x", filename=f"{n}.png") for n in range(5000)]),
        "5,000 fields": form(*[part(b"x", f"a{n}", None) for n in range(5000)]),
        "empty file": form(part(b"")),
        "field in place of a file": form(part(b"hello", filename=None)),
        "parts within parts": form(
            part(b"--in\r\n\r\nx\r\n--in--", more="Content-Type: multipart/mixed; boundary=in\r\n")
        ),
        "long field": form(part(b"a" * 3_000_000, "a", None)),
    }
    either = {
        "no end": form(file, end=""),
        "text before": form("hello\r\n", file),
        "text after": form(file, end="--limit--\r\n" + "x" * 100_000),
        "said to be base64": form(part(png(), more="Content-Transfer-Encoding: base64\r\n")),
        "another name of the field": form(part(png(), name="\x00../")),
        "the same file twice": form(file, file),
        "a file that is no image among others": form(file, part(b"hello", filename="b.png"), file),
        "200 empty files": form(*[part(b"", filename=f"{n}.png") for n in range(200)]),
    }
    names = (
        *("../../../../tmp/escaped.png", "/etc/cron.d/escaped", "C:\\escaped.png", "..", ".", ""),
        *("a\0b.png", "a" * 50_000, "<img src=x onerror=alert(1)>.png", "a\tb\x1b[31m.png"),
        *("CON", "\xff\xfe\xfd.png", "%2e%2e%2fescaped.png", "a\\", "{{7*7}}", "\u00e4\u00f6.png"),
    )
    either |= {f"file name {name[:20]!a}": form(part(png(), filename=name)) for name in names}
    either["file name encoded"] = form(
        part(png(), filename=None).replace('"file"', "\"file\"; filename*=UTF-8''..%2f..%2fescaped")
    )
    return [*_named("forms", REFUSE, refused), *_named("forms", "", either)]


def types() -> list[Request]:
    """Bodies that are not what their type says."""
    body = (part(png()) + "--limit--\r\n").encode("latin-1")
    inner = json.dumps({"images": [encoded(png())]}).encode()
    refused = {
        "an image as JSON": post("/predict", png(), JSON),
        "JSON as an image": post("/predict", inner, OCTETS),
        "a form as an image": post("/predict", body, OCTETS),
        "an image as a form": post("/predict", png(), MULTIPART),
        "text": post("/predict", b"hello", "text/plain"),
        "fields": post("/predict", b"file=a&file=b&" * 1000, "application/x-www-form-urlencoded"),
        "XML": post("/predict", BILLION_LAUGHS, "application/xml"),
        "packed bomb": raw(
            "POST",
            "/predict",
            gzip.compress(bytes(20_000_000), 1, mtime=0),
            f"Content-Type: {JSON}\r\nContent-Encoding: gzip\r\n",
        ),
        "no body": post("/predict", b"", JSON),
    }
    either = {
        "no type": post("/predict", png(), None),
        "type of slashes": post("/predict", png(), "////;;;==="),
        "long type": post("/predict", png(), "image/" + "a" * 50_000),
        "unknown charset": post("/predict", inner, JSON + "; charset=nonsense"),
        "UTF-7": post("/predict", inner, JSON + "; charset=utf-7"),
        "UTF-16": post("/predict", inner.decode().encode("utf-16"), JSON),
    }
    return [*_named("types", REFUSE, refused), *_named("types", "", either)]


BILLION_LAUGHS = (
    b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ha">'
    + b"".join(b'<!ENTITY %c "%s">' % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(9))
    + b"]><svg>&j;</svg>"
)


def texts() -> list[Request]:
    """JSON that is none, or says what nobody asked for."""
    good = encoded(png())
    refused = {
        "nothing": b" ",
        "null": None,
        "a number": 1,
        "a string": "x",
        "a list": [],
        "an empty object": {},
        "no images": {"images": []},
        "images that are null": {"images": None},
        "images that are a string": {"images": good},
        "images that are numbers": {"images": [1, 2.5, True]},
        "images that are lists": {"images": [[[[]]]]},
        "images that are objects": {"images": [{"file": "/etc/passwd"}]},
        "another key": {"images": [good], "model": "/etc/passwd"},
        "5,000 images": {"images": ["AAAA"] * 5000},
        "lists in lists": b"[" * 200_000,
        "lists in lists that end": b'{"images": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        "objects in objects": b'{"images":' * 50_000,
        "NaN": b'{"images": NaN}',
        "a number of 100,000 digits": b'{"images": ' + b"9" * 100_000 + b"}",
        "1e999": b'{"images": [1e999, -1e999]}',
        "keys twice": b'{"images": [], "images": 1, "images": null}',
        "no UTF-8": b'{"images": ["\xff\xfe"]}',
        "half a character": b'{"images": ["\\ud800"]}',
        "a comma too many": b'{"images": ["AAAA"],}',
        "two documents": b'{"images": ["AAAA"]}{"images": []}',
        "code": b"__import__('os').system('id')",
        "ten thousand keys": {str(n): n for n in range(10_000)},
        "special keys": {"__proto__": {}, "__class__": 1, "constructor": 2},
        "10 MB of spaces": b" " * 10_000_000 + b'{"images": []}',
    }
    # Right JSON around what is no image, which may be said of each image by itself.
    either = {
        "data of another alphabet": ["\u00e4\u00f6\u00fc!"],
        "data cut": [good[:-3]],
        "data with spaces": [" \n=" * 1000],
        "data that are no image": [encoded(b"hello")],
        "a path": ["/etc/passwd"],
        "an address": ["http://127.0.0.1:1/", "file:///etc/passwd"],
        "a data address": ["data:image/png;base64," + good],
        "zeros": ["\0"],
        "nothing for an image": [""],
        "an image that is none among others": [good, "!", good],
    }
    return [
        *_named("JSON", REFUSE, {what: json_post(value) for what, value in refused.items()}),
        *_named("JSON", "", {k: json_post({"images": value}) for k, value in either.items()}),
    ]


def tensors() -> list[Request]:
    """Requests of the Open Inference Protocol whose numbers do not fit."""
    twelve = [0] * 12
    values = {
        "nothing": {},
        "no inputs": {"inputs": []},
        "inputs that are null": {"inputs": None},
        "inputs that are a number": {"inputs": 7},
        "an input that is null": {"inputs": [None]},
        "another name": {"inputs": [tensor(twelve)["inputs"][0] | {"name": "../../etc"}]},
        "two inputs": {"inputs": tensor(twelve)["inputs"] * 2},
        "NaN": tensor([float("nan")] * 12),
        "infinity": tensor([float("inf")] * 12, kind="FP32"),
        "NaN as floats": tensor([float("nan")] * 12, kind="FP32"),
        "256": tensor([256] * 12),
        "-1": tensor([-1] * 12),
        "2 to the 100": tensor([2**100] * 12),
        "halves": tensor([0.5] * 12),
        "strings": tensor(["a"] * 12),
        "nulls": tensor([None] * 12),
        "booleans": tensor([True] * 12),
        "too few": tensor([0]),
        "too many": tensor([0] * 1_000_000),
        "none": tensor([]),
        "a string for data": tensor("AAAA"),
        "an object for data": tensor({"a": 1}),
        "uneven lists": tensor([[0, 1], [2], [[3]]]),
        "lists in lists": json.dumps(tensor("#")).replace('"#"', "[" * 100_000).encode(),
        "negative shape": tensor(twelve, (-1, 2, 2, 3)),
        "no shape": tensor(twelve, None),
        "shape of zeros": tensor([], (0, 0, 0, 0)),
        "no image": tensor([], (0, 224, 224, 3)),
        "shape of 2 to the 62": tensor(twelve, (2**62, 4, 4, 4)),
        "shape whose product is small again": tensor(twelve, (2**32, 2**32, 2**32, 12)),
        "a million images": tensor(twelve, (1_000_000, 224, 224, 3)),
        "shape of halves": tensor(twelve, (0.5, 2, 2, 3)),
        "shape of strings": tensor(twelve, ("1", "2", "2", "3")),
        "shape of booleans": tensor(twelve, (True, 2, 2, 3)),
        "shape of 10,000 sides": tensor(twelve, (1,) * 10_000),
        "no type": tensor(twelve, kind=None),
        "type of bytes": tensor(twelve, kind="BYTES"),
        "type of objects": tensor(twelve, kind="object"),
        "outputs nobody has": tensor(twelve) | {"outputs": [{"name": "secret"}]},
        "outputs that are a number": tensor(twelve) | {"outputs": 1},
        "id that is an object": tensor(twelve) | {"id": {"a": []}},
        "parameters": tensor(twelve) | {"parameters": {"binary_data_output": True, "model": "/"}},
        "binary": tensor(None, parameters={"binary_data_size": 2**40}),
    }
    requests = {what: json_post(value, INFER) for what, value in values.items()}
    for length in ("-1", "99999999999", "x"):
        header = f"Inference-Header-Content-Length: {length}\r\nContent-Type: {OCTETS}\r\n"
        requests[f"header of {length} bytes"] = raw("POST", INFER, b"{}" + bytes(12), header)
    return _named("tensors", REFUSE, requests)


def files() -> list[Request]:
    """Files that are no images, and images that unfold to more than a service can hold."""
    found = {
        "PNG bomb": png_bomb(),
        "PNG of 2 to the 31 by 2 to the 31": _with_size(2**31 - 1, 2**31 - 1),
        "PNG of 0 by 0": _with_size(0, 0),
        "PNG with a packed text": _with_chunk(b"zTXt", b"a\0\0" + _zeros(60_000_000)),
        "PNG with a packed profile": _with_chunk(b"iCCP", b"a\0\0" + _zeros(60_000_000)),
        "PNG of 20,000 parts": _with_chunk(b"tEXt", b"a\0b", 20_000),
        "GIF bomb": gif_bomb(),
        "GIF of many frames": b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff"
        + b",\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0" * 20_000
        + b";",
        "WebP bomb": webp_bomb(),
        "TIFF bomb": tiff_bomb(),
        "TIFF whose pages go in a circle": struct.pack("<2sHIHI", b"II", 42, 8, 0, 8),
        "TIFF of a strip of 4 GiB": _tiff(BOMB_SIDE, BOMB_SIDE, 2**32 - 1),
        "BMP bomb": b"BM" + struct.pack("<IIIIiiHHIIiiII", *BMP),
        "JPEG bomb": _claims(_saved(picture("RGB"), "JPEG"), 65_500, 65_500),
        "JPEG of many scans": many_scans(),
        "PPM bomb": b"P6 12000 12000 255\n" + bytes(1000),
        "PPM of comments": b"P3\n" + b"#\n" * 200_000,
        "ICO that names itself": b"\0\0\1\0\1\0\0\0\0\0\0\0\0\0" + struct.pack("<II", 2**31, 0),
        "SVG": BILLION_LAUGHS,
        "PDF": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n",
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (r) file\n",
        "pickle": b"cposix\nsystem\n(S'touch escaped'\ntR.",
        "program": b"\x7fELF\x02\x01\x01" + bytes(200),
        "archive": b"PK\3\4" + bytes(100),
        "HEIF cut": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40),
        "AVIF cut": b"\0\0\0\x1cftypavif\0\0\0\0mif1avif" + b"\xff" * 60,
        "MPO": b"\xff\xd8\xff\xe2\0\x10MPF\0II*\0" + b"\xff" * 300,
    }
    harmless = {"PNG of 20,000 parts", "GIF of many frames", "PNG with a packed text"}
    return [
        *_named("file", "", {k: form(part(v)) for k, v in found.items() if k in harmless}),
        *_named("file", "", {k: form(part(v)) for k, v in found.items() if k not in harmless}),
        Request("file: the PNG bomb four times", (form(*[part(png_bomb())] * 4),)),
        Request("file: the PNG bomb in JSON", (json_post({"images": [encoded(png_bomb())]}),)),
    ]


BMP = (54, 0, 54, 40, BOMB_SIDE, BOMB_SIDE, 1, 24, 0, 0, 0, 0, 0, 0)


@functools.cache
def _zeros(count: int) -> bytes:
    """`count` zeros packed by zlib, put together of equal pieces, as it would take a second."""

    def pack(zeros: int, end: int) -> bytes:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        return packer.compress(bytes(zeros)) + packer.flush(end)

    pieces, rest = divmod(count, 2**20)
    body = pack(2**20, zlib.Z_FULL_FLUSH) * pieces + pack(rest, zlib.Z_FINISH)
    return b"\x78\xda" + body + struct.pack(">HH", count % 65_521, 1)  # Adler's sum of zeros


@functools.cache
def png_bomb() -> bytes:
    """140 kB that are 144 million pixels."""
    header = struct.pack(">IIBBBBB", BOMB_SIDE, BOMB_SIDE, 8, 0, 0, 0, 0)
    pixels = _zeros(BOMB_SIDE * (BOMB_SIDE + 1))
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _with_size(width: int, height: int) -> bytes:
    data = bytearray(png())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def _with_chunk(name: bytes, content: bytes, times: int = 1) -> bytes:
    return png()[:33] + _chunk(name, content) * times + png()[33:]


@functools.cache
def gif_bomb() -> bytes:
    """A screen of 65,535 x 65,535 pixels."""
    data = bytearray(_saved(picture("P"), "GIF"))
    data[6:10] = b"\xff" * 4
    return bytes(data)


@functools.cache
def webp_bomb() -> bytes:
    """The largest picture that WebP has, 268 million pixels, by its header."""
    data = bytearray(_saved(picture("RGB"), "WEBP", lossless=True))
    at = data.index(b"VP8L") + 9
    data[at : at + 4] = struct.pack("<I", 16_383 | 16_383 << 14)
    return bytes(data)


def _tiff(width: int, height: int, strip: int, content: bytes = b"", packing: int = 1) -> bytes:
    tags = ((256, width), (257, height), (258, 8), (259, packing), (262, 1))
    tags += ((273, 8 + 2 + 9 * 12 + 4), (277, 1), (278, height), (279, strip))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4) + content


@functools.cache
def tiff_bomb() -> bytes:
    pixels = _zeros(BOMB_SIDE * (BOMB_SIDE + 1))
    return _tiff(BOMB_SIDE, BOMB_SIDE, len(pixels), pixels, packing=8)


def _claims(jpeg: bytes, width: int, height: int) -> bytes:
    data = bytearray(jpeg)
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def many_scans() -> bytes:
    """A progressive JPEG of a megapixel whose last scan comes 20,000 times."""
    data = _saved(picture("RGB", size=(1000, 1000)), "JPEG", progressive=True, quality=1)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last : last + 12] * 20_000 + data[last:]


def slow() -> list[Request]:
    """Senders who take their time, and some who never come to an end."""
    asked = form(part(png()))
    head, _, body = asked.partition(b"\r\n\r\n")
    bytewise = tuple(asked[n : n + 1] for n in range(60))
    dripping = (head + b"\r\n\r\n", *(body[n : n + 20] for n in range(0, 1200, 20)))
    headers = (head + b"\r\n", *(b"x%d: y\r\n" % n for n in range(60)))
    return [
        Request("slow: connects and is silent", (b"",), REFUSE),
        Request("slow: half a request line", (b"POST /pre",), REFUSE),
        Request("slow: headers without an end", (head + b"\r\n",), REFUSE),
        Request("slow: a byte at a time", bytewise, REFUSE, 0.2),
        Request("slow: a header at a time", headers, REFUSE, 0.2),
        Request("slow: no body", (head + b"\r\n\r\n",), REFUSE),
        Request("slow: half a body", (head + b"\r\n\r\n" + body[: len(body) // 2],), REFUSE),
        Request("slow: a body in drops", dripping, REFUSE, 0.2),
    ]


# Spoilt at random.


def spoilt(random: Random) -> Request:
    """A sound request, its bytes cut, flipped or repeated."""
    data, done = bytearray(random.choice(sound())), []
    for _ in range(random.choice((1, 1, 2))):
        mutation = random.choice(MUTATIONS)
        if data:
            data = mutation(data, random)
            done.append(mutation.__name__)
    return Request(f"spoilt by {', '.join(done)}", (bytes(data),), "", 0, random.random() < 0.7)


def with_spoilt_image(random: Random) -> Request:
    """A sound form around an image that may be anything."""
    what, data = mutated(random)
    return Request(f"a form around {what}", (form(part(data)),))


ODD: tuple[Callable[[Random], object], ...] = (
    *(lambda r: None, lambda r: -1, lambda r: 2**63, lambda r: 1e308, lambda r: [], lambda r: {}),
    *(lambda r: "", lambda r: "../" * 9, lambda r: float("nan"), lambda r: True, lambda r: [[]]),
    *(lambda r: "\0\ud800", lambda r: r.random(), lambda r: ["x"] * 1000, lambda r: {"a": {}}),
)


def with_odd_value(random: Random) -> Request:
    """Sound JSON with another value somewhere."""
    infer = random.random() < 0.5
    images = [encoded(png())] * 2
    value = tensor(images, [2], "BYTES") if infer else {"images": images}
    place: dict | list = value
    way: list[str | int] = []
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = random.choice(keys)
        way.append(key)
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or random.random() < 0.2:
            break
        place = inner
    place[key] = random.choice(ODD)(random)
    path = INFER if infer else "/predict"
    return Request(f"{path} with {place[key]!a:.40} at {way}", (json_post(value, path),))
