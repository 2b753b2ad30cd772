"""Files are fetched once, resumed when a connection breaks, and verified before use."""

import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from stages.errors import UserError
from stages.sources.fetch import fetch, fetch_bytes
from stages.store.blobs import file_sha256

CONTENT = bytes(range(256)) * 20_000  # 5 MB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """A web server on this machine, as good or bad as its attributes say."""

    def __init__(self):
        self.content = CONTENT
        self.etag = '"one"'
        self.ranges = True
        self.drop_after = []  # for each coming request, bytes sent before the connection breaks
        self.status = []  # for each coming request, an answer other than 200
        self.headers = {}  # more of the answer, or other values than the right ones
        self.requests = []  # the Range header of each request so far
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.answer(self)

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/photos.zip"

    def answer(self, request):
        asked = request.headers.get("Range")
        self.requests.append(asked)
        status = self.status.pop(0) if self.status else 200
        body = self.content
        fresh = request.headers.get("If-Range") in (None, self.etag)
        headers = {"ETag": self.etag}
        if status != 200:
            body = b"no"
        elif asked and self.ranges and fresh:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            body, status = body[start:], 206
        request.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))} | self.headers).items():
            request.send_header(name, value)
        request.end_headers()
        if self.drop_after:
            request.wfile.write(body[: self.drop_after.pop(0)])
            request.close_connection = True
        else:
            request.wfile.write(body)

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


def get(server, cache, sha256=SHA256, mirrors=()):
    return fetch([server.url, *mirrors], cache, sha256, pause=0.001)


def test_a_file_is_fetched_once(server, tmp_path):
    path = get(server, tmp_path)
    assert path.read_bytes() == CONTENT
    assert path.name == "photos.zip"
    assert get(server, tmp_path) == path
    assert len(server.requests) == 1


def test_a_file_without_a_pin_is_fetched_once_and_its_checksum_shown(server, tmp_path, capsys):
    path = get(server, tmp_path, sha256=None)
    assert f"download.sha256: {SHA256}" in capsys.readouterr().out
    assert get(server, tmp_path, sha256=None) == path
    assert len(server.requests) == 1


def test_a_file_damaged_on_disk_is_fetched_again(server, tmp_path):
    path = get(server, tmp_path, sha256=None)
    path.write_bytes(b"damaged")
    assert get(server, tmp_path, sha256=None).read_bytes() == CONTENT


@pytest.mark.parametrize("sha256", [SHA256, None])
def test_a_broken_transfer_goes_on_where_it_stopped(server, tmp_path, sha256):
    server.drop_after = [2**21, 2**20]
    assert get(server, tmp_path, sha256).read_bytes() == CONTENT
    first, second, third = server.requests
    assert first is None
    assert second == f"bytes={2**21}-"
    assert third == f"bytes={2**21 + 2**20}-"


def test_a_transfer_starts_over_where_the_server_cannot_resume(server, tmp_path):
    server.ranges, server.drop_after = False, [2**21]
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_file_that_changes_on_the_server_meanwhile_is_not_mixed(server, tmp_path):
    server.drop_after = [2**21]
    server.status = [200, 503, 503, 503, 503, 503, 503]
    with pytest.raises(UserError, match="503"):
        get(server, tmp_path, sha256=None)
    server.content, server.etag, server.status = CONTENT[::-1], '"two"', []
    assert get(server, tmp_path, sha256=None).read_bytes() == CONTENT[::-1]


def test_what_has_come_is_kept_for_the_next_run(server, tmp_path):
    server.drop_after = [2**21] + [0] * 9
    with pytest.raises(UserError, match="2,097,152 bytes are kept, run again to continue"):
        get(server, tmp_path)
    server.drop_after, server.requests = [], []
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.requests == [f"bytes={2**21}-"]


def test_a_server_that_always_drops_the_connection_is_one_clear_line(server, tmp_path):
    server.drop_after = [0] * 100
    with pytest.raises(UserError, match=r"could not fetch http://.*photos.zip: .*tried 5 times"):
        get(server, tmp_path)


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.status = [503, 429]
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_busy_server_is_left_alone_as_long_as_it_asks(server, tmp_path):
    server.status, server.headers = [503], {"Retry-After": "1"}
    started = time.monotonic()
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert time.monotonic() - started >= 1


def test_a_file_in_memory_is_asked_for_with_the_same_patience(server):
    server.status, server.drop_after = [503, 429], [10, 10]
    assert fetch_bytes(server.url, len(CONTENT), pause=0.001) == CONTENT
    before = len(server.requests)
    server.status = [404]
    with pytest.raises(OSError, match="the server answers 404"):
        fetch_bytes(server.url, len(CONTENT), pause=0.001)
    assert len(server.requests) == before + 1
    with pytest.raises(OSError, match="larger than"):
        fetch_bytes(server.url, len(CONTENT) - 1, pause=0.001)
    server.drop_after = [10] * 9
    with pytest.raises(OSError, match=r"\(tried 5 times\)$"):
        fetch_bytes(server.url, len(CONTENT), pause=0.001)


def test_a_missing_file_is_not_asked_for_again(server, tmp_path):
    server.status = [404]
    with pytest.raises(UserError, match="the server answers 404"):
        get(server, tmp_path)
    assert len(server.requests) == 1


def test_a_wrong_checksum_leaves_nothing_behind(server, tmp_path):
    with pytest.raises(UserError, match=f"has sha256 {SHA256}, not {'0' * 64} as expected"):
        get(server, tmp_path, "0" * 64)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size > 99]


def test_a_wrong_beginning_of_an_earlier_run_is_thrown_away(server, tmp_path):
    server.drop_after, server.content = [2**20] + [0] * 9, CONTENT[::-1]
    with pytest.raises(UserError):
        get(server, tmp_path)
    server.drop_after, server.content = [], CONTENT
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_mirrors_are_tried_in_turn(server, tmp_path):
    other = Server()
    server.status = [404]
    path = get(server, tmp_path, mirrors=[other.url])
    assert path.read_bytes() == CONTENT
    other.close()


def test_two_runs_at_once_fetch_a_file_once(server, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: get(server, tmp_path), range(4)))
    assert {path.read_bytes() for path in paths} == {CONTENT}
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "value",
    ["", "bytes", "bytes x-y/z", "bytes 5-", "bytes -1-2/3", "bytes */5000000", "9" * 5000, "\xe9"],
)
def test_a_range_that_makes_no_sense_is_asked_for_as_a_whole(server, tmp_path, value):
    server.drop_after, server.headers = [2**21], {"Content-Range": value}
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.requests == [None, f"bytes={2**21}-", None]


@pytest.mark.parametrize("value", ["x", "", "-5", "1e3", "9" * 5000, "5120000, 5120000"])
def test_a_length_that_makes_no_sense_is_one_clear_line_or_none(server, tmp_path, value):
    server.headers = {"Content-Length": value, "Connection": "close"}
    try:
        content = get(server, tmp_path).read_bytes()
    except UserError:
        return
    assert content == CONTENT


def test_a_length_that_is_too_short_is_noticed_by_the_pin(server, tmp_path):
    server.headers = {"Content-Length": "1000", "Connection": "close"}
    with pytest.raises(UserError, match=r"could not fetch .*has sha256 \w+, not"):
        get(server, tmp_path)


def test_redirects_in_a_circle_are_given_up_at_once(server, tmp_path):
    server.status, server.headers = [302] * 100, {"Location": server.url}
    with pytest.raises(UserError, match="redirects"):
        get(server, tmp_path)
    assert len(server.requests) <= 32


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b'{"url": 1}',
        b"[" * 100_000,
        b'{"url": "URL", "version": {"a": 1}}',
        b'{"url": "URL", "version": "a\\nb: c"}',
        b'{"url": "URL", "version": "\\u732b"}',
    ],
)
def test_a_damaged_note_of_a_part_costs_fetching_it_again(server, tmp_path, content):
    server.drop_after = [2**21] + [0] * 9
    with pytest.raises(UserError):
        get(server, tmp_path, sha256=None)
    [note] = tmp_path.rglob("*.part.json")
    note.write_bytes(content.replace(b"URL", server.url.encode()))
    server.drop_after, server.requests = [], []
    assert get(server, tmp_path, sha256=None).read_bytes() == CONTENT
    assert server.requests == [None]


def test_a_damaged_checksum_on_disk_costs_fetching_it_again(server, tmp_path):
    path = get(server, tmp_path, sha256=None)
    path.with_name(f"{path.name}.sha256").write_bytes(b"\xff\0")
    assert get(server, tmp_path, sha256=None).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_a_name_that_no_server_can_have_is_not_asked_for_again(tmp_path):
    with pytest.raises(UserError) as caught:
        fetch([f"http://{'a' * 300}/a.zip"], tmp_path, pause=0.001)
    assert "tried" not in str(caught.value)


@pytest.mark.parametrize("url", ["https://[::1", "http://[x]/a.zip", "http://host:99999/a.zip"])
def test_an_address_that_cannot_be_is_one_clear_line(tmp_path, url):
    with pytest.raises(UserError):
        fetch([url], tmp_path, pause=0.001)


def test_a_server_that_cannot_be_reached_is_one_clear_line(server, tmp_path):
    server.close()
    with pytest.raises(UserError, match="refused"):
        get(server, tmp_path)


def test_any_address_that_fsspec_knows_will_do(tmp_path):
    (tmp_path / "a.zip").write_bytes(CONTENT)
    path = fetch([(tmp_path / "a.zip").as_uri()], tmp_path / "cache", SHA256)
    assert file_sha256(path) == SHA256


def test_a_store_whose_library_is_missing_is_one_clear_line(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "gcsfs", None)  # as if it were not installed
    with pytest.raises(UserError, match="gs:// needs a package that is missing; make cloud"):
        fetch(["gs://bucket/a.zip"], tmp_path)


def test_an_unknown_kind_of_address_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="gopher"):
        fetch(["gopher://host/a.zip"], tmp_path)


class TestS3:
    """Against a real S3 server on this machine."""

    @pytest.fixture
    def bucket(self, monkeypatch):
        import boto3
        from moto.server import ThreadedMotoServer

        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="images")
        yield client
        server.stop()

    def test_a_file_comes_from_s3(self, bucket, tmp_path):
        bucket.put_object(Bucket="images", Key="set/photos.zip", Body=CONTENT)
        path = fetch(["s3://images/set/photos.zip"], tmp_path, SHA256)
        assert path.read_bytes() == CONTENT
        with pytest.raises(UserError, match=r"absent.zip: there is no such file"):
            fetch(["s3://images/absent.zip"], tmp_path)
