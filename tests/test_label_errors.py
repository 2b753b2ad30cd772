"""Suspected label errors: what is wrong comes first, on every side, and a clean set has few."""

import csv
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from training_workspace import make_workspace, pictures, set_parameters

from stages import evaluate, train
from stages.errors import UserError
from stages.inference import suspects
from stages.store.tables import write_table
from stages.training.self_confidence import SelfConfidence, label_losses

WRONG = {"train": [5, 50, 100], "val": [3, 40], "test": [2, 30]}  # positions
SIZES = {"train": 120, "val": 60, "test": 60}
CLASSES = 3
TRAIN = {"epochs": 16, "batch_size": 20, "precision": "float32"}
TRAIN["optimizer"] = {"learning_rate": 0.01}


def job(folder, wrong=(), **sections):
    """A small set split in three, the labels at the positions `wrong` of each side changed."""
    make_workspace(folder, SIZES["train"], SIZES["val"] + SIZES["test"], CLASSES, **sections)
    _, labels = pictures(sum(SIZES.values()), CLASSES)
    first = 0
    for side, count in SIZES.items():
        given = labels[first : first + count].copy()
        given[wrong[side] if wrong else []] += 1
        rows = [(f"{first + at:016x}", f"kind {label % CLASSES}") for at, label in enumerate(given)]
        write_table(folder / f"data/splits/{side}.csv", ("id", "label"), rows)
        first += count
    write_table(folder / "data/splits/extra.csv", ("id", "label"), [])
    (folder / "reports").mkdir()
    (folder / "reports/data.json").write_text('{"images": {}}')
    return folder


def run(folder):
    before = os.getcwd()
    os.chdir(folder)
    try:
        train.main()
        evaluate.main()
    finally:
        os.chdir(before)
    return read_suspects(folder)


def read_suspects(folder):
    with open(folder / "reports/label_suspects.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a job with wrong labels, and what was suspected."""
    folder = job(tmp_path_factory.mktemp("wrong") / "work", WRONG, train=TRAIN)
    return folder, run(folder)


def test_wrong_labels_of_all_sides_come_first_with_the_right_class(finished):
    _, rows = finished
    first = np.cumsum([0, *SIZES.values()])
    wrong = {
        (side, f"{start + at:016x}"): (start + at) % CLASSES
        for side, start in zip(SIZES, first, strict=False)
        for at in WRONG[side]
    }
    found = rows[: len(wrong)]
    assert {(row["side"], row["id"]) for row in found} == set(wrong)
    for row in found:
        right = wrong[row["side"], row["id"]]
        assert row["suggested"] == f"kind {right}"
        assert row["label"] == f"kind {(right + 1) % CLASSES}"
        assert row["path"] == f"{int(row['id'], 16)}.png"
        assert float(row["score"]) < suspects.LIMIT


def test_the_counts_are_among_the_scores(finished):
    folder, rows = finished
    counts = json.loads((folder / "reports/scores.json").read_text())["suspects"]
    assert counts == {side: sum(row["side"] == side for row in rows) for side in SIZES}


def test_neighbours_are_training_images_of_either_class_that_are_no_suspects(finished):
    _, rows = finished
    suspected = {row["id"] for row in rows}
    for row in rows:
        for column, name in (("nearest_given", "label"), ("nearest_suggested", "suggested")):
            at = int(row[column], 16)
            assert at < SIZES["train"]
            assert row[column] not in suspected
            assert f"kind {at % CLASSES}" == row[name]


def test_a_clean_set_names_hardly_any(tmp_path):
    assert len(run(job(tmp_path / "work", train=TRAIN))) <= 2


@pytest.fixture
def copied(finished, tmp_path, monkeypatch):
    """A copy of the finished job, and there."""
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    monkeypatch.chdir(folder)
    return folder


def test_the_list_has_an_end_and_the_count_has_not(finished, copied):
    set_parameters(copied, train=TRAIN, evaluate={"suspects": 2})
    evaluate.main()
    assert read_suspects(copied) == finished[1][:2]
    counts = json.loads((copied / "reports/scores.json").read_text())["suspects"]
    assert sum(counts.values()) == len(finished[1])


@pytest.mark.parametrize("damage", ["missing", "other images", "pickle"])
def test_what_train_left_of_other_images_or_damaged_is_refused(copied, damage):
    path = copied / "models/label_confidence.npy"
    path.unlink()
    if damage == "other images":
        np.save(path, np.ones(7, np.float32))
    elif damage == "pickle":
        np.save(path, np.array([None] * SIZES["train"]))
    with pytest.raises(UserError, match=r"label_confidence\.npy is .*dvc repro train"):
        evaluate.main()


def test_no_list_is_a_header(copied):
    set_parameters(copied, train=TRAIN, evaluate={"suspects": 0})
    evaluate.main()
    text = (copied / "reports/label_suspects.csv").read_text()
    assert text == "id,path,label,suggested,side,score,nearest_given,nearest_suggested\n"


def test_a_class_that_is_hard_throughout_is_not_suspected():
    labels = np.repeat([0, 1], 10)
    confidence = np.r_[np.full(10, 0.9), np.full(10, 0.1)]
    confidence[[3, 14, 15]] = 0.2, 0.02, 0.001
    found = suspects.find({"test": (labels, confidence)})
    assert [suspect.position for suspect in found] == [15, 3]


def test_sides_take_turns_in_proportion_to_their_size():
    random = np.random.default_rng(0)
    many, few = np.full(100, 0.5), np.full(10, 0.9)
    many[:10] = random.permutation(10) / 100
    few[:1] = 0.2
    sides = {"train": (np.zeros(100, int), many), "test": (np.zeros(10, int), few)}
    found = suspects.find(sides)
    assert [suspect.side for suspect in found[:2]] == ["train", "test"]
    scores = [suspect.score for suspect in found if suspect.side == "train"]
    assert len(scores) == 10
    assert scores == sorted(scores)


def test_what_is_unknown_is_no_suspect():
    confidence = np.array([np.nan, 0.9, 0.8, 0.01])
    found = suspects.find({"train": (np.zeros(4, int), confidence)})
    assert [suspect.position for suspect in found] == [3]


def test_the_nearest_is_the_one_in_the_most_similar_direction():
    features = np.array([[1.0, 0], [0, 3]])
    others = np.array([[0.5, 9], [8, 1], [1, 1], [0, 1]])
    labels = np.array([0, 0, 1, 1])
    found = suspects.nearest(features, np.array([0, 1]), others, labels)
    assert found.tolist() == [1, 3]
    assert suspects.nearest(features, np.array([2, 2]), others, labels).tolist() == [-1, -1]


def test_those_to_compare_with_are_bounded_and_of_the_classes_asked_for():
    labels = np.arange(9000) % 3
    found = suspects.candidates(labels, np.array([0, 2]), left_out=[0, 3])
    assert set(labels[found]) == {0, 2}
    assert not {0, 3} & set(found.tolist())
    assert 0.7 * suspects.CANDIDATES < len(found) <= suspects.CANDIDATES


def test_an_image_counts_by_its_share_in_a_mixture():
    logits, labels = tf.constant([[0.0, 2.0], [1.0, 0.0]]), tf.constant([0, 0])
    targets = tf.constant([[1.0, 0.0], [0.25, 0.75]])
    found = label_losses(logits, labels, targets)
    expected = np.log(1 + np.exp([2.0, -1.0]))
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-6)
    np.testing.assert_array_equal(found[:, 1], [1, 0.25])
    kept = SelfConfidence(3)
    for part in (found, found[::-1]):  # each image once in each place
        kept.add(np.array([0, 1]), part)
    mean = np.exp(-(expected @ [1, 0.25]) / 1.25)
    np.testing.assert_allclose(kept.mean, [mean, mean, np.nan], rtol=1e-6)


def test_one_output_has_the_losses_of_two():
    logit, labels = tf.constant([[1.5], [-0.5]]), tf.constant([1, 1])
    both, targets = tf.concat([-logit / 2, logit / 2], axis=1), tf.one_hot(labels, 2)
    np.testing.assert_allclose(
        label_losses(logit, labels, targets), label_losses(both, labels, targets), rtol=1e-6
    )
