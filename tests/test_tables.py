"""Images that a CSV table or a parquet file labels."""

import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from factory import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.errors import UserError
from stages.parameters.download import Columns
from stages.sources.parquet import parquet_files, parquet_images
from stages.sources.table import read_rows, table_entries, table_images

IMAGES = {"a.jpg": b"one", "b.jpg": b"two", "deep/c.jpg": b"three"}


@pytest.fixture
def folder(tmp_path):
    """A folder of images without a table."""
    for name, content in IMAGES.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(content)
    return tmp_path / "set"


def read(folder: Path, table: bytes, **columns):
    (folder / "labels.csv").write_bytes(table)
    return list(table_images(folder, "labels.csv", Columns(**columns), folder.parent / "seen.csv"))


def test_a_table_gives_file_label_split_and_group(folder):
    table = b"label,file,split,who,age\ncat,deep/c.jpg,Test,ann,1\ndog,a.jpg,,bob,2\n"
    first, second = read(folder, table, group="who")
    assert (first.path, first.label, first.split, first.group) == ("a.jpg", "dog", "", "bob")
    assert (second.path, second.label, second.split, second.group) == (
        "deep/c.jpg",
        "cat",
        "test",
        "ann",
    )
    assert second.read() == b"three"


@pytest.mark.parametrize(
    "table",
    [
        b"\xef\xbb\xbffile,label\r\na.jpg,cat\r\nb.jpg,dog\r\n",
        b'"file","label"\n"a.jpg","cat"\n"b.jpg","dog"\n',
        b"file;label\na.jpg;cat\nb.jpg;dog\n",
        b"file\tlabel\na.jpg\tcat\nb.jpg\tdog",
        b"file,label\n./a.jpg, cat \nb.jpg,dog\n\n",
        b"file,label\na.jpg,cat\nb.jpg,dog\na.jpg,cat\n",
    ],
    ids=["bom", "quotes", "semicolons", "tabs", "spaces", "double line"],
)
def test_tables_as_programs_write_them(folder, table):
    assert [(image.path, image.label) for image in read(folder, table)] == [
        ("a.jpg", "cat"),
        ("b.jpg", "dog"),
    ]


def test_quotes_may_hold_separators_and_line_ends(folder):
    (folder / 'x, "y".jpg').write_bytes(b"x")
    images = read(folder, b'file,label,note\n"x, ""y"".jpg","big, ""cat""","a\nb"\na.jpg,dog,\n')
    assert [(image.path, image.label) for image in images] == [
        ("a.jpg", "dog"),
        ('x, "y".jpg', 'big, "cat"'),
    ]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"", "has no column 'file' but none; set download.columns.file"),
        (b"name,label\na.jpg,cat\n", "has no column 'file' but 'name', 'label'"),
        (b"file,label\n", "names no images"),
        (b"file,label\na.jpg,cat\nb.jpg,cat\n", "has a single class, cat"),
        (b"file,label\na.jpg,cat\nz.jpg,dog\ny.jpg,dog\n", "2 files that are not there, .* y.jpg"),
        (b"file,label\na.jpg,cat\na.jpg,dog\n", "of a.jpg in line 2 cat and in line 3 dog"),
        (b"file,label\na.jpg,cat\nb.jpg,\n", "line 3, lacks a label"),
        (b"file,label\n,cat\nb.jpg,dog\n", "line 2, lacks its file"),
        (b"file,label\na.jpg,cat\nb.jpg\n", "line 3, has another number of fields"),
        (b"file,label\na.jpg,cat\nb.jpg,dog,x\n", "line 3, has another number of fields"),
        (b"file,label\n../a.jpg,cat\nb.jpg,dog\n", "line 2: ../a.jpg is not within the folder"),
        (b"file,label\n/etc/a.jpg,cat\nb.jpg,dog\n", "line 2: /etc/a.jpg is not within"),
        (b"file,label,split\na.jpg,cat,\nb.jpg,dog,tset\n", "line 3: split 'tset'; use train"),
        (b"file,label\na.jpg,cat\nb.jpg,c\xe9t\n", "line 3, is not UTF-8"),
        (b'file,label\na.jpg,"cat\n', "after line 1: unexpected end of data"),
        (b"file,label,label\na.jpg,cat,dog\nb.jpg,dog,dog\n", "has 2 columns 'label'"),
        (b"file,label\n" + b"x" * 300 + b".jpg,cat\nb.jpg,dog\n", "1 files that are not there"),
        (b"file,label\na.jpg,cat\nb\0.jpg,dog\n", r"not there, the first being b\\x00.jpg"),
        (b"file,label\na.jpg,cat\n\x1b.jpg,dog\n", r"not there, the first being \\x1b.jpg"),
        (b"file,label\na.jpg,cat\nb.jpg,d\0g\n", r"line 3: the class name 'd\\x00g' has"),
        (b"file,label\na.jpg,cat\nb.jpg,=1+1\n", "line 3: the class name '=1\\+1' begins"),
        (b"file,label\na.jpg,cat\nb.jpg,<b>\n", "line 3: the class name '<b>' has a <"),
    ],
)
def test_a_wrong_table_is_one_clear_line(folder, table, message):
    with pytest.raises(UserError, match=rf"labels\.csv.*{message}"):
        read(folder, table)


def test_absolute_paths_within_the_folder(folder, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(folder)
    for top in (folder, tmp_path / "link"):
        table = f"file,label\n{top}/deep/../a.jpg,cat\n{folder}/deep/c.jpg,dog\n".encode()
        (folder / "labels.csv").write_bytes(table)
        images = table_images(top, "labels.csv", Columns(), tmp_path / "seen.csv")
        assert [image.path for image in images] == ["a.jpg", "deep/c.jpg"]
    monkeypatch.chdir(tmp_path)
    images = table_images("set", "labels.csv", Columns(), tmp_path / "seen.csv")
    with pytest.raises(UserError, match=r"line 2: .*/link/a.jpg is not within the folder"):
        list(images)
    with pytest.raises(UserError, match=r"line 2: .*/settings/a.jpg is not within"):
        read(folder, f"file,label\n{folder}tings/a.jpg,cat\nb.jpg,dog\n".encode())


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.lists(st.text(st.sampled_from('ab.,;\t"\n\r\0 /\\=<\x1b\u202e'), max_size=20)).map(
            lambda lines: "\n".join(["file,label,split", *lines]).encode()
        ),
    )
)
def test_any_table_is_read_or_is_one_line(content):
    try:
        rows = read_rows(content, Columns(), "t.csv", ROOT)
    except UserError as error:
        rows, message = [], str(error)
    else:
        message = ""
    assert message.isprintable()
    assert [row.path for row in rows] == sorted(row.path for row in rows)
    assert all(row.label and not row.path.startswith(("/", "..")) for row in rows)


@pytest.mark.parametrize("columns", [{"group": "patient"}, {"split": "fold"}])
def test_a_column_asked_for_must_be_there(folder, columns):
    with pytest.raises(UserError, match=rf"set download\.columns\.{next(iter(columns))}"):
        read(folder, b"file,label\na.jpg,cat\nb.jpg,dog\n", **columns)


def test_a_missing_table_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match=r"labels\.csv does not exist; download.path and"):
        list(table_images(tmp_path, "labels.csv", Columns(), tmp_path / "seen.csv"))


def test_many_lines_are_read_in_order():
    lines = "".join(f"{n}.jpg,{n % 3}\n" for n in range(1000))
    rows = read_rows(f"file,label\n{lines}".encode(), Columns(), "t.csv")
    assert [row.path for row in rows] == sorted(f"{n}.jpg" for n in range(1000))


def test_table_and_images_may_lie_in_an_archive(tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in IMAGES.items():
            archive.writestr(f"set/{name}", content)
        archive.writestr("set/labels.csv", "file,label\ndeep/c.jpg,cat\na.jpg,dog\n")
    first, second = table_entries({"set.zip": path}, "set/labels.csv", Columns())
    assert (first.path, first.label, first.shard) == ("set/a.jpg", "dog", "set.zip")
    assert (second.path, second.label, second.member) == ("set/deep/c.jpg", "cat", second.path)
    with pytest.raises(UserError, match=r"set.zip holds no labels.csv"):
        table_entries({"set.zip": path}, "labels.csv", Columns())


# Parquet


def write_parquet(path: Path, columns: dict, metadata: dict | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    return path


def hub_file(path: Path, count: int = 4) -> Path:
    """A file as Hugging Face serves image sets."""
    images = [{"bytes": b"\x89PNG%d" % n, "path": f"{n}.png"} for n in range(count)]
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    labels = [n % 2 for n in range(count)]
    return write_parquet(path, {"image": images, "label": labels}, metadata)


def test_hub_files_name_their_classes_and_sides(tmp_path):
    files = {
        name: hub_file(tmp_path / name)
        for name in ["train-00000-of-00002.parquet", "validation-00000-of-00001.parquet"]
    }
    images = list(parquet_images(files, Columns()))
    assert [image.path for image in images] == sorted(image.path for image in images)
    assert images[1].path == "train-00000-of-00002/00000001/1.png"
    assert images[1].label == "dog"
    assert images[1].read() == b"\x89PNG1"
    assert [image.split for image in images] == ["train"] * 4 + ["val"] * 4


def test_sides_may_be_folders_of_parquet_files(tmp_path):
    for side in ["train", "test"]:
        hub_file(tmp_path / "set" / side / "0000.parquet")
    assert len(parquet_files(tmp_path / "set")) == 2
    files = {f"{side}/0000.parquet": tmp_path / "set" / side / "0000.parquet" for side in ["test"]}
    assert {image.split for image in parquet_images(files, Columns())} == {"test"}


def test_parquet_columns_are_chosen_by_name(tmp_path):
    columns = {
        "jpeg": [b"\xff\xd8one", b"\xff\xd8two"],
        "thumbnail": [b"x", b"y"],
        "species": ["cat", "dog"],
        "side": ["train", "TEST"],
        "animal": [7, 8],
    }
    file = write_parquet(tmp_path / "a.parquet", columns)
    names = Columns(file="jpeg", label="species", split="side", group="animal")
    first, second = parquet_images({"a.parquet": file}, names)
    assert (first.path, first.label, first.split, first.group) == (
        "a/00000000.jpg",
        "cat",
        "train",
        "7",
    )
    assert second.split == "test"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": [b"x"], "kind": ["cat"]}, "no column 'label' but 'image', 'kind'; set .*label"),
        ({"a": [b"x"], "b": [b"x"], "label": [1]}, "no column 'file' but 'a', 'b', 'label'"),
        ({"file": ["a.jpg"], "label": [1]}, "column 'file' does not hold image bytes"),
        ({"image": [b"x", None], "label": [1, 2]}, "row 1, has no image bytes"),
        ({"image": [b"x", b"y"], "label": [1, None]}, "row 1: None is no label"),
        ({"image": [b"x", b"y"], "label": ["cat", "cat"]}, "has a single class, cat"),
        ({"image": [b"x"], "label": [1], "split": ["tset"]}, "row 0: split 'tset'; use train"),
    ],
)
def test_a_wrong_parquet_file_is_one_clear_line(tmp_path, columns, message):
    file = write_parquet(tmp_path / "a.parquet", columns)
    with pytest.raises(UserError, match=rf"a\.parquet.*{message}"):
        list(parquet_images({"a.parquet": file}, Columns()))


def test_an_image_keeps_its_own_name_but_no_way_out(tmp_path):
    names = [
        "n01/a b.png",
        "../../etc/passwd",
        "C:\\x\\y.jpg",
        "/",
        None,
        "",
        "\x1b\u202e",
        "x" * 999,
    ]
    images = [{"bytes": b"\x89PNG%d" % n, "path": name} for n, name in enumerate(names)]
    columns = {"image": images, "label": ["cat", "dog"] * 4}
    file = write_parquet(tmp_path / "a.parquet", columns)
    paths = [image.path for image in parquet_images({"a.parquet": file}, Columns())]
    assert paths == [
        "a/00000000/n01/a b.png",
        "a/00000001/etc/passwd",
        "a/00000002/C:/x/y.jpg",
        "a/00000003.png",
        "a/00000004.png",
        "a/00000005.png",
        r"a/00000006/\x1b\u202e",
        "a/00000007/" + "x" * 255,
    ]
    assert paths == sorted(paths)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ([0, 1, -1], "row 2: -1 is no label"),
        ([0, 1, 2], "row 2: 2 is no label"),
        ([0.0, 1.0, 1.0], "row 0: 0.0 is no label"),
        ([False, True, True], "row 0: False is no label"),
        (["cat", "dog", "dog"], "row 0: cat is no label"),
        ([[0], [1], [1]], r"row 0: \[0\] is no label"),
    ],
)
def test_a_label_that_is_no_number_of_a_named_class(tmp_path, label, message):
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": {"names": ["c", "d"]}}}})}
    columns = {"image": [b"1", b"2", b"3"], "label": label}
    file = write_parquet(tmp_path / "a.parquet", columns, metadata)
    with pytest.raises(UserError, match=message):
        list(parquet_images({"a.parquet": file}, Columns()))


@pytest.mark.parametrize(
    "metadata",
    [
        b"\xff",
        b"null",
        b"[]",
        b'{"info": []}',
        b'{"info": {"features": {"label": {"names": {"0": "a"}}}}}',
        b'{"info": {"features": {"label": {"names": [1, 2]}}}}',
        b'{"info": {"features": {"label": [{"names": ["a"]}]}}}',
        b"[" * 100_000,
    ],
)
def test_metadata_of_another_shape_name_no_classes(tmp_path, metadata):
    columns = {"image": [b"1", b"2"], "label": [0, 1]}
    file = write_parquet(tmp_path / "a.parquet", columns, {"huggingface": metadata})
    images = parquet_images({"a.parquet": file}, Columns())
    assert [image.label for image in images] == ["0", "1"]


def test_labels_as_other_programs_write_them(tmp_path):
    for label, names in (
        ([b"cat", b"dog"], ["cat", "dog"]),
        ([True, False], ["True", "False"]),
        ([1.0, 2.0], ["1.0", "2.0"]),
        ([-1, 3], ["-1", "3"]),
    ):
        file = write_parquet(tmp_path / "a.parquet", {"image": [b"1", b"2"], "label": label})
        images = parquet_images({"a.parquet": file}, Columns(file="image"))
        assert [image.label for image in images] == names
    for label in ([b"caf\xe9", b"dog"], [float("nan"), 1.0], [None, "dog"]):
        file = write_parquet(tmp_path / "a.parquet", {"image": [b"1", b"2"], "label": label})
        with pytest.raises(UserError, match="row 0"):
            list(parquet_images({"a.parquet": file}, Columns(file="image")))


def test_bytes_deeper_than_one_level_are_no_images(tmp_path):
    columns = {"image": [{"bytes": {"bytes": b"1"}}, {"bytes": {"bytes": b"2"}}], "label": [1, 2]}
    file = write_parquet(tmp_path / "a.parquet", columns)
    with pytest.raises(UserError, match=r"no column 'file'"):
        list(parquet_images({"a.parquet": file}, Columns()))


def test_text_that_is_not_utf8_in_a_parquet_file_is_one_clear_line(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", {"image": [b"1", b"2"], "label": ["XXXX", "dog"]})
    file.write_bytes(file.read_bytes().replace(b"XXXX", b"\xff\xfe\xfd\xfc"))
    with pytest.raises(UserError, match=r"a.parquet is damaged .*fetch it again"):
        list(parquet_images({"a.parquet": file}, Columns()))


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_parquet_file_never_loses_an_image(tmp_path, data):
    path = hub_file(tmp_path / "a.parquet", 20)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        count = len(list(parquet_images({"a.parquet": path}, Columns())))
    except UserError:
        return
    assert count == 20


def test_a_parquet_file_that_unpacks_beyond_reason_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("stages.sources.parquet.LARGEST_HARMLESS", 2**20)
    images = pa.array([bytes(2**18 + n) for n in range(20)])
    columns = {"image": images, "label": pa.array([0, 1] * 10)}
    pq.write_table(
        pa.table(columns), tmp_path / "a.parquet", compression="zstd", use_dictionary=False
    )
    assert (tmp_path / "a.parquet").stat().st_size < 2**14
    with pytest.raises(UserError, match=r"a.parquet looks like a bomb: it unpacks to 5,"):
        list(parquet_images({"a.parquet": tmp_path / "a.parquet"}, Columns()))


def test_a_damaged_parquet_file_is_one_clear_line(tmp_path):
    path = hub_file(tmp_path / "a.parquet", 100)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"a.parquet is damaged or no parquet file"):
        list(parquet_images({"a.parquet": path}, Columns()))


@pytest.mark.parametrize("name", ["absent.parquet", "."])
def test_missing_parquet_files_are_one_clear_line(tmp_path, name):
    with pytest.raises(UserError, match=r"set download\.path or download\.url"):
        parquet_files(tmp_path / name)
