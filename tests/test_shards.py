"""Images are packed into shards by their own names and sizes, and taken over if unchanged."""

import hashlib
import json
import os
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.errors import UserError
from stages.store.names import printable
from stages.store.raw import RawImage, pack, read_images, read_manifest, write_manifest

TARGET = 1000


def image(path: str, content: bytes) -> RawImage:
    digest = hashlib.sha256(content).digest()
    return RawImage(path, "cat", "", "", len(content), digest, lambda: content)


def packed(
    files: dict[str, bytes], folder: Path, previous: Path, seen: Path
) -> dict[str, list[str]]:
    """Paths of the images by shard, as the manifest in `folder` lists them."""
    folder.mkdir()
    images = [image(path, files[path]) for path in sorted(files)]
    write_manifest(folder, pack(images, folder, previous, seen, TARGET))
    shards: dict[str, list[str]] = {}
    for row in read_manifest(folder).to_pylist():
        shards.setdefault(row["shard"], []).append(row["path"])
    return shards


# As of files: no path ends in a slash.
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).map(
    lambda name: printable(name.rstrip("/") or "x")
)
sets = st.dictionaries(names, st.binary(max_size=600), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(sets)
def test_what_is_packed_is_what_is_read(files):
    with TemporaryDirectory() as place:
        raw = Path(place, "raw")
        shards = packed(files, raw, Path(place, "none"), Path(place, "seen"))
        manifest = read_manifest(raw)
        paths = manifest["path"].to_pylist()
        assert paths == sorted(files)  # each image once, in order
        assert [path for shard in shards.values() for path in shard] == paths
        assert {paths[row]: content for row, content in read_images(raw, manifest)} == files
        for name, members in shards.items():
            with zipfile.ZipFile(raw / name) as archive:
                assert archive.namelist() == members
            sizes = [len(files[path]) for path in members]
            assert sum(sizes[:-1]) < 4 * TARGET


@settings(max_examples=60, deadline=None)
@given(sets, names, st.binary(max_size=600))
def test_one_image_more_or_less_changes_the_shards_beside_it_only(files, path, content):
    with TemporaryDirectory() as place:
        less = {name: data for name, data in files.items() if name != path}
        if not less:
            return
        more = less | {path: content}
        none, seen = Path(place, "none"), Path(place, "seen")
        before = packed(less, Path(place, "less"), none, seen)
        after = packed(more, Path(place, "more"), none, seen)
        changed = set(after) - set(before)
        gone = set(before) - set(after)
        assert any(path in after[name] for name in changed)
        # Where a shard ends by its size alone, the ends after it may shift too.
        sizes = [sum(len(more[p]) for p in s[:-1]) for s in (*before.values(), *after.values())]
        if max(sizes) < 3 * TARGET:
            assert len(changed) <= 2
            assert len(gone) <= 2


@pytest.fixture
def run(tmp_path):
    """Pack `FILES`, taking over what the last call packed; the folder."""
    folders = [tmp_path / "none"]

    def run() -> Path:
        folder = tmp_path / f"raw{len(folders)}"
        packed(FILES, folder, folders[-1], tmp_path / "seen.json")
        folders.append(folder)
        return folder

    return run


FILES = {f"{number:03}.jpg": bytes([number]) * 100 for number in range(100)}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_shard_damaged_without_a_trace_is_written_anew(run):
    first = run()
    expected = contents(first)
    shard = max(first.glob("*.zip"), key=os.path.getsize)
    content, status = bytearray(shard.read_bytes()), shard.stat()
    content[100] ^= 1
    shard.write_bytes(content)
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert shard.stat().st_ino == status.st_ino
    second = run()
    assert contents(second) == expected
    # A new file, so that the damage does not come with it; all others are the old files.
    same = [(second / path.name).samefile(path) for path in sorted(first.glob("*.zip"))]
    assert same.count(False) == 1
    assert contents(run()) == expected


def test_a_damaged_image_is_never_handed_on(run):
    folder = run()
    shard = min(folder.glob("*.zip"), key=os.path.getsize)
    whole = shard.read_bytes()
    manifest = read_manifest(folder)
    for at in range(0, len(whole), 7):
        content = bytearray(whole)
        content[at] ^= 255
        shard.write_bytes(content)
        try:
            read = {FILES_IN_ORDER[row]: data for row, data in read_images(folder, manifest)}
        except UserError:
            continue
        assert read == FILES
    shard.unlink()
    with pytest.raises(UserError, match=r"images-\w+.zip is missing; run dvc checkout"):
        list(read_images(folder, manifest))


FILES_IN_ORDER = sorted(FILES)


@pytest.mark.parametrize(
    "seen",
    [b"", b"[]", b"null", b'{"x": ', b"\xff\0", b"[" * 100_000, b'{"images-1.zip": "1"}'],
)
def test_a_memory_that_is_not_ours_is_no_memory(run, tmp_path, seen):
    expected = contents(run())
    (tmp_path / "seen.json").write_bytes(seen)
    assert contents(run()) == expected


def test_a_checksum_altered_in_the_memory_costs_a_shard_written_anew(run, tmp_path):
    expected = contents(run())
    known = json.loads((tmp_path / "seen.json").read_text())
    (tmp_path / "seen.json").write_text(json.dumps(dict.fromkeys(known, 1)))
    assert contents(run()) == expected
    assert json.loads((tmp_path / "seen.json").read_text()) == known
