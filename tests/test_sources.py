"""The download stage gathers images from folders and archives into data/raw."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from stages.errors import UserError
from stages.parameters.download import Download
from stages.sources import gather
from stages.store.atomic import replace_directory
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
        with replace_directory(target) as raw:
            downloads = tmp_path / "data" / "downloads"
            entries = gather(Download(**settings), raw, target, downloads, downloads / "seen.csv")
            write_manifest(raw, entries)
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
    def run(images: dict[str, bytes], previous):
        from stages.sources.folder import folder_images

        folder = Path(write_files(tmp_path / "mine", images))
        out = tmp_path / f"raw{len(list(tmp_path.iterdir()))}"
        out.mkdir()
        packed = pack(folder_images(folder, tmp_path / "seen.csv"), out, previous, target=2000)
        write_manifest(out, packed)
        return out

    images = {
        f"{label}/{number:03}.jpg": f"{label}{number}".encode() * 20
        for label in ["cat", "dog"]
        for number in range(100)
    }
    first = run(images, None)
    second = run({"dog/050.jpg": b"changed" * 17}, first)
    names = {path.name for path in first.glob("*.zip")}
    kept = names & {path.name for path in second.glob("*.zip")}
    assert len(names) > 5
    assert len(kept) == len(names) - 1
    for name in kept:
        assert (second / name).samefile(first / name)
    from_scratch = run({}, None)
    assert {p.name: p.read_bytes() for p in second.iterdir()} == {
        p.name: p.read_bytes() for p in from_scratch.iterdir()
    }
