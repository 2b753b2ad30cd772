"""The download stage gathers images from folders and archives into data/raw."""

import io
import os
import shutil
import tarfile
import threading
import zipfile
import zlib
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import stages.download
from stages.errors import UserError, run
from stages.parameters.download import Download
from stages.sources.fetch import file_name
from stages.sources.folder import folder_images
from stages.sources.gather import gather
from stages.store.blobs import file_sha256
from stages.store.outputs import replace
from stages.store.raw import pack, read_images, read_manifest, write_manifest

CATS_AND_DOGS = {
    "cat/1.jpg": b"one",
    "cat/2.png": b"two",
    "dog/1.jpg": b"three",
    "dog/inner/2.JPG": b"four",
}


class Raw:
    """What a run of the stage leaves."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.rows = self.manifest.to_pylist()
        self.contents = {
            self.rows[row]["path"]: content for row, content in read_images(folder, self.manifest)
        }
        self.labels = {row["path"]: row["label"] for row in self.rows}
        self.splits = {row["path"]: row["split"] for row in self.rows}
        self.files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def download(tmp_path):
    """Run the stage's work with the given settings; return what it leaves."""

    def run(**settings) -> Raw:
        target = tmp_path / "data" / "raw"
        raw, data = tmp_path / "data" / "new", tmp_path / "data"
        shutil.rmtree(raw, ignore_errors=True)  # of a run that failed
        raw.mkdir(parents=True)
        entries = gather(Download(**settings), raw, target, data / "downloads", data / ".seen")
        write_manifest(raw, entries)
        replace(raw, target)
        return Raw(target)

    return run


def write_files(folder: Path, files: dict[str, bytes]) -> str:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return str(folder)


def write_zip(path: Path, files: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return str(path)


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> str:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return str(path)


def test_the_digits_come_with_the_installation(download):
    raw = download(source="digits")
    assert len(raw.rows) == 1797
    assert sorted(set(raw.labels.values())) == [str(digit) for digit in range(10)]
    assert raw.contents["3/00003.png"].startswith(b"\x89PNG")


# Class folders


def test_a_folder_of_class_folders_is_packed_into_one_archive(download, tmp_path):
    raw = download(source="folder", path=write_files(tmp_path / "mine", CATS_AND_DOGS))
    assert raw.contents == CATS_AND_DOGS
    assert raw.labels["dog/inner/2.JPG"] == "dog"
    assert set(raw.splits.values()) == {""}
    assert len(raw.files) == 2


@pytest.mark.parametrize("wrap", ["", "flowers-2024/"])
def test_declared_sides_are_known_by_folder_in_any_letter_case(download, tmp_path, wrap):
    files = {
        f"{wrap}{side}/{label}/1.jpg": f"{side}{label}".encode()
        for side in ["Train", "VALIDATION", "test", "extra"]
        for label in ["cat", "dog"]
    }
    raw = download(source="folder", path=write_files(tmp_path / "mine", files))
    assert raw.splits[f"{wrap}Train/cat/1.jpg"] == "train"
    assert raw.splits[f"{wrap}VALIDATION/dog/1.jpg"] == "val"
    assert raw.splits[f"{wrap}test/cat/1.jpg"] == "test"
    assert raw.splits[f"{wrap}extra/cat/1.jpg"] == "extra"
    assert set(raw.labels.values()) == {"cat", "dog"}


def test_a_class_may_be_called_train(download, tmp_path):
    files = {"train/1.jpg": b"1", "bus/1.jpg": b"2"}
    raw = download(source="folder", path=write_files(tmp_path / "mine", files))
    assert set(raw.labels.values()) == {"train", "bus"}
    assert set(raw.splits.values()) == {""}


def test_files_of_the_operating_system_are_no_images(download, tmp_path):
    junk = {
        ".DS_Store": b"x",
        "cat/.DS_Store": b"x",
        "cat/._1.jpg": b"x",
        "cat/Thumbs.db": b"x",
        "dog/desktop.ini": b"x",
        "__MACOSX/cat/1.jpg": b"x",
        "@eaDir/cat/1.jpg": b"x",
    }
    raw = download(source="folder", path=write_files(tmp_path / "mine", CATS_AND_DOGS | junk))
    assert raw.contents == CATS_AND_DOGS
    raw = download(source="archive", path=write_zip(tmp_path / "a.zip", CATS_AND_DOGS | junk))
    assert raw.contents == CATS_AND_DOGS


def test_files_that_are_no_images_are_passed_over_with_a_line(download, tmp_path, capsys):
    files = CATS_AND_DOGS | {"README.md": b"x", "cat/notes.txt": b"x", "dog/notes.txt": b"x"}
    raw = download(source="folder", path=write_files(tmp_path / "mine", files))
    assert raw.contents == CATS_AND_DOGS
    assert "3 files that are not images: .txt (2), .md (1)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no images; put them there in one folder a class"),
        ({"cat/1.jpg": b"1", "cat/2.jpg": b"2"}, "has a single class, cat"),
        ({"1.jpg": b"1", "cat/1.jpg": b"1", "dog/1.jpg": b""}, "no class folder, e.g. 1.jpg"),
        (
            {"train/cat/1.jpg": b"1", "train/dog/1.jpg": b"2", "test/1.jpg": b"3"},
            "1 images of .* lie in no class folder, e.g. test/1.jpg",
        ),
        (
            {"train/cat/1.jpg": b"1", "train/dog/1.jpg": b"2", "unsorted/cat/1.jpg": b"3"},
            "has unsorted/ beside the declared sets train/",
        ),
    ],
)
def test_a_folder_laid_out_otherwise_is_one_clear_line(download, tmp_path, files, message):
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match=message):
        download(source="folder", path=write_files(tmp_path / "mine", files))


# Archives


@pytest.mark.parametrize("kind", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
def test_an_archive_is_known_by_content_not_by_name(download, tmp_path, kind):
    write = write_zip if kind == "zip" else lambda path, files: write_tar(path, files, kind)
    raw = download(source="archive", path=write(tmp_path / "data.bin", CATS_AND_DOGS))
    assert raw.contents == CATS_AND_DOGS
    assert raw.files["data.bin"] == (tmp_path / "data.bin").read_bytes()


def test_a_missing_archive_is_one_clear_line(download, tmp_path):
    with pytest.raises(UserError, match=r"the archive .*absent.zip does not exist"):
        download(source="archive", path=str(tmp_path / "absent.zip"))


# Packing


def test_equal_files_share_the_start_of_their_id(download, tmp_path):
    files = {"cat/1.jpg": b"same", "cat/2.jpg": b"same", "dog/1.jpg": b"other"}
    raw = download(source="folder", path=write_files(tmp_path / "mine", files))
    first, second, _ = [row["id"] for row in raw.rows]
    assert second == f"{first}-2"
    assert raw.rows[0]["sha256"].startswith(first)


def test_a_change_alters_one_shard_and_takes_over_the_others(tmp_path):
    def run(images: dict[str, bytes], previous: Path = tmp_path / "none") -> Path:
        folder = write_files(tmp_path / "mine", images)
        out = tmp_path / f"raw{len(list(tmp_path.iterdir()))}"
        out.mkdir()
        images = folder_images(folder, tmp_path / "files.csv")
        write_manifest(out, pack(images, out, previous, tmp_path / "shards.json", target=2000))
        return out

    images = {
        f"{label}/{number:03}.jpg": f"{label}{number}".encode() * 20
        for label in ["cat", "dog"]
        for number in range(100)
    }
    first = run(images)
    second = run({"dog/050.jpg": b"changed" * 17}, first)
    names = {path.name for path in first.glob("*.zip")}
    kept = names & {path.name for path in second.glob("*.zip")}
    assert len(names) > 5
    assert len(kept) == len(names) - 1
    for name in kept:
        assert (second / name).samefile(first / name)
    from_scratch = run({})
    assert {p.name: p.read_bytes() for p in second.iterdir()} == {
        p.name: p.read_bytes() for p in from_scratch.iterdir()
    }


def test_a_shard_that_someone_altered_is_written_anew(download, tmp_path):
    path = write_files(tmp_path / "mine", CATS_AND_DOGS)
    before = download(source="folder", path=path)
    shard = before.folder / before.rows[0]["shard"]
    shard.write_bytes(shard.read_bytes().replace(b"three", b"THREE"))
    assert download(source="folder", path=path).files == before.files


def test_a_file_is_read_again_when_it_may_have_changed(download, tmp_path):
    path = write_files(tmp_path / "mine", CATS_AND_DOGS)
    download(source="folder", path=path)
    for name, content in {"cat/1.jpg": b"eno", "dog/1.jpg": b"longer"}.items():
        (tmp_path / "mine" / name).write_bytes(content)  # one of the same size, at once
        assert download(source="folder", path=path).contents[name] == content


def test_equal_folders_give_equal_bytes(download, tmp_path):
    first = download(source="folder", path=write_files(tmp_path / "mine", CATS_AND_DOGS))
    again = dict(reversed(CATS_AND_DOGS.items()))
    second = download(source="folder", path=write_files(tmp_path / "yours", again))
    assert first.files == second.files


def test_odd_names_go_through(download, tmp_path):
    odd = {
        "cat/a b.jpg": b"1",
        'cat/it\'s "1", or 2.jpg': b"2",
        "cat/caf\u00e9 \u732b.jpg": b"3",
        "cat/new\nline.jpg": b"4",
        "cat/\x1b[31mred\u202egpj.jpg": b"5",
        "dog/caf\udce9.jpg": b"6",  # a name on disk that is not UTF-8
    }
    raw = download(source="folder", path=write_files(tmp_path / "mine", odd))
    assert raw.contents.pop(r"cat/new\x0aline.jpg") == b"4"
    assert raw.contents.pop(r"cat/\x1b[31mred\u202egpj.jpg") == b"5"
    assert raw.contents.pop(r"dog/caf\xe9.jpg") == b"6"
    assert raw.contents == {name: odd[name] for name in list(odd)[:3]}


def test_class_names_equal_to_the_eye_are_equal(download, tmp_path):
    files = {"train/caf\u00e9/1.jpg": b"1", "test/cafe\u0301/2.jpg": b"2", "train/dog/3.jpg": b"3"}
    raw = download(source="folder", path=write_files(tmp_path / "mine", files))
    assert set(raw.labels.values()) == {"caf\u00e9", "dog"}


def test_links_are_followed_once(download, tmp_path):
    write_files(tmp_path / "mine", CATS_AND_DOGS)
    (tmp_path / "mine" / "cat" / "3.jpg").symlink_to(tmp_path / "mine" / "dog" / "1.jpg")
    (tmp_path / "mine" / "dog" / "round").symlink_to(tmp_path / "mine")
    raw = download(source="folder", path=str(tmp_path / "mine"))
    assert raw.contents == CATS_AND_DOGS | {"cat/3.jpg": b"three"}


def test_a_broken_link_is_one_clear_line(download, tmp_path):
    write_files(tmp_path / "mine", CATS_AND_DOGS)
    (tmp_path / "mine" / "cat" / "3.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(UserError, match=r"cat/3.jpg is a broken link"):
        download(source="folder", path=str(tmp_path / "mine"))


def test_content_changed_behind_its_time_stamp_is_noticed(download, tmp_path, monkeypatch):
    monkeypatch.setattr("stages.sources.folder.CLOCK_STEP_NS", 0)  # the tests' photos are new
    path = write_files(tmp_path / "mine", CATS_AND_DOGS)
    download(source="folder", path=path)
    assert len((tmp_path / "data/.seen/files.csv").read_text().splitlines()) == 4
    photo = tmp_path / "mine/cat/1.jpg"
    before = photo.stat()
    with open(photo, "r+b") as file:  # in place: the same inode
        file.write(b"eno")
    os.utime(photo, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = photo.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (
        before.st_size,
        before.st_mtime_ns,
        before.st_ino,
    )
    assert download(source="folder", path=path).contents["cat/1.jpg"] == b"eno"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: b"\0" + text,
        lambda text: text[: len(text) // 2],
        lambda text: text + b"cat/3.jpg\n\n,,,,,,\n",
        lambda text: text.replace(b"cat/2.png", b"cat/\xff\xfe"),
        lambda text: text.replace(b"\n", b"\r"),
        lambda text: b'"' + text,
        lambda text: text + b"x" * 200_000,
        lambda text: text.translate(bytes.maketrans(b"0123456789abcdef", b"123456789abcdef0")),
        lambda text: text.replace(b",", b";"),
    ],
)
def test_a_damaged_memory_of_hashes_costs_reading_no_more(download, tmp_path, monkeypatch, damage):
    monkeypatch.setattr("stages.sources.folder.CLOCK_STEP_NS", 0)
    path = write_files(tmp_path / "mine", CATS_AND_DOGS)
    before = download(source="folder", path=path)
    seen = tmp_path / "data/.seen/files.csv"
    whole = seen.read_bytes()
    seen.write_bytes(damage(whole))
    assert download(source="folder", path=path).files == before.files
    assert seen.read_bytes() == whole


def test_a_memory_that_is_wrong_after_all_is_forgotten(download, tmp_path, monkeypatch):
    """As when the clock was set back: the next run reads every file."""
    monkeypatch.setattr("stages.sources.folder.CLOCK_STEP_NS", 0)
    path = write_files(tmp_path / "mine", CATS_AND_DOGS)
    download(source="folder", path=path)
    seen = tmp_path / "data/.seen/files.csv"
    lines = [line.split(",") for line in seen.read_text().splitlines()]
    lines[0][2] = "00" * 32
    lines[0][3] = f"{zlib.crc32(','.join(lines[0][:3]).encode()):08x}"
    seen.write_text("".join(",".join(line) + "\n" for line in lines))
    with pytest.raises(UserError, match=r"cat/1.jpg changed while it was read; run again"):
        download(source="folder", path=path)
    assert download(source="folder", path=path).contents == CATS_AND_DOGS


def test_a_photo_taken_away_while_photos_are_read_is_one_clear_line(download, tmp_path):
    files = {f"{c}/{n:03}.jpg": f"{c}{n}".encode() for c in ("cat", "dog") for n in range(50)}
    folder = write_files(tmp_path / "mine", files)
    images = folder_images(folder, tmp_path / "seen.csv")
    first = next(images)
    (tmp_path / "mine/cat/020.jpg").unlink()
    with pytest.raises(UserError, match=r"cat/020.jpg was taken away while the images were read"):
        list(images)
    (tmp_path / "mine/cat/000.jpg").unlink()
    with pytest.raises(UserError, match=r"cat/000.jpg was taken away while the images were read"):
        first.read()


def test_what_is_no_file_in_a_folder_is_named(download, tmp_path):
    path = write_files(tmp_path / "mine", CATS_AND_DOGS)
    odd = tmp_path / "mine/cat/caf\udce9\x1b.jpg"
    named = r"cat/caf\\xe9\\x1b.jpg is a broken link or no regular file; take it away"
    for make in (
        lambda: os.mkfifo(odd),
        lambda: odd.symlink_to(odd),
        lambda: odd.symlink_to("/dev/zero"),
        lambda: odd.symlink_to("nowhere"),
    ):
        make()
        with pytest.raises(UserError, match=named):
            download(source="folder", path=path)
        odd.unlink()


@pytest.mark.parametrize("source", ["archive", "csv", "parquet"])
def test_a_pipe_for_a_file_is_one_clear_line(download, tmp_path, source):
    os.mkfifo(tmp_path / "labels.csv")
    path = tmp_path if source == "csv" else tmp_path / "labels.csv"
    with pytest.raises(UserError, match=r"labels.csv"):
        download(source=source, path=str(path))


def test_a_file_larger_than_any_photo_is_refused_unread(download, tmp_path):
    path = write_files(tmp_path / "mine", CATS_AND_DOGS)
    with open(tmp_path / "mine/cat/3.jpg", "wb") as file:
        file.truncate(6 * 2**30)
    with pytest.raises(UserError, match=r"cat/3.jpg has 6,442,450,944 bytes, but no image has"):
        download(source="folder", path=path)
    (tmp_path / "mine/labels.csv").write_text("file,label\ncat/3.jpg,cat\ndog/1.jpg,dog\n")
    with pytest.raises(UserError, match=r"cat/3.jpg has 6,442,450,944 bytes, but no image has"):
        download(source="csv", path=path)
    with open(tmp_path / "mine/labels.csv", "wb") as file:
        file.truncate(6 * 2**30)
    with pytest.raises(UserError, match=r"labels.csv has 6,442,450,944 bytes, but no table"):
        download(source="csv", path=path)


@pytest.mark.parametrize(
    "suffix", ["heic", "HEIF", "tga", "psd", "dds", "icb", "vda", "vst", "bmp"]
)
def test_images_of_phones_and_drawing_programs_count(download, tmp_path, suffix):
    files = {f"cat/1.{suffix}": b"1", "dog/1.jpg": b"2"}
    path = write_files(tmp_path / "mine", files)
    assert download(source="folder", path=path).contents == files


def test_labels_may_come_from_file_names(download, tmp_path):
    files = {"train/cat.1.jpg": b"1", "train/dog.1.jpg": b"2", "test/dog_2.png": b"3"}
    settings = {"label_pattern": r"([a-z]+)[._]\d+\.\w+$"}
    by_folder = download(source="folder", path=write_files(tmp_path / "a", files), **settings)
    zipped = write_zip(tmp_path / "a.zip", files)
    for raw in (by_folder, download(source="archive", path=zipped, **settings)):
        assert raw.contents == files
        assert set(raw.labels.values()) == {"cat", "dog"}
        assert raw.splits["test/dog_2.png"] == "test"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_pattern": "("}, r"'\(' is not a regular expression"),
        ({"label_pattern": "x{99999999999999999999}"}, "is not a regular expression"),
        ({"label_pattern": "x", "source": "csv"}, "goes with source folder or archive, not csv"),
        ({"url": "https://[::1"}, r"url 'https://\[::1' is no address"),
        ({"url": "https://host:x/a.zip"}, "is no address"),
        ({"path": "a\0b"}, "NUL"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Download(**({"source": "archive"} | settings))


def test_a_failure_keeps_what_was_there(download, tmp_path):
    before = download(source="folder", path=write_files(tmp_path / "mine", CATS_AND_DOGS))
    write_files(tmp_path / "mine", {"stray.jpg": b"x"})
    with pytest.raises(UserError):
        download(source="folder", path=str(tmp_path / "mine"))
    assert Raw(before.folder).files == before.files


# Addresses


@pytest.fixture
def web(tmp_path):
    """The folder `web`, served at an address; `asked` lists the paths asked for."""
    folder, asked = tmp_path / "web", []
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield SimpleNamespace(folder=folder, url=f"http://127.0.0.1:{server.server_port}", asked=asked)
    server.shutdown()
    server.server_close()


def test_an_archive_is_fetched_once_and_linked(download, web):
    write_zip(web.folder / "photos.zip", CATS_AND_DOGS)
    sha256 = file_sha256(web.folder / "photos.zip")
    for _ in range(2):
        raw = download(source="archive", url=f"{web.url}/photos.zip?v=1", sha256=sha256)
        assert raw.contents == CATS_AND_DOGS
        assert (raw.folder / "photos.zip").stat().st_nlink == 2
    assert web.asked == ["/photos.zip?v=1"]


def test_several_archives_count_as_one_and_their_names_as_sides(download, web):
    write_zip(web.folder / "train.zip", CATS_AND_DOGS)
    write_tar(web.folder / "test.tar.gz", {"cat/1.jpg": b"five", "dog/1.jpg": b"six"}, "w:gz")
    raw = download(source="archive", url=[f"{web.url}/train.zip", f"{web.url}/test.tar.gz"])
    assert raw.contents["train/cat/1.jpg"] == b"one"
    assert raw.contents["test/cat/1.jpg"] == b"five"
    assert raw.splits["train/cat/1.jpg"] == "train"
    assert raw.splits["test/cat/1.jpg"] == "test"


def test_archives_of_one_name_are_told_apart_by_their_folders(download, web):
    for side in ["train", "test"]:
        (web.folder / side).mkdir()
        files = {name: side.encode() + content for name, content in CATS_AND_DOGS.items()}
        write_zip(web.folder / side / "images.zip", files)
    raw = download(source="archive", url=[f"{web.url}/{s}/images.zip" for s in ("train", "test")])
    assert raw.contents["test-images/cat/1.jpg"] == b"testone"
    assert raw.splits["test-images/cat/1.jpg"] == "test"
    assert raw.splits["train-images/cat/1.jpg"] == "train"


def test_archives_that_only_a_query_tells_apart_are_all_kept(download, web):
    """Served by a program, as get?id=1: the path of the address says nothing."""
    (web.folder / "get").mkdir()
    write_zip(web.folder / "get/index.html", CATS_AND_DOGS)  # what the server gives for get/
    urls = [f"{web.url}/get/?id={n}" for n in (1, 2)]
    raw = download(source="archive", url=urls)
    assert len(raw.rows) == 2 * len(CATS_AND_DOGS)


def test_an_archive_is_not_overwritten_by_the_manifest(download, web):
    write_zip(web.folder / "manifest.csv", CATS_AND_DOGS)
    raw = download(source="archive", url=f"{web.url}/manifest.csv")
    assert raw.contents == CATS_AND_DOGS
    assert "archive-manifest.csv" in raw.files


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("set/photos%20(1).zip?v=2", "photos (1).zip"),
        ("", "download"),
        ("a/..", "download"),
        ("%2e%2e%2fphotos.zip", "photos.zip"),
        ("a%00b%1b.zip", "a_b_.zip"),
        ("x" * 300, "x" * 100),
        ("..%5cphotos.zip", "photos.zip"),
    ],
)
def test_a_file_has_a_name_that_any_system_allows(path, name):
    assert file_name(f"https://host/{path}") == name


def test_an_own_archive_is_copied_for_it_may_change(download, tmp_path):
    raw = download(source="archive", path=write_zip(tmp_path / "a.zip", CATS_AND_DOGS))
    assert (tmp_path / "a.zip").stat().st_nlink == 1
    assert raw.contents == CATS_AND_DOGS


def test_a_table_with_its_images_is_fetched_as_an_archive(download, web):
    table = b"file,label\ncat/1.jpg,tabby\ndog/1.jpg,poodle\n"
    write_zip(web.folder / "set.zip", CATS_AND_DOGS | {"labels.csv": table})
    raw = download(source="csv", url=f"{web.url}/set.zip")
    assert raw.labels == {"cat/1.jpg": "tabby", "dog/1.jpg": "poodle"}


def test_a_wrong_checksum_is_one_clear_line(download, web, tmp_path):
    path = write_zip(web.folder / "a.zip", CATS_AND_DOGS)
    with pytest.raises(UserError, match=r"could not fetch .*/a.zip: has sha256 \w+, not 0000"):
        download(source="archive", url=f"{web.url}/a.zip", sha256="0" * 64)
    with pytest.raises(UserError, match=r"a.zip has sha256 \w+, not download.sha256 0000"):
        download(source="archive", path=path, sha256="0" * 64)


def test_parquet_files_are_fetched(download, web):
    for side in ["train", "test"]:
        (web.folder / side).mkdir()
        columns = {"image": [b"\x89PNG" + side.encode()] * 2, "label": ["cat", "dog"]}
        pq.write_table(pa.table(columns), web.folder / side / "0000.parquet")
    urls = [f"{web.url}/{side}/0000.parquet" for side in ["train", "test"]]
    raw = download(source="parquet", url=urls)
    assert raw.splits["test/0000/00000001.png"] == "test"
    assert raw.labels["train/0000/00000001.png"] == "dog"


# The stage


def test_an_experiment_in_a_copy_says_why_it_does_not_find_the_images(tmp_path, monkeypatch):
    copy = tmp_path / ".dvc/tmp/exps/standalone/tmp1"
    (copy / "data/inbox").mkdir(parents=True)
    (copy / "params.yaml").write_text("download: {source: folder}")
    monkeypatch.chdir(copy)
    with pytest.raises(UserError, match=r"data/inbox holds no images.*other download .*absolute"):
        stages.download.main()


def test_a_full_disk_is_one_clear_line_and_keeps_what_was_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("download: {source: folder, path: mine}")
    write_files(tmp_path / "mine", CATS_AND_DOGS)
    stages.download.main()
    before = Raw(tmp_path / "data/raw").files
    write_files(tmp_path / "mine", {"cat/3.jpg": b"new"})
    # The last file that the stage writes goes to a disk that is always full.
    (tmp_path / f"data/.seen/.shards.json.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(SystemExit) as stopped:
        run(stages.download.main)
    assert stopped.value.code == 1
    assert capsys.readouterr().err.startswith("error: the disk is full")
    assert Raw(tmp_path / "data/raw").files == before
