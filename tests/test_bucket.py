"""The images of a bucket, in one folder a class, come out as those of a folder on disk do."""

import random
import re
import shutil
import threading
from functools import partial
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

import pytest
from test_cluster import Cluster, ended, run

from stages.errors import UserError
from stages.parameters.download import Download
from stages.sources.bucket import bucket_entries
from stages.sources.fetch import patiently
from stages.sources.folder import folder_images
from stages.sources.gather import gather
from stages.store.raw import pack, write_manifest

FILES = {
    f"{label}/{folder}{number:03}.jpg": f"{label} {number} ".encode() * (number * 7 % 20)
    for label, folder in (("cat", ""), ("dog", "more/"), ("é t", "a b+c/"))
    for number in range(1, 16)
}


class Bucket:
    """A bucket in moto's server behind a proxy, which fails as `answers` says and counts."""

    def __init__(self, client, backend: tuple[str, int]):
        self.client, self.reads, self.answers = client, [], lambda method, path: None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status = outer.answers(self.command, self.path)
                if status:
                    headers, content = {}, b""
                else:
                    connection = HTTPConnection(*backend)
                    connection.request(self.command, self.path, body, dict(self.headers))
                    answer = connection.getresponse()
                    status, headers, content = answer.status, answer.headers, answer.read()
                    connection.close()
                if self.command == "GET" and ".jpg" in self.path and status == 200:
                    outer.reads.append(self.path)
                self.send_response(status)
                length = headers.get("Content-Length", str(len(content)))
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                self.send_header("Content-Length", length)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def put(self, files: dict[str, bytes]) -> None:
        for name, content in files.items():
            self.client.put_object(Bucket="images", Key=f"set/{name}", Body=content)

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def moto():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()
    server.stop()


@pytest.fixture
def bucket(moto, monkeypatch):
    import boto3
    import fsspec

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3", endpoint_url="http://{}:{}".format(*moto))
    client.create_bucket(Bucket="images")
    bucket = Bucket(client, moto)
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.address)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield bucket
    bucket.close()
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    for entry in client.list_objects_v2(Bucket="images").get("Contents", []):
        client.delete_object(Bucket="images", Key=entry["Key"])
    client.delete_bucket(Bucket="images")


class Packed:
    """Where a bucket is packed, run after run."""

    def __init__(self, folder: Path):
        self.raw, self.new, self.seen = folder / "raw", folder / "new", folder / "seen"

    def run(self, url="s3://images/set", **options) -> dict[str, bytes]:
        shutil.rmtree(self.new, ignore_errors=True)
        self.new.mkdir(parents=True)
        entries = bucket_entries(
            url, self.new, self.raw, self.seen / "bucket", self.seen / "packed", **options
        )
        write_manifest(self.new, entries)
        shutil.rmtree(self.raw, ignore_errors=True)
        self.new.rename(self.raw)
        shutil.rmtree(self.seen / "packed")
        return content(self.raw)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def from_folder(folder: Path, files: dict[str, bytes], target: int) -> dict[str, bytes]:
    """What `source: folder` makes of a copy on disk."""
    images = folder_images(write_files(folder / "copy", files), folder / "files.csv")
    (folder / "local").mkdir()
    entries = pack(images, folder / "local", folder / "none", folder / "shards.json", target)
    write_manifest(folder / "local", entries)
    return content(folder / "local")


@pytest.fixture
def packed(tmp_path):
    return Packed(tmp_path / "bucket")


def test_a_bucket_gives_the_bytes_of_a_folder_and_is_read_once(bucket, packed, tmp_path, capsys):
    bucket.put(FILES | {"cat/notes.txt": b"no image", ".trash/1.jpg": b"hidden", "dog/": b""})
    expected = from_folder(tmp_path, FILES, target=600)
    assert len(expected) > 5
    assert packed.run(target=600) == expected
    assert len(bucket.reads) == len(FILES)
    assert "passed over 1 files that are not images: .txt (1)" in capsys.readouterr().out
    bucket.reads.clear()
    assert packed.run(target=600) == expected
    assert bucket.reads == []


def test_what_changes_in_a_bucket_is_all_that_is_read(bucket, packed, tmp_path):
    bucket.put(FILES)
    packed.run(target=600)
    changed = dict(FILES, **{"cat/007.jpg": b"another", "dog/new.jpg": b"new"})
    del changed["dog/more/009.jpg"]
    bucket.put({name: changed[name] for name in ("cat/007.jpg", "dog/new.jpg")})
    bucket.client.delete_object(Bucket="images", Key="set/dog/more/009.jpg")
    bucket.reads.clear()
    assert packed.run(target=600) == from_folder(tmp_path, changed, target=600)
    assert sorted(bucket.reads) == ["/images/set/cat/007.jpg", "/images/set/dog/new.jpg"]


def test_a_shard_that_someone_altered_is_read_again(bucket, packed):
    bucket.put(FILES)
    before = packed.run(target=600)
    shard = sorted(packed.raw.glob("*.zip"))[0]
    shard.write_bytes(shard.read_bytes()[:-9] + b"altered!!")
    assert packed.run(target=600) == before


def test_a_busy_store_is_asked_again(bucket, packed, tmp_path):
    bucket.put(FILES)
    chance, lock = random.Random(0), threading.Lock()

    def now_and_then(method, path):
        with lock:
            return 503 if chance.random() < 0.08 else None

    bucket.answers = now_and_then
    assert packed.run(target=600) == from_folder(tmp_path, FILES, target=600)


SMALL_SHARDS = """
from functools import partial
from stages import download
from stages.errors import run
from stages.sources import bucket, gather
gather.bucket_entries = partial(bucket.bucket_entries, target=600)
run(download.main)
"""


def test_workers_of_a_cluster_pack_a_bucket_that_is_busy_now_and_then(bucket, tmp_path):
    bucket.put(FILES)
    refused, lock = [7, 40, 90], threading.Lock()  # the how manieth requests
    asked = count()

    def now_and_then(method, path):
        with lock:
            return 503 if next(asked) in refused else None

    bucket.answers = now_and_then
    project = tmp_path / "project"
    project.mkdir()
    settings = "download: {source: folder, url: s3://images/set}\n"
    (project / "params.yaml").write_text(settings)
    cluster = Cluster(project)
    try:
        for _ in range(2):
            cluster.start_worker()
        out, _ = ended(run(project, cluster.address, SMALL_SHARDS))
    finally:
        cluster.stop()
    assert f"{len(FILES)} images" in out
    assert next(asked) > refused[-1]
    assert content(project / "data/raw") == from_folder(tmp_path, FILES, target=600)


def test_a_run_that_fails_has_packed_what_it_could(bucket, packed, tmp_path):
    bucket.put(FILES)
    denied = "set/%C3%A9%20t"
    bucket.answers = lambda method, path: 403 if denied in path and method == "GET" else None
    with pytest.raises(UserError, match=r"^s3://images/set/é t/a b\+c/\d+.jpg cannot be read, acc"):
        packed.run(target=600)
    bucket.answers, first = lambda method, path: None, len(bucket.reads)
    assert packed.run(target=600) == from_folder(tmp_path, FILES, target=600)
    assert len(bucket.reads) < len(FILES) + first - 8  # all else is kept


@pytest.mark.parametrize(
    ("meanwhile", "message"),
    [
        ("changed", r"dog/more/005.jpg changed while the images were read; run again"),
        ("gone", r"dog/more/005.jpg was taken away while the images were read; run again"),
    ],
)
def test_an_image_that_is_not_what_was_listed_is_one_clear_line(bucket, packed, meanwhile, message):
    bucket.put(FILES)
    key = "set/dog/more/005.jpg"

    def meanwhile_(method, path):
        if path.endswith("/001.jpg") and method == "GET":
            if meanwhile == "gone":
                bucket.client.delete_object(Bucket="images", Key=key)
            else:  # of the same size
                bucket.client.put_object(Bucket="images", Key=key, Body=b"x" * size)

    size = len(FILES["dog/more/005.jpg"])
    bucket.answers = meanwhile_
    with pytest.raises(UserError, match=f"^s3://images/set/{message}$"):
        packed.run(target=600)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://images/none", r"^s3://images/none is not there; download.url names"),
        ("s3://nowhere/set", r"^s3://nowhere/set is not there; download.url names"),
        ("s3://images/texts", r"^s3://images/texts holds no images; put them there in one folder"),
        ("s3://images/odd", r"^s3://images/odd: no folder can hold cat//1.jpg; rename it"),
        ("s3://images/one", r"^s3://images/one has a single class, cat"),
    ],
)
def test_a_bucket_that_holds_no_such_images_is_one_clear_line(bucket, packed, url, message):
    for key in ("texts/a/notes.txt", "odd/cat//1.jpg", "odd/dog/1.jpg", "one/cat/1.jpg"):
        bucket.client.put_object(Bucket="images", Key=key, Body=b"content")
    with pytest.raises(UserError, match=message):
        packed.run(url)


def test_any_store_that_fsspec_knows_will_do(packed, tmp_path):
    files = {f"train/{name}": data for name, data in FILES.items()} | {"test/cat/a.jpg": b"test"}
    folder = write_files(tmp_path / "photos", files)
    assert packed.run(folder.as_uri(), target=600) == from_folder(tmp_path, files, target=600)


def test_the_stage_packs_a_bucket(tmp_path):
    folder = write_files(tmp_path / "photos", {"cat.1.jpg": b"one", "dog.1.jpg": b"two"})
    settings = Download(source="folder", url=folder.as_uri(), label_pattern="^[a-z]+")
    (tmp_path / "raw").mkdir()
    run = partial(gather, settings, tmp_path / "raw", tmp_path / "none", tmp_path / "downloads")
    assert [entry.label for entry in run(tmp_path / "seen")] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": ["s3://a/b", "s3://c/d"]}, "source folder takes one url"),
        ({"url": "https://host/photos"}, "nothing lists the files of https://host/photos"),
        ({"url": "s3://a/b", "sha256": "0" * 64}, "sha256 pins files, not a folder"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Download(source="folder", **settings)


def test_patience_ends():
    asked = []

    def fail(error):
        asked.append(error)
        raise error

    with pytest.raises(OSError, match=re.escape("slow down (tried 5 times)")):
        patiently(partial(fail, RuntimeError("slow down")), pause=0)
    assert len(asked) == 5
    with pytest.raises(FileNotFoundError):
        patiently(partial(fail, FileNotFoundError()), pause=0)
    assert len(asked) == 6
