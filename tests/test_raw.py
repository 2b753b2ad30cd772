"""The images of data/raw are read from its archives, by row of the manifest."""

import hashlib
import io
import tarfile
import zipfile
from typing import NamedTuple

import numpy as np
import pytest

from stages.files import MANIFEST_COLUMNS
from stages.store.raw import cut, read_images, read_manifest
from stages.store.tables import write_table

FILES = {f"cat/{number:02}.jpg": bytes([number]) * 1000 * number for number in range(20)}


def write_zip(path, compression):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)


def write_tar(path, mode):
    with tarfile.open(path, mode) as archive:
        for name, content in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.fixture(params=["stored", "deflated", "bzip2", "w", "w:gz", "w:xz"])
def raw(tmp_path, request):
    compression = {
        "stored": zipfile.ZIP_STORED,
        "deflated": zipfile.ZIP_DEFLATED,
        "bzip2": zipfile.ZIP_BZIP2,
    }
    if request.param in compression:
        write_zip(tmp_path / "images", compression[request.param])
    else:
        write_tar(tmp_path / "images", request.param)
    write_table(
        tmp_path / "manifest.csv",
        MANIFEST_COLUMNS,
        [
            ("id", name, "cat", "", "", hashlib.sha256(FILES[name]).hexdigest(), "images", name)
            for name in reversed(FILES)
        ],
    )
    return tmp_path


def test_every_row_comes_once_with_its_bytes(raw):
    manifest = read_manifest(raw)
    read = list(read_images(raw, manifest))
    paths = manifest["path"].to_pylist()
    assert {paths[row]: content for row, content in read} == FILES
    assert len(read) == len(FILES)


def test_chosen_rows_come_alone_in_the_order_of_the_archive(raw):
    manifest = read_manifest(raw)
    rows = [row for row, _ in read_images(raw, manifest, np.array([3, 17, 5]))]
    assert rows == [17, 5, 3]


@pytest.mark.parametrize(("size", "images", "shards"), [(300, 200_000, 12), (400_000, 2_000, 12)])
def test_a_shard_has_64_mebibytes_or_some_thousand_images(size, images, shards):
    class Image(NamedTuple):
        path: str
        size: int

    counts = [len(shard) for shard in cut(Image(f"{n:09}.jpg", size) for n in range(images))]
    assert sum(counts) == images
    assert shards / 2 < len(counts) < 2 * shards
    assert max(counts) <= 4 * images / shards * 1.1
