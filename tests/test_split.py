"""The split stage: who trains, who chooses, who judges, and what the data looks like."""

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stages import split
from stages.errors import UserError
from stages.files import INDEX_COLUMNS, REJECTS, REJECTS_COLUMNS
from stages.images.fingerprints import perceptual_hashes
from stages.parameters.pixels import Preprocessing
from stages.splits import EXTRA, LEFT_OUT, TEST, TRAIN, VAL
from stages.splits.near_duplicates import join
from stages.splits.plan import leaking, plan_sides, stratified
from stages.store.processed import Dataset
from stages.store.tables import encode, iterate, ranks, read_compact, words, write_table

ROOT = Path(__file__).parent.parent


def image(label, number, **more):
    """One line of the index: an image whose pixels no other number shares."""
    digest = f"{number:x}".zfill(32)
    values = {
        "id": f"{number:016x}",
        "path": f"{label}/{number:04d}.png",
        "label": label,
        "split": "",
        "group": "",
        "sha256": digest * 2,
        "shard": "images-00000.npy",
        "row": number,
        "pixels": digest,
        "perceptual": f"{hash(number) * 0x9E3779B97F4A7C15 % 2**64:016x}",
        "width": 32,
        "height": 24,
        "mode": "RGB",
        "format": "PNG",
        "bytes": 100,
    }
    return values | more


def images(count, classes=("cat", "dog"), start=0, **more):
    return [
        image(label, start + 10_000 * k + n, **more)
        for k, label in enumerate(classes)
        for n in range(count)
    ]


class Project:
    """A folder with processed images, where the split stage runs."""

    def __init__(self, folder):
        self.folder = folder

    def split(self, rows, rejects=(), pixels=None, **settings):
        """Run the stage; returns {side: set of paths}. `pixels` uint8 (n, 24, 32, 3) if asked."""
        processed = self.folder / "data/processed"
        processed.mkdir(parents=True, exist_ok=True)
        classes = sorted({row["label"] for row in rows})
        preprocessing = Preprocessing(size=[24, 32], color="rgb")
        Dataset(classes=classes, shape=(24, 32, 3), preprocess=preprocessing).save(processed)
        write_table(
            processed / "index.csv",
            INDEX_COLUMNS,
            [[r.get(c, 0) for c in INDEX_COLUMNS] for r in rows],
        )
        lines = [(*reject, "0" * 64) for reject in rejects]
        write_table(processed / REJECTS, REJECTS_COLUMNS, lines)
        if pixels is not None:
            np.save(processed / "images-00000.npy", pixels)
        text = json.dumps({"split": {"val": 0.1, "test": 0.2} | settings})
        (self.folder / "params.yaml").write_text(text, encoding="utf-8")
        split.main()
        path = {row["id"]: row["path"] for row in rows}
        return {
            side: {path[line["id"]] for line in self.table(f"data/splits/{side}.csv")}
            for side in ("train", "val", "test", "extra")
        }

    def table(self, name):
        with open(self.folder / name, encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def data(self):
        return json.loads((self.folder / "reports/data.json").read_text(encoding="utf-8"))


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


def sizes(sides):
    return {side: len(paths) for side, paths in sides.items()}


def per_class(paths):
    return Counter(path.split("/")[0] for path in paths)


def test_every_class_is_shared_out_exactly(project):
    sides = project.split(images(50) + images(20, ["emu"], start=50_000))
    assert per_class(sides["test"]) == {"cat": 10, "dog": 10, "emu": 4}
    assert per_class(sides["val"]) == {"cat": 5, "dog": 5, "emu": 2}
    assert per_class(sides["train"]) == {"cat": 35, "dog": 35, "emu": 14}
    assert sides["extra"] == set()


@pytest.mark.parametrize("method", ["stratified", "hash"])
def test_each_image_is_on_one_side_and_the_seed_decides_which(project, method):
    rows = images(100)
    first = project.split(rows, method=method, seed=4)
    assert sorted(p for paths in first.values() for p in paths) == [r["path"] for r in rows]
    assert project.split(rows, method=method, seed=4) == first
    assert project.split(rows, method=method, seed=5)["test"] != first["test"]


def test_splits_keep_the_order_of_the_images_and_their_labels(project):
    rows = images(20)
    project.split(rows)
    label = {row["id"]: row["label"] for row in rows}
    for side in ("train", "val", "test"):
        table = project.table(f"data/splits/{side}.csv")
        assert [line["label"] for line in table] == [label[line["id"]] for line in table]
        order = [list(label).index(line["id"]) for line in table]
        assert order == sorted(order)


def test_no_validation_share_gives_no_validation_images(project):
    sides = project.split(images(20), val=0.0)
    assert sizes(sides) == {"train": 32, "val": 0, "test": 8, "extra": 0}


def test_a_declared_test_set_is_the_test_set_and_val_is_a_share_of_the_rest(project):
    rows = images(50, split="train") + images(30, start=5_000, split="test")
    sides = project.split(rows)
    assert sides["test"] == {row["path"] for row in rows if row["split"] == "test"}
    assert sizes(sides) == {"train": 90, "val": 10, "test": 60, "extra": 0}


def test_a_declared_validation_set_takes_no_others(project):
    rows = images(50, split="train") + images(30, start=5_000, split="val")
    sides = project.split(rows)
    assert sides["val"] == {row["path"] for row in rows if row["split"] == "val"}
    assert sizes(sides) == {"train": 80, "val": 60, "test": 20, "extra": 0}


def test_images_declared_for_training_stay_there_while_others_have_no_side(project):
    declared = images(50, split="train")
    sides = project.split(declared + images(50, start=5_000))
    assert {row["path"] for row in declared} <= sides["train"]
    assert sizes(sides) == {"train": 170, "val": 10, "test": 20, "extra": 0}


def test_the_extra_set_takes_part_in_nothing_else(project):
    without = project.split(images(50))
    sides = project.split(images(50) + images(30, start=5_000, split="extra"))
    assert len(sides.pop("extra")) == 60
    del without["extra"]
    assert sides == without
    assert project.data()["images"]["extra"] == 60


@pytest.mark.parametrize("method", ["stratified", "hash"])
def test_identical_images_are_never_on_two_sides(project, method):
    rows = images(40)
    copies = [row | {"id": row["id"] + "-2", "path": row["path"] + ".copy"} for row in rows]
    sides = project.split(rows + copies, method=method)
    assert sum(map(len, sides.values())) == 160
    for paths in sides.values():
        assert {p for p in paths if p.endswith(".copy")} == {
            p + ".copy" for p in paths if not p.endswith(".copy")
        }
    assert project.data()["duplicates"]["identical"] == 80


def test_the_training_copy_of_a_declared_test_image_is_left_out_and_reported(project):
    rows = images(50, split="train") + images(30, start=5_000, split="test")
    copy = rows[3] | {"id": "copy-2", "path": "test/copy.png", "split": "test"}
    sides = project.split([*rows, copy])
    assert "test/copy.png" in sides["test"]
    assert not any(rows[3]["path"] in paths for paths in sides.values())
    assert project.data()["duplicates"]["left_out"] == 1
    (line,) = project.table("reports/data_issues.csv")
    assert (line["issue"], line["path"], line["other_path"], line["other_side"]) == (
        "left out",
        rows[3]["path"],
        "test/copy.png",
        "test",
    )


@pytest.mark.parametrize("twin", ["extra", "val"])
def test_training_never_sees_an_image_of_the_validation_or_the_extra_set(project, twin):
    rows = images(50)
    copy = rows[7] | {"id": "copy-2", "path": "copy.png", "split": twin}
    sides = project.split([*rows, copy])
    assert "copy.png" in sides[twin]
    assert not any(rows[7]["path"] in paths for paths in sides.values())


def test_the_same_pixels_under_two_classes_are_reported(project):
    rows = images(20)
    rows[-1]["pixels"] = rows[0]["pixels"]
    project.split(rows)
    assert project.data()["duplicates"]["conflicting_labels"] == 1
    (line,) = project.table("reports/data_issues.csv")
    assert (line["issue"], line["label"], line["other_label"]) == (
        "conflicting labels",
        "dog",
        "cat",
    )
    assert line["side"] == line["other_side"]


@pytest.mark.parametrize("method", ["stratified", "hash"])
def test_train_is_told_which_of_its_images_are_related(project, method):
    """Cross-validation that learns from one shot of a series and judges another flatters."""
    rows = images(30)
    for n, row in enumerate(rows):
        row["group"] = f"series {n // 4}" if n < 40 else ""
    rows += [image("dog", 99_000 + n, pixels=row["pixels"]) for n, row in enumerate(rows[-10:])]
    sides = project.split(rows, method=method)
    kin = {
        row["id"]: row["group"] or row["pixels"] for row in rows if row["path"] in sides["train"]
    }
    several = {name for name, count in Counter(kin.values()).items() if count > 1}
    table = project.table("data/splits/relatives.csv")
    assert {line["id"] for line in table} == {id for id, name in kin.items() if name in several}
    assert all(kin[line["id"]] == kin[line["first"]] for line in table)
    assert len({line["first"] for line in table}) == len(several)
    assert any(name.startswith("series") for name in several)
    assert any(not name.startswith("series") for name in several)


@pytest.mark.parametrize("group_by", [None, r"patient(\d+)", r"patient\d+"])
@pytest.mark.parametrize("method", ["stratified", "hash"])
def test_related_images_stay_on_one_side(project, method, group_by):
    rows = images(400)
    for n, row in enumerate(rows):
        row["path"] = f"{row['label']}/patient{n % 40}/{n}.png"
        row["group"] = "" if group_by else f"p{n % 40}"
    sides = project.split(rows, method=method, group_by=group_by, test=0.3)
    seen = [{path.split("/")[1] for path in paths} for paths in sides.values()]
    assert sum(map(len, seen)) == 40
    assert sum(map(len, sides.values())) == 800
    assert 140 <= len(sides["test"]) <= 340


def test_a_group_pattern_that_is_nowhere_found_is_one_clear_error(project):
    with pytest.raises(UserError, match=r"split\.group_by = 'ward.*none of the paths, e\.g\. cat"):
        project.split(images(20), group_by=r"ward(\d)")


def test_identical_images_of_two_groups_are_not_learned_from_and_judged_by(project):
    rows = images(100)
    for n, row in enumerate(rows):
        row["group"] = f"p{n}"
        row["pixels"] = rows[n % 100]["pixels"]
    sides = project.split(rows)
    pixels = {row["path"]: row["pixels"] for row in rows}
    seen = [{pixels[path] for path in paths} for paths in sides.values()]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 100
    assert project.data()["duplicates"]["left_out"] > 0


def test_with_hash_growth_moves_no_image(project):
    rows = images(200)
    before = project.split(rows, method="hash")
    after = project.split(images(300) + images(100, ["emu"], start=50_000), method="hash")
    for side in before:
        assert before[side] == after[side] & {row["path"] for row in rows}
    assert 0.1 < len(after["test"]) / 700 < 0.3


def test_copies_with_other_metadata_stay_together_and_are_not_lost(project):
    rows = images(60)
    for n, row in enumerate(rows):
        row["pixels"] = rows[n - n % 3]["pixels"]  # three files of every picture
    sides = project.split(rows)
    assert sum(map(len, sides.values())) == len(rows)
    pixels = {row["path"]: row["pixels"] for row in rows}
    assert sum(len({pixels[path] for path in paths}) for paths in sides.values()) == 40


@pytest.mark.parametrize("method", ["stratified", "hash"])
def test_processing_in_another_size_moves_no_image(project, method):
    rows = images(100)
    before = project.split(rows, method=method)
    smaller = [row | {"pixels": row["pixels"][::-1], "width": 16} for row in rows]
    assert project.split(smaller, method=method) == before


def test_with_hash_a_wider_validation_share_leaves_the_test_set_alone(project):
    narrow, wide = (project.split(images(200), method="hash", val=v) for v in (0.1, 0.3))
    assert narrow["test"] == wide["test"]
    assert narrow["val"] < wide["val"]


@pytest.mark.parametrize(
    ("count", "train", "val", "test"), [(2, 1, 0, 1), (3, 1, 1, 1), (5, 3, 1, 1), (7, 5, 1, 1)]
)
def test_few_photos_train_first_then_test_then_validate(project, count, train, val, test):
    sides = project.split(images(count), val=0.15, test=0.2)
    assert sizes(sides) == {"train": 2 * train, "val": 2 * val, "test": 2 * test, "extra": 0}
    assert per_class(sides["train"]) == {"cat": train, "dog": train}


def test_what_few_test_images_cannot_tell_is_said(project, capsys):
    project.split(images(5), val=0.15, test=0.2)
    note = (
        "2 test images: the 95 % interval of the accuracy will be at least 66 points wide, so add "
        "images, or go by cross-validation"
    )
    assert project.data()["notes"] == [note]
    assert capsys.readouterr().out.endswith(f"; {note}\n")
    project.split(images(100))
    assert project.data()["notes"] == []


def test_tiny_classes_beside_a_huge_one_train_and_what_is_not_tested_is_said(project):
    tiny = images(2, ["newt"], start=50_000) + images(1, ["owl"], start=60_000)
    sides = project.split(images(300, ["cat"]) + images(5, ["emu"], start=40_000) + tiny)
    assert per_class(sides["train"]) == {"cat": 210, "emu": 3, "newt": 1, "owl": 1}
    assert per_class(sides["val"]) == {"cat": 30, "emu": 1}
    assert per_class(sides["test"]) == {"cat": 60, "emu": 1, "newt": 1}
    assert project.data()["notes"] == [
        "1 of 4 classes without a test image, so nothing is known of how well they are told: owl"
    ]


def test_without_images_for_validation_it_is_said(project):
    project.split(images(2))
    assert project.data()["notes"][-1] == "no validation images, so nothing chooses the best epoch"
    project.split(images(2), val=0.0)
    assert len(project.data()["notes"]) == 1


def test_images_that_leave_none_to_test_are_one_error_and_earlier_splits_survive(project):
    project.split(images(20))
    before = project.table("data/splits/train.csv")
    with pytest.raises(UserError, match="no image is left to test: a class needs two") as caught:
        project.split(images(1))
    assert "\n" not in str(caught.value)
    assert project.table("data/splits/train.csv") == before


def test_classes_without_an_image_to_train_on_are_named_in_one_error(project):
    rows = images(20) + images(2, ["newt"], start=50_000, split="test")
    with pytest.raises(UserError, match=r"no image trains newt \(2 test\): every class needs one"):
        project.split(rows)


def test_three_images_are_enough_for_three_sides(project):
    sides = project.split(images(3))
    assert sizes(sides) == {"train": 2, "val": 2, "test": 2, "extra": 0}


def test_data_json_counts_images_and_bytes_by_class_and_side(project):
    rows = images(20) + images(10, ["emu"], start=50_000, bytes=7, mode="L", width=64)
    project.split(rows, rejects=[("a.jpg", "truncated: 3 bytes"), ("b.jpg", "truncated: 5 bytes")])
    data = project.data()
    assert data["images"] == {"total": 50, "train": 35, "val": 5, "test": 10}
    assert data["bytes"]["total"] == 4070
    assert data["classes"]["emu"] == {"train": 7, "val": 1, "test": 2, "bytes": 70}
    assert data["imbalance"] == {"largest": 20, "smallest": 10, "ratio": 2.0}
    assert data["modes"] == {"L": 10, "RGB": 40}
    assert data["width"] == {"smallest": 32, "median": 32, "largest": 64}
    assert data["rejects"] == {"total": 2, "truncated": 2}


def test_a_diff_of_data_json_shows_a_line_for_each_class_that_changed(project):
    classes = [f"class{n:02d}" for n in range(100)]
    project.split(images(10, classes))
    before = (project.folder / "reports/data.json").read_text().splitlines()
    project.split(images(10, classes) + images(3, ["class50"], start=9_000_000))
    after = (project.folder / "reports/data.json").read_text().splitlines()
    assert len(before) < 130
    changed = [line for line in after if line not in before and "class" in line]
    assert [line.split('"')[1] for line in changed] == ["class50"]


def test_the_stage_starts_without_tensorflow_or_scikit_learn():
    code = "import sys, stages.split; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "stages.split" in loaded
    assert not {"tensorflow", "keras", "sklearn", "matplotlib", "scipy"} & set(loaded)


def test_a_bad_pattern_is_a_mistake_in_params_yaml(project):
    with pytest.raises(UserError, match=r"split\.group_by: '\(' is not a regular expression"):
        project.split(images(20), group_by="(")


# Near-duplicates


def shades(count, seed=0):
    """Rows and pixels, uint8 (n, 24, 32, 3), of `count` pictures of two classes, and of a copy
    of each that was saved again."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 6, 8, 3), np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    noisy = np.clip(coarse + rng.integers(-2, 3, coarse.shape), 0, 255).astype(np.uint8)
    pixels = np.concatenate([coarse, noisy])
    rows = []
    for row, name in enumerate(perceptual_hashes(pixels)):
        label = ("cat", "dog")[row % 2]
        path = f"{label}/{row % count:04d}{'-again' if row >= count else ''}.png"
        rows.append(image(label, row + 1, row=row, perceptual=name, path=path))
    return rows, pixels


def test_the_stage_ends_with_one_line_of_what_came_in_and_went_out(project, capsys):
    rows, pixels = shades(100)
    sides = project.split(rows, pixels=pixels)
    counts = {name: len(paths) for name, paths in sides.items()}
    near = project.data()["duplicates"]["near_across_sides"]
    assert near > 20
    assert capsys.readouterr().out == (
        f"200 images: train {counts['train']}, val {counts['val']}, test {counts['test']}; "
        f"0 left out; 0 with conflicting labels; {near} near-duplicates on another side; "
        "0 worth a look (see reports/data_issues.csv)\n"
    )


@pytest.mark.parametrize("method", ["stratified", "hash"])
def test_together_no_near_duplicates_are_on_two_sides(project, method):
    rows, pixels = shades(100)
    sides = project.split(rows, pixels=pixels, method=method, near_duplicates="together")
    seen = [{path.replace("-again", "") for path in paths} for paths in sides.values()]
    assert sum(map(len, seen)) == 100
    found = project.data()["duplicates"]
    assert found["near_across_sides"] == 0
    if method == "stratified":
        assert found["left_out"] == 0
        assert sizes(sides) == {"train": 140, "val": 20, "test": 40, "extra": 0}
    else:
        assert found["left_out"] == 200 - sum(map(len, sides.values())) > 0


def test_together_changes_nothing_where_no_image_is_near_another(project):
    rows, pixels = shades(100)
    rows, pixels = rows[:100], pixels[:100]
    apart = project.split(rows, pixels=pixels)
    assert project.split(rows, pixels=pixels, near_duplicates="together") == apart


def test_together_with_hash_growth_moves_no_image_to_another_side(project):
    rows, pixels = shades(100)
    settings = {"method": "hash", "near_duplicates": "together"}
    before = project.split(rows[:100], pixels=pixels, **settings)
    after = project.split(rows, pixels=pixels, **settings)
    for side, paths in before.items():
        others = set().union(*(after[other] for other in after if other != side))
        assert not paths & others


def test_together_the_copy_of_a_declared_test_image_is_left_out_and_named(project):
    rows, pixels = shades(40)
    rows = [row | {"split": "test" if "again" in row["path"] else "train"} for row in rows]
    rows += images(20, split="train", start=5_000, row=0)
    sides = project.split(rows, pixels=pixels, near_duplicates="together")
    assert len(sides["test"]) == 40
    lines = project.table("reports/data_issues.csv")
    assert {(line["issue"], line["other_path"].replace("-again", "")) for line in lines} == {
        ("left out", row["path"]) for row in rows[:40]
    }


def test_together_groups_that_share_a_picture_stay_together(project):
    rows, pixels = shades(60)
    for n, row in enumerate(rows):
        row["group"] = f"p{n // 2}"  # pairs of neighbours: 0 and 1 of one, 0 and 1 again another
    sides = project.split(rows, pixels=pixels, near_duplicates="together")
    number = {row["path"]: n % 60 // 2 for n, row in enumerate(rows)}
    seen = [{number[path] for path in paths} for paths in sides.values()]
    assert sum(map(len, seen)) == 30
    assert sum(map(len, sides.values())) == 120


def test_conflicts_between_copies_come_first_then_leaks_then_twins(project):
    rows, pixels = shades(60)
    rows = [row | {"label": "cat"} for row in rows[:60]] + [rows[60] | {"label": "dog"}]
    twin = rows[3] | {"id": "twin", "path": "twin.png"}
    liar = rows[5] | {"id": "liar", "path": "liar.png", "label": "dog"}
    project.split([*rows, *images(9, ["dog"], start=500, row=0), twin, liar], pixels=pixels)
    lines = project.table("reports/data_issues.csv")
    kinds = [line["issue"] for line in lines]
    order = ["conflicting labels", "left out", "near-duplicate", "identical"]
    assert kinds == sorted(kinds, key=order.index)
    exact, near = lines[:2]
    assert {exact["path"], exact["other_path"]} == {"liar.png", rows[5]["path"]}
    assert exact["distance"] == "0.0000"
    assert {near["path"], near["other_path"]} == {rows[0]["path"], rows[60]["path"]}
    assert 0 < float(near["distance"]) < 0.01
    assert {near["label"], near["other_label"]} == {"cat", "dog"}
    assert [line["path"] for line in lines if line["issue"] == "identical"] == ["twin.png"]
    assert lines[-1]["side"] == lines[-1]["other_side"] != ""
    found = project.data()["duplicates"]
    assert (found["conflicting_labels"], found["near_conflicting_labels"]) == (1, 1)


@pytest.mark.parametrize("name", ["index.csv", "dataset.json", "rejects.csv"])
@pytest.mark.parametrize("content", [None, b"", b"\xff\x00"])
def test_a_missing_or_damaged_input_is_one_line(project, name, content):
    project.split(images(20))
    path = project.folder / "data/processed" / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="dvc repro preprocess"):
        split.main()
    assert len(project.table("data/splits/train.csv")) == 28


@pytest.mark.parametrize("path", ["=cmd|' /C calc'!A0", "\x1b[31mred.png", "a\u202eb.png"])
def test_paths_in_the_list_of_issues_are_safe_to_open(project, path):
    rows = images(20)
    rows[-1] |= {"pixels": rows[0]["pixels"], "path": path}
    project.split(rows)
    text = (project.folder / "reports/data_issues.csv").read_text(encoding="utf-8")
    assert not set("\x1b\u202e") & set(text)
    (line,) = project.table("reports/data_issues.csv")
    assert line["path"][0] not in "=+-@"


# Laws


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    test=st.sampled_from([0.1, 0.2, 0.33, 0.5]),
    val=st.sampled_from([0.0, 0.1, 0.25]),
    seed=st.integers(0, 2**32),
)
def test_stratified_shares_are_exact_and_a_class_is_on_all_sides_it_has_images_for(
    counts, test, val, seed
):
    strata = np.repeat(np.arange(len(counts)), counts)
    places = np.random.default_rng(seed).random(len(strata))
    shares = {TEST: test, VAL: val}
    sides = stratified(places, strata, np.ones(len(strata), int), shares)
    for k, count in enumerate(counts):
        found = {side: int((sides[strata == k] == side).sum()) for side in (TRAIN, VAL, TEST)}
        assert found[TRAIN] >= 1
        for side, share in shares.items():
            if count < (3 if side == VAL else 2):
                assert found[side] == 0
            elif share:
                room = count - (2 if val else 1)
                assert found[side] == min(max(1, int(count * share + 0.5)), room) or (
                    found[TRAIN] == 1
                )
            else:
                assert found[side] == 0


@st.composite
def pools(draw):
    """Images as a table, and the number that near-duplicates share: twins, groups, relatives."""
    count = draw(st.integers(12, 60))
    few = st.integers(0, count // 3)
    columns = {name: [] for name in ("path", "label", "split", "group", "sha256", "pixels")}
    near = []
    for n in range(count):
        twin = draw(st.one_of(st.just(n), few))
        group = draw(st.one_of(st.just(""), st.sampled_from("abcdef")))
        columns["path"].append(f"{n:03}.png")
        columns["label"].append("cat" if n % 2 else "dog")
        columns["split"].append(draw(st.sampled_from(["", "", "", "train", "test", "val"])))
        columns["group"].append(group)
        columns["sha256"].append((n * 7919 % 104729).to_bytes(32))
        columns["pixels"].append(twin.to_bytes(16))
        near.append(draw(st.one_of(st.just(n), few)))
    types = {"sha256": pa.binary(32), "pixels": pa.binary(16)}
    table = pa.table(
        {name: pa.chunked_array([pa.array(v, types.get(name))]) for name, v in columns.items()}
    )
    return table, np.array(near)


def plan(table, near, method, together, seed=0, val=0.1, test=0.2):
    try:
        return plan_sides(
            table,
            ["cat", "dog"],
            method=method,
            seed=seed,
            val=val,
            test=test,
            relatives=near if together else None,
        )
    except UserError:
        assume(False)  # a class without an image on a side


@settings(max_examples=80, deadline=None, derandomize=True)
@given(pool=pools(), method=st.sampled_from(["stratified", "hash"]), together=st.booleans())
def test_relatives_are_never_learned_from_and_judged_by(pool, method, together):
    table, near = pool
    sides = plan(table, near, method, together).sides
    kinds = [table["pixels"].to_pylist(), table["group"].to_pylist()]
    kinds += [near.tolist()] if together else []
    for names in kinds:
        homes = {}
        for name, side in zip(names, sides.tolist(), strict=True):
            if name != "" and side != LEFT_OUT:
                homes.setdefault(name, set()).add(side)
        assert all(len(where) == 1 for where in homes.values())


@settings(max_examples=80, deadline=None, derandomize=True)
@given(pool=pools(), together=st.booleans(), seed=st.integers(0, 9))
def test_by_hash_no_image_goes_to_another_side_when_images_come(pool, together, seed):
    table, near = pool
    table = table.set_column(2, "split", pa.chunked_array([pa.array([""] * len(table))]))
    half = len(table) // 2
    shares = {"val": 0.0, "test": 0.4}  # so that few draws leave a class without an image
    before = plan(table.slice(0, half), near[:half], "hash", together, seed, **shares).sides
    after = plan(table, near, "hash", together, seed, **shares).sides[:half]
    assert ((before == after) | (before == LEFT_OUT) | (after == LEFT_OUT)).all()


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    sides=st.lists(st.integers(-1, 3), min_size=1, max_size=40),
    data=st.data(),
)
def test_without_those_that_leak_no_twins_are_on_two_sides(sides, data):
    twins = np.array(data.draw(st.lists(st.integers(-1, 6), min_size=len(sides))))[: len(sides)]
    sides = np.array(sides, np.int8)
    left = sides.copy()
    left[leaking(sides, twins)] = LEFT_OUT
    for twin in set(twins.tolist()) - {-1}:
        homes = set(left[twins == twin].tolist()) - {LEFT_OUT}
        assert len(homes) <= 1 or homes == {TEST, EXTRA}
        if (sides[twins == twin] != LEFT_OUT).any():
            assert homes  # one stays
    assert (left[twins < 0] == sides[twins < 0]).all()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(pairs=st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30))
def test_joined_sets_are_the_connected_components_named_after_their_first(pairs):
    first = np.arange(20)
    for part in (pairs[::2], pairs[1::2]):  # in two steps, as chunks come
        left, right = np.array(part, int).reshape(-1, 2).T
        first = join(first, left, right)
    expected = [{k} for k in range(20)]
    for a, b in pairs:
        both = expected[a] | expected[b]
        for k in both:
            expected[k] = both
    assert first.tolist() == [min(members) for members in expected]


INDEX_LINES = """id,label,sha256,bytes
a,cat,{0},5
b,dog,{1},6
c,cat,{0},7
"""


def test_a_compact_table_says_the_same(tmp_path):
    path = tmp_path / "index.csv"
    path.write_text(INDEX_LINES.format("ff" * 32, "0a" * 32))
    table = read_compact(path, ["label", "sha256", "bytes"])
    digests = [bytes.fromhex(text) for text in ("ff" * 32, "0a" * 32, "ff" * 32)]
    assert table.to_pydict() == {
        "label": ["cat", "dog", "cat"],
        "sha256": digests,
        "bytes": [5, 6, 7],
    }
    assert list(iterate(table)) == list(zip(*table.to_pydict().values(), strict=True))
    numbers, names = encode(table["label"])
    assert (numbers.tolist(), names.to_pylist()) == ([0, 1, 0], ["cat", "dog"])
    assert ranks(table["sha256"]).tolist() == [1, 0, 1]


def test_an_empty_table_is_compact_too(tmp_path):
    path = tmp_path / "index.csv"
    path.write_text("id,sha256\n")
    table = read_compact(path, ["sha256"])
    assert len(table) == 0
    assert words(table["sha256"]).shape == (4, 0)


@pytest.mark.parametrize("digest", ["ff" * 31, "xy" * 32, "f " * 32, ""])
def test_what_is_no_digest_is_noticed(tmp_path, digest):
    path = tmp_path / "index.csv"
    path.write_text(INDEX_LINES.format("ff" * 32, digest))
    with pytest.raises(ValueError, match="hex"):
        read_compact(path, ["sha256"])


def test_digests_are_ranked_by_all_their_bytes():
    rng = np.random.default_rng(0)
    # Most agree in their first 8 bytes, many in all.
    digests = [bytes([n % 3]) * 24 + bytes(rng.integers(0, 3, 8).tolist()) for n in range(500)]
    column = pa.chunked_array([digests[:7], [], digests[7:]], pa.binary(32))
    expected = np.unique(np.array([digest.hex() for digest in digests]), return_inverse=True)[1]
    assert ranks(column).tolist() == expected.tolist()
    assert (
        ranks(column.slice(9)).tolist() == np.unique(expected[9:], return_inverse=True)[1].tolist()
    )
