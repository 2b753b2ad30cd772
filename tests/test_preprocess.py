"""The preprocess stage: raw images in, shards of equal-sized pixels and their index out."""

import hashlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

from stages import preprocess
from stages.errors import UserError
from stages.images import fingerprints, process, reuse
from stages.images.fingerprints import digests, perceptual_hashes
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


def test_all_that_is_wrong_is_said_at_once_and_every_reject_is_listed(project):
    files = {f"cat/{n}.png": png((n, 0, 0)) for n in range(20)}
    files |= {f"dog/{n}.png": b"no image" for n in range(4)}
    files |= {"owl/1.png": png((1, 1, 1)), "owl/2.png": b""}
    with pytest.raises(UserError) as caught:
        project(files)
    message = str(caught.value)
    assert "5 of 26 images cannot be read" in message
    assert "no image of dog can be read" in message
    assert "few images are left of owl (1)" in message
    assert "dog/0.png (not an image)" in message
    assert "data/.processed/rejects.csv lists all" in message
    rejects = read_table("data/.processed/rejects.csv")
    assert rejects["file"].to_pylist() == [*(f"dog/{n}.png" for n in range(4)), "owl/2.png"]
    assert rejects["reason"].to_pylist() == ["not an image"] * 4 + ["empty file"]


@pytest.mark.parametrize("first", [{}, {"0/old.png": png((9, 9, 9))}])
def test_what_a_failed_run_decoded_is_not_decoded_again(project, capsys, first):
    if first:
        project(first)
    files = FILES | first | {"10/broken.png": FILES["10/1.png"][:45]}
    with pytest.raises(UserError, match=r"1 of 2[12] images cannot be read"):
        project(files)
    capsys.readouterr()
    processed = project(files | {"2/new.png": png((200, 0, 200))}, max_rejects=0.2)
    assert f": 1 decoded, {20 + len(first)} reused, 1 rejected" in capsys.readouterr().out
    result = contents(processed)
    assert not Path("data/.processed").exists()
    shutil.rmtree(processed)
    project(files | {"2/new.png": png((200, 0, 200))}, max_rejects=0.2)
    assert contents(processed) == result


def test_damage_to_what_a_failed_run_decoded_is_noticed(project, small_shards, capsys):
    files = PHOTOS
    with pytest.raises(UserError):
        project(files)
    shard = next(Path("data/.processed").glob("*/images-00001.npy"))
    flip(shard, 200)
    with open(shard.parent / "journal", "r+b") as journal:
        journal.readline(), journal.readline()
        journal.write(b"garbage")
    capsys.readouterr()
    result = contents(project(files, max_rejects=0.2))
    assert "decoded, " in capsys.readouterr().out
    shutil.rmtree("data/processed")
    assert contents(project(files, max_rejects=0.2)) == result


def test_what_an_earlier_version_left_is_not_read(project, monkeypatch, capsys):
    with monkeypatch.context() as earlier:
        earlier.setattr(reuse, "FORMAT", None)
        earlier.setattr(reuse, "b64encode", lambda content: b"in another way")
        with pytest.raises(UserError):
            project(FILES | {"10/broken.png": b"no image"})
    capsys.readouterr()
    project(FILES)
    assert f": {len(FILES)} decoded" in capsys.readouterr().out


def test_what_a_killed_run_decoded_is_not_decoded_again(project, capsys):
    """A process is killed in the middle of its work; the next ends as if nothing had been."""
    files = {f"{'ab'[n % 2]}/{n}.jpg": jpeg(n, (640, 480)) for n in range(64)}
    expected = contents(project(files))
    shutil.rmtree("data/processed")
    environment = os.environ | {"PYTHONPATH": str(Path(preprocess.__file__).parent.parent)}
    command = [sys.executable, "-m", "stages.preprocess"]
    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    journal = Path("data/.processed/1/journal")
    while child.poll() is None and not (journal.exists() and b"facts" in journal.read_bytes()):
        time.sleep(0.001)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    capsys.readouterr()
    preprocess.main()
    out = capsys.readouterr().out
    assert int(re.search(r" (\d+) reused", out)[1]) > 0, out
    assert contents(Path("data/processed")) == expected


def test_a_class_none_of_whose_images_can_be_read_fails(project):
    with pytest.raises(UserError, match="no image of dog can be read"):
        project(FILES | {"dog/1.png": b"no", "dog/2.png": b"image"}, max_rejects=0.5)


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def jpeg(seed: int, size=(40, 30)) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


PHOTOS = {f"{'ab'[n % 2]}/{n:03}.jpg": jpeg(n) for n in range(60)}
PHOTOS["a/broken.jpg"] = PHOTOS["a/000.jpg"][:400]


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of about eight images, so that a handful of images fill several."""
    starts = process.shard_starts
    monkeypatch.setattr(process, "shard_starts", lambda h, shape: starts(h, shape, target=8 * 72))


def grow(files):
    return files | {f"b/new{n}.jpg": jpeg(1000 + n) for n in range(3)} | {"a/zero.jpg": b""}


def shrink(files):
    return {path: data for path, data in files.items() if not path.endswith("7.jpg")}


def relabel(files):
    moved = {path.replace("a/", "c/"): data for path, data in files.items() if "2" in path}
    return moved | {path: data for path, data in files.items() if "2" not in path}


def copy(files):
    return files | {"b/copy.jpg": files["a/004.jpg"], "a/broken again.jpg": files["a/broken.jpg"]}


@pytest.mark.parametrize(
    ("change", "decoded"), [(grow, 3), (shrink, 0), (relabel, 0), (copy, 0), (dict, 0)]
)
def test_a_change_costs_what_changed_and_ends_as_from_scratch(
    project, small_shards, capsys, change, decoded
):
    project(PHOTOS, max_rejects=0.2)
    capsys.readouterr()
    incremental = contents(project(change(PHOTOS), max_rejects=0.2))
    assert f" {decoded} decoded" in capsys.readouterr().out
    shutil.rmtree("data/processed")
    scratch = contents(project(change(PHOTOS), max_rejects=0.2))
    assert incremental == scratch
    assert sum(name.endswith(".npy") for name in scratch) > 3


def test_other_settings_decode_everything_anew(project, capsys):
    project(PHOTOS, max_rejects=0.2)
    capsys.readouterr()
    project(PHOTOS, max_rejects=0.2, resize="crop")
    assert "61 images: 60 decoded, 1 rejected" in capsys.readouterr().out


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)


def flip_pixels(processed):
    for row in (0, 3):
        flip(processed / "images-00000.npy", 128 + row * 72 + 7)


def swap_lines(processed):
    lines = (processed / "index.csv").read_text().splitlines(keepends=True)
    lines[1], lines[2] = lines[2], lines[1]
    (processed / "index.csv").write_text("".join(lines))


def reject_a_readable_image(processed):
    sha256 = read_table(processed / "index.csv")["sha256"][0].as_py()
    with open(processed / "rejects.csv", "a") as file:
        file.write(f"a/000.jpg,not an image,{sha256}\n")


def rewrite(name, change):
    def damage(processed):
        path = processed / name
        path.write_bytes(change(path.read_bytes()))

    return damage


FIRST = "images-00000.npy"
DAMAGE = {
    "pixels": (flip_pixels, r"; 2 damaged and decoded again$"),
    "a shard cut short": (rewrite(FIRST, lambda data: data[:-1]), r"damaged and decoded again$"),
    "a shard with more": (rewrite(FIRST, lambda data: data + b"x"), r"damaged and decoded again$"),
    "an empty shard": (rewrite(FIRST, lambda data: b""), r"damaged and decoded again$"),
    "no shard": (lambda processed: (processed / FIRST).unlink(), r"damaged and decoded again$"),
    "another shape": (
        rewrite(FIRST, lambda data: data.replace(b", 4, 6, 3)", b", 6, 4, 3)", 1)),
        r"damaged and decoded again$",
    ),
    "another count": (
        rewrite(FIRST, lambda data: data[:61].replace(b"(", b"(9", 1) + data[61:]),
        r"damaged and decoded again$",
    ),
    "no header": (rewrite(FIRST, lambda data: bytes(128) + data[128:]), r"decoded again$"),
    "an index cut short": (rewrite("index.csv", lambda data: data[:5000]), r"index.csv damaged"),
    "an index with lines swapped": (swap_lines, r"index.csv damaged"),
    "an index that is not text": (rewrite("index.csv", lambda data: b"\xff" * 99), r"index.csv"),
    "an index with NaN": (
        rewrite("index.csv", lambda data: data.replace(b"npy,1,", b"npy,NaN,")),
        r"index.csv damaged",
    ),
    "no index": (lambda processed: (processed / "index.csv").unlink(), r"index.csv damaged"),
    "a wrong reject": (reject_a_readable_image, r"rejects.csv damaged"),
    "no rejects": (rewrite("rejects.csv", lambda data: data[:20]), r"rejects.csv damaged"),
    "garbage in dataset.json": (rewrite("dataset.json", lambda data: data[9:]), r"dataset.json"),
    "another dataset.json": (rewrite("dataset.json", lambda data: b"[[]]"), r"dataset.json"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_what_is_reused_is_what_was_written(project, small_shards, capsys, what):
    processed = project(PHOTOS, max_rejects=0.2)
    expected = contents(processed)
    damage, said = DAMAGE[what]
    damage(processed)
    assert contents(processed) != expected
    capsys.readouterr()
    assert contents(project(PHOTOS, max_rejects=0.2)) == expected
    assert re.search(said, capsys.readouterr().out.strip())


def test_damage_in_a_shard_that_another_name_shares_is_noticed(project, small_shards):
    processed = project(PHOTOS, max_rejects=0.2)
    expected = contents(processed)
    os.link(processed / FIRST, "cache")  # as DVC's cache does
    flip(Path("cache"), 300)
    assert contents(project(PHOTOS, max_rejects=0.2)) == expected


@pytest.mark.parametrize(
    "what", ["a shard cut short", "no header", "no shard", "an index cut short"]
)
def test_a_stage_that_reads_damaged_images_says_so_in_one_line(project, what):
    processed = project(PHOTOS, max_rejects=0.2)
    index = read_table(processed / "index.csv")
    write_table(processed / "s.csv", ["id", "label"], [(index["id"][0], index["label"][0])])
    DAMAGE[what][0](processed)
    with pytest.raises(UserError, match=r"damaged.*dvc repro preprocess"):
        load_image_set(processed, processed / "s.csv")


def test_a_file_in_the_archive_that_is_not_the_one_named_ends_the_stage(project):
    project(FILES)
    archive = Path("data/raw/images.zip")
    data = archive.read_bytes()
    archive.write_bytes(data.replace(FILES["10/3.png"], FILES["10/4.png"]))
    shutil.rmtree("data/processed")
    with pytest.raises(UserError, match=r"data/raw/images\.zip is damaged.*10/3\.png"):
        preprocess.main()


def absent_member():
    manifest = Path("data/raw/manifest.csv")
    manifest.write_text(manifest.read_text().replace("images.zip,10/3.png", "images.zip,no.png"))


RAW_DAMAGE = {
    "absent": (lambda: shutil.rmtree("data/raw"), "manifest.csv is missing; the download stage"),
    "no archive": (
        lambda: Path("data/raw/images.zip").unlink(),
        r"images\.zip is missing; run dvc checkout",
    ),
    "no member": (absent_member, r"images\.zip is damaged .*1 of its files are gone"),
    "cut short": (
        lambda: rewrite("images.zip", lambda data: data[:1000])(Path("data/raw")),
        r"images\.zip is damaged",
    ),
    "empty manifest": (
        lambda: Path("data/raw/manifest.csv").write_bytes(b""),
        "manifest.csv is damaged",
    ),
    "wrong hash": (
        lambda: Path("data/raw/manifest.csv").write_text(
            re.sub("[0-9a-f]{64}", "xyz", Path("data/raw/manifest.csv").read_text())
        ),
        "manifest.csv is damaged",
    ),
    "manifest that is no text": (
        lambda: Path("data/raw/manifest.csv").write_bytes(b"\xff\0" * 99),
        "manifest.csv is damaged",
    ),
}


@pytest.mark.parametrize("what", RAW_DAMAGE)
@pytest.mark.parametrize("workers", [1, 2])
def test_raw_images_that_are_missing_or_damaged_end_in_one_line(
    project, monkeypatch, what, workers
):
    monkeypatch.setattr(process, "THREADS_FROM_BYTES", 0)
    before = contents(project(FILES, workers=workers))
    damage, message = RAW_DAMAGE[what]
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("[4, 6]", "[6, 6]"))
    damage()
    with pytest.raises(UserError, match=message):
        preprocess.main()
    assert contents(Path("data/processed")) == before


@pytest.mark.parametrize("kind", ["THREADS_FROM_BYTES", "PROCESSES_FROM_IMAGES"])
def test_any_number_of_workers_gives_the_same_bytes(project, small_shards, monkeypatch, kind):
    expected = contents(project(PHOTOS, max_rejects=0.2, workers=1))
    shutil.rmtree("data/processed")
    monkeypatch.setattr(process, kind, 0)  # makes so few images go to several workers
    monkeypatch.setattr(process, "BATCH_IMAGES", 5)
    assert contents(project(PHOTOS, max_rejects=0.2, workers=3)) == expected


def test_copies_of_a_file_are_decoded_once_and_share_their_pixels(project, capsys):
    processed = project(FILES | {"2/copy.png": FILES["10/3.png"]})
    assert "20 decoded, 1 copies" in capsys.readouterr().out
    rows = {r["path"]: r for r in read_table(processed / "index.csv").to_pylist()}
    one, other = rows["2/copy.png"], rows["10/3.png"]
    assert [one[k] for k in ("shard", "row", "pixels")] == [
        other[k] for k in ("shard", "row", "pixels")
    ]
    assert len(Pixels(processed)) == 20


def test_names_of_any_kind_come_through(project):
    names = ["ä ö/ünï 'quoted'.png", 'a b/"x", y.png', "日本/写真 1.png", "a b/line\nbreak.png"]
    files = {name: png((9 * n, 0, 0)) for n, name in enumerate(names)}
    assert read_table(project(files) / "index.csv")["path"].to_pylist() == sorted(names)


def test_shards_open_with_numpy_alone(project, small_shards):
    shards = [np.load(path) for path in sorted(project(PHOTOS, max_rejects=0.2).glob("*.npy"))]
    assert {(shard.dtype.name, *shard.shape[1:]) for shard in shards} == {("uint8", 4, 6, 3)}
    assert sum(map(len, shards)) == 60


def test_a_rerun_leaves_unchanged_shards_the_same_file(project, small_shards):
    before = {p.name: p.stat().st_ino for p in project(PHOTOS, max_rejects=0.2).glob("*.npy")}
    after = {p.name: p.stat().st_ino for p in project(PHOTOS, max_rejects=0.2).glob("*.npy")}
    assert after == before


def test_pixels_come_in_the_order_asked_for_and_into_the_array_given(project, small_shards):
    pixels = Pixels(project(PHOTOS, max_rejects=0.2))
    all_of_them = np.concatenate([np.load(path) for path in pixels.paths])
    for rows in ([5, 4, 59, 0, 1, 2, 59], list(range(60)), [], np.arange(60)[::-3]):
        out = np.empty((len(rows), 4, 6, 3), np.uint8)
        assert pixels.take(rows, out) is out
        assert np.array_equal(out, all_of_them[np.asarray(rows, int)])


def test_a_different_decoder_version_reuses_nothing(project, monkeypatch, capsys):
    project(PHOTOS, max_rejects=0.2)
    capsys.readouterr()
    monkeypatch.setattr(preprocess, "DECODER", "of tomorrow")
    project(PHOTOS, max_rejects=0.2)
    assert "61 images: 60 decoded, 1 rejected" in capsys.readouterr().out


def png16(low: int, high: int) -> bytes:
    values = np.linspace(low, high, 24).astype("<u2")
    buffer = io.BytesIO()
    Image.frombytes("I;16", (6, 4), values.tobytes()).save(buffer, "PNG")
    return buffer.getvalue()


def test_images_of_16_bits_that_come_out_nearly_flat_are_named_each_time(project, capsys):
    files = FILES | {"2/x1.png": png16(7301, 8206), "2/x2.png": png16(291, 694)}
    files["2/x3.png"] = png16(0, 65_535)
    for _ in range(2):  # decoded, then reused
        processed = project(files)
        said = capsys.readouterr().err
        assert said.startswith("warning: 2 images of 16 bits use less than 1/16 of their levels")
        assert "2/x1.png (906 of 65,536), 2/x2.png (404 of 65,536);" in said
        assert "preprocess.sixteen_bit: image" in said
    index = {row["path"]: row for row in read_table(processed / "index.csv").to_pylist()}
    assert [index[f"2/x{n}.png"]["levels"] for n in (1, 2, 3)] == [905, 403, 65_535]
    project(files, sixteen_bit="image")
    assert capsys.readouterr().err == ""


def test_the_decoder_is_named_after_its_source_and_libraries(tmp_path):
    source = Path(fingerprints.__file__).parent
    shutil.copytree(source, tmp_path / "images")
    assert fingerprints.name_decoder(tmp_path / "images") == fingerprints.DECODER
    assert f"Pillow {PIL.__version__}" in fingerprints.DECODER
    assert len(fingerprints.DECODER) < 100
    for name in fingerprints.SOURCES:
        with open(tmp_path / f"images/{name}.py", "a") as file:
            file.write("# a change\n")
        assert fingerprints.name_decoder(tmp_path / "images") != fingerprints.DECODER
        shutil.copy(source / f"{name}.py", tmp_path / "images")


def test_every_module_that_decoding_imports_is_in_the_name_of_the_decoder():
    """But for those that say what to reuse, and how to share the work out."""
    around = {"__init__", "process", "reuse"}
    modules = {path.stem for path in Path(fingerprints.__file__).parent.glob("*.py")}
    assert modules - around == set(fingerprints.SOURCES)


def test_equal_pixels_have_equal_digests_and_similar_ones_near_hashes():
    photo = np.kron(np.random.default_rng(0).integers(0, 200, (8, 8, 3)), np.ones((8, 8, 1)))
    photo = np.asarray(Image.fromarray(photo.astype(np.uint8)).resize((64, 64)))
    brighter, other = photo + 9, np.ascontiguousarray(photo[::-1])
    images = np.stack([photo, photo, brighter, other])
    first, second, third, fourth = digests(images)
    assert first == second
    assert len({second, third, fourth}) == 3
    hashes = [int(name, 16) for name in perceptual_hashes(images)]
    assert hashes[0] == hashes[1]
    assert (hashes[0] ^ hashes[2]).bit_count() <= 3
    assert (hashes[0] ^ hashes[3]).bit_count() > 15


def test_a_core_that_has_an_image_has_no_second_thread_for_its_sums(project, monkeypatch):
    from threadpoolctl import threadpool_info, threadpool_limits

    seen = []

    def watched(images):
        seen.extend(one["num_threads"] for one in threadpool_info())
        return perceptual_hashes(images)

    monkeypatch.setattr(process, "perceptual_hashes", watched)
    with threadpool_limits(2):
        project(PHOTOS, max_rejects=0.2, workers=2)
        after = {one["num_threads"] for one in threadpool_info()}
    assert set(seen) == {1}
    assert after == {2}
