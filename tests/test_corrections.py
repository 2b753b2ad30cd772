"""Labels that people mended: a table by image id, for every source, that decodes nothing anew."""

import csv
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages import download, preprocess, split
from stages.errors import UserError

TABLE = Path("data/corrections.csv")
CLASSES = ("cat", "dog", "emu")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A project of 10 photos of each of three classes, gathered."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for name in CLASSES:
        Path("photos", name).mkdir(parents=True)
        for number in range(10):
            pixels = random.integers(0, 256, (9, 9, 3), np.uint8)
            Image.fromarray(pixels).save(f"photos/{name}/{number}.png")
    settings(source="folder", path="photos")
    download.main()
    return tmp_path


def settings(**values) -> None:
    sections = {"download": values, "preprocess": {"size": [8, 8], "color": "rgb"}}
    Path("params.yaml").write_text(json.dumps(sections))


def rows(path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def id_of(path: str) -> str:
    return next(row["id"] for row in rows("data/raw/manifest.csv") if row["path"] == path)


def write(*lines: str, header: str = "id,path,label,note") -> None:
    TABLE.write_text("\n".join([header, *lines, ""]), encoding="utf-8")


def said(capsys, stage) -> str:
    capsys.readouterr()
    stage.main()
    return capsys.readouterr().out


def contents(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def labels() -> dict[str, str]:
    return {row["path"]: row["label"] for row in rows("data/processed/index.csv")}


def test_labels_are_corrected_and_images_removed_without_decoding(photos, capsys):
    preprocess.main()
    before, raw = labels(), contents("data/raw")
    lines = [f"{id_of(f'cat/{number}.png')},,dog,really" for number in range(3)]
    write(*lines, f"{id_of('emu/0.png')},emu/0.png,-,blurred")
    assert said(capsys, preprocess) == (
        "29 images: 0 decoded, 29 reused; 3 labels corrected, 1 image removed\n"
    )
    after = labels()
    assert before.keys() - after.keys() == {"emu/0.png"}
    changed = {path for path, label in after.items() if label != before[path]}
    assert changed == {"cat/0.png", "cat/1.png", "cat/2.png"}
    assert contents("data/raw") == raw
    split.main()
    data = json.loads(Path("reports/data.json").read_text())
    assert data["corrections"] == {"relabelled": 3, "removed": 1, "unmatched": 0, "moved": 0}
    sides = [rows(f"data/splits/{side}.csv") for side in ("train", "val", "test")]
    assert [row["label"] for side in sides for row in side].count("dog") == 13


def test_corrected_bytes_are_those_from_scratch_and_taking_back_restores(photos, capsys):
    preprocess.main()
    before = contents("data/processed")
    write(f"{id_of('cat/0.png')},,dog,", f"{id_of('emu/0.png')},,-,")
    preprocess.main()
    corrected = contents("data/processed")
    for path in Path("data/processed").iterdir():
        path.unlink()
    preprocess.main()
    assert contents("data/processed") == corrected != before
    write()
    assert "1 decoded, 29 reused" in said(capsys, preprocess)
    assert contents("data/processed") == before


def test_what_is_in_an_archive_is_corrected_alike(photos):
    with zipfile.ZipFile("photos.zip", "w") as archive:
        for path in sorted(Path("photos").rglob("*.png")):
            archive.write(path, path.relative_to("photos"))
    settings(source="archive", path="photos.zip")
    download.main()
    write(f"{id_of('cat/0.png')},,dog,")
    preprocess.main()
    assert labels()["cat/0.png"] == "dog"


def test_a_removed_image_that_cannot_be_read_is_no_reject(photos):
    Path("photos/cat/broken.png").write_bytes(b"not an image")
    download.main()
    write(f"{id_of('cat/broken.png')},,-,")
    preprocess.main()
    assert rows("data/processed/rejects.csv") == []


def test_a_table_saved_by_a_spreadsheet_is_read(photos):
    text = f"note;Label;label;id\r\n;;dog;{id_of('cat/0.png')}\r\n"
    TABLE.write_bytes(b"\xef\xbb\xbf" + text.encode())
    preprocess.main()
    assert labels()["cat/0.png"] == "dog"


def test_a_correction_of_an_image_that_is_gone_is_counted_and_stops_nothing(photos, capsys):
    write(f"{id_of('cat/0.png')},cat/0.png,dog,", f"{id_of('cat/1.png')},cat/1.png,dog,")
    Path("photos/cat/1.png").unlink()
    download.main()
    line = said(capsys, preprocess)
    assert "1 label corrected, 1 correction of images that are not here" in line
    split.main()
    assert json.loads(Path("reports/data.json").read_text())["corrections"]["unmatched"] == 1


def test_a_renamed_photo_keeps_its_correction_and_it_is_said(photos, capsys):
    write(f"{id_of('cat/0.png')},cat/0.png,dog,")
    Path("photos/cat/0.png").rename("photos/cat/zero.png")
    download.main()
    assert "1 correction of images that have another path now" in said(capsys, preprocess)
    assert labels()["cat/zero.png"] == "dog"


def test_of_copies_of_a_file_the_one_with_the_path_is_meant(photos):
    copy = Path("photos/dog/copy.png")
    copy.write_bytes(Path("photos/cat/0.png").read_bytes())
    download.main()
    assert id_of("dog/copy.png").endswith("-2")
    write(f"{id_of('dog/copy.png')},dog/copy.png,-,no dog")
    preprocess.main()
    assert "dog/copy.png" not in labels()
    assert labels()["cat/0.png"] == "cat"
    Path("photos/cat/0.png").unlink()  # the copy is now the only one, and has another id
    download.main()
    preprocess.main()
    assert "dog/copy.png" not in labels()


def test_a_class_that_is_said_to_be_new_becomes_one(photos):
    write(f"{id_of('cat/0.png')},,new:puma,", f"{id_of('cat/1.png')},,puma,")
    preprocess.main()
    assert labels()["cat/1.png"] == "puma"
    assert json.loads(Path("data/processed/dataset.json").read_text())["classes"] == [
        *CLASSES,
        "puma",
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["{cat},,doog,"],
            r"line 2: no image is of class doog; did you mean dog\? A class of",
        ),
        (["{cat},,Dog,"], "no image is of class Dog; did you mean dog"),
        (
            ["{cat},,lion,"],
            "no image is of class lion; A class of your own begins with new:lion",
        ),
        (["{cat},,,"], "line 2, has no label; write the right class, or - to remove it"),
        (["{cat},,dog,", "{emu},,cat,", "{cat},,emu,"], "{cat} twice, in lines 2 and 4; remove"),
        (["1.23E+15,,dog,"], r"line 2: '1.23E\+15' is no id of an image.*spreadsheet"),
        (["{cat},,dog"], "line 2, has another number of fields"),
        (["{cat},,<b>bold</b>,"], "line 2: the class name '<b>bold</b>' has a <"),
        (["{cat}-2,cat/0.png,dog,", "{cat},,emu,"], "lines 2 and 3 are about the same image"),
    ],
)
def test_a_mistake_in_the_table_is_one_line_that_says_where(photos, lines, message):
    preprocess.main()
    before = contents("data/processed")
    ids = {"cat": id_of("cat/0.png"), "emu": id_of("emu/0.png")}
    write(*(line.format(**ids) for line in lines))
    with pytest.raises(UserError, match=message.format(**ids)) as error:
        preprocess.main()
    assert str(error.value).startswith("data/corrections.csv")
    assert "\n" not in str(error.value)
    assert contents("data/processed") == before


def test_a_table_without_the_columns_is_one_line(photos):
    write("cat/0.png,dog", header="path,class")
    with pytest.raises(UserError, match=r"needs one column 'id' but has path, class; its first"):
        preprocess.main()


def test_corrections_that_leave_a_single_class_are_refused(photos):
    write(*(f"{row['id']},,dog," for row in rows("data/raw/manifest.csv")))
    with pytest.raises(UserError, match=r"corrections.csv leaves a single class; a classifier"):
        preprocess.main()


def test_another_table_that_is_missing_is_one_line(photos):
    settings(source="folder", path="photos", corrections="mended.csv")
    with pytest.raises(UserError, match=r"mended.csv is missing; download.corrections names it"):
        preprocess.main()


def test_the_default_table_corrects_nothing():
    assert (Path(__file__).parent.parent / TABLE).read_text() == "id,path,label,note\n"
