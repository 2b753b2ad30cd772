"""The preprocess stage: raw images in, shards of equal-sized pixels and their index out."""

import io
import zipfile

import pytest
from PIL import Image

from stages import preprocess
from stages.errors import UserError
from stages.store.image_set import load_image_set
from stages.store.processed import Dataset, Pixels
from stages.store.raw import Entry, write_manifest
from stages.store.tables import read_table, write_table


def png(color) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), color).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A function that runs the stage on {path: bytes}, with settings, in a fresh project."""
    monkeypatch.chdir(tmp_path)

    def run(files: dict[str, bytes], **settings):
        import hashlib

        raw = tmp_path / "data/raw"
        raw.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(raw / "images.zip", "w") as archive:
            for path in sorted(files):
                archive.writestr(path, files[path])
        entries = [
            Entry(
                path,
                path.split("/")[0],
                "",
                "",
                hashlib.sha256(files[path]).digest(),
                "images.zip",
                path,
            )
            for path in sorted(files)
        ]
        write_manifest(raw, entries)
        lines = "".join(f"  {key}: {value}\n" for key, value in settings.items())
        (tmp_path / "params.yaml").write_text("preprocess:\n  size: [4, 6]\n  color: rgb\n" + lines)
        preprocess.main()
        return tmp_path / "data/processed"

    return run


FILES = {f"{c}/{n}.png": png((n * 20, 20 * c, 5)) for c in (2, 10) for n in range(10)}


def test_every_image_is_in_the_index_with_its_pixels(project):
    processed = project(FILES)
    index = read_table(processed / "index.csv")
    assert index["path"].to_pylist() == sorted(FILES)
    pixels = Pixels(processed)
    rows = pixels.rows(index["shard"].to_pylist(), index["row"].to_numpy())
    assert pixels.take(rows)[:, 0, 0, 0].tolist() == [n * 20 for n in range(10)] * 2


def test_classes_come_in_natural_order(project):
    assert Dataset.load(project(FILES)).classes == ["2", "10"]


def test_an_image_set_gives_the_images_a_split_names(project):
    processed = project(FILES)
    index = read_table(processed / "index.csv")
    ids, labels = index["id"].to_pylist(), index["label"].to_pylist()
    write_table(processed / "s.csv", ["id", "label"], [(ids[12], labels[12]), (ids[3], labels[3])])
    images = load_image_set(processed, processed / "s.csv")
    assert images.labels.tolist() == [0, 1]
    assert images.images()[:, 0, 0].tolist() == [[40, 40, 5], [60, 200, 5]]


def test_unreadable_images_are_listed_with_the_reason(project):
    files = FILES | {"10/broken.png": FILES["10/1.png"][:45], "10/empty.png": b""}
    processed = project(files, max_rejects=0.2)
    rejects = read_table(processed / "rejects.csv")
    assert rejects["file"].to_pylist() == ["10/broken.png", "10/empty.png"]
    assert rejects["reason"].to_pylist()[1] == "empty file"
    assert len(read_table(processed / "index.csv")) == len(FILES)


def test_too_many_unreadable_images_fail_in_one_line_and_keep_the_earlier_output(project):
    processed = project(FILES)
    before = {path.name: path.read_bytes() for path in processed.iterdir()}
    with pytest.raises(UserError, match=r"1 of 21 images cannot be read.*10/broken\.png \(trunc"):
        project(FILES | {"10/broken.png": FILES["10/1.png"][:45]}, max_rejects=0.01)
    assert {path.name: path.read_bytes() for path in processed.iterdir()} == before
