import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics as sk

from stages.metrics import curves, scores
from stages.metrics.scores import (
    expected_calibration_error,
    hardest_and_easiest,
    most_confident_mistakes,
    reliability,
)


def predictions(n=500, classes=4, seed=0):
    """Labels, and probabilities that are right more often than not."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels]
    exps = np.exp(logits)
    return labels, (exps / exps.sum(axis=1, keepdims=True)).astype(np.float32)


def test_accuracy_comes_with_its_wilson_interval_and_count():
    # Wilson 1927 for 383 of 400, worked by hand: centre .9532, half-width .0201.
    assert scores.accuracy(383, 400) == {
        "accuracy": 0.9575,
        "accuracy_low": pytest.approx(0.9331, abs=5e-4),
        "accuracy_high": pytest.approx(0.9732, abs=5e-4),
        "count": 400,
    }


@pytest.mark.parametrize("count", [1, 7, 153, 10_000])
def test_the_interval_is_the_one_of_scipy(count):
    for correct in {0, 1, count // 2, count - 1, count}:
        expected = binomtest(correct, count).proportion_ci(0.95, method="wilson")
        found = scores.accuracy(correct, count)
        interval = found["accuracy_low"], found["accuracy_high"]
        assert interval == pytest.approx(tuple(expected), abs=1e-6)


def test_a_perfect_score_still_has_an_interval_below_one():
    perfect = scores.accuracy(10, 10)
    assert perfect["accuracy_high"] == 1.0
    assert perfect["accuracy_low"] == pytest.approx(0.7225, abs=5e-4)


def test_scores_of_six_images_worked_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 2])
    probabilities = np.array(
        [
            [0.80, 0.10, 0.10],
            [0.50, 0.40, 0.10],
            [0.10, 0.70, 0.20],  # taken for 1; what it is comes third
            [0.15, 0.60, 0.25],
            [0.20, 0.30, 0.50],  # taken for 2; what it is comes second
            [0.30, 0.10, 0.60],
        ],
        np.float32,
    )
    expected = {
        "count": 6,
        "accuracy": 4 / 6,
        "top2_accuracy": 5 / 6,
        # Class 0: 2 of 3 found, 2 of 2 predictions right; 1: 1 of 2 and 1 of 2; 2: 1 of 1, 1 of 2.
        "balanced_accuracy": (2 / 3 + 1 / 2 + 1) / 3,
        "recall_macro": (2 / 3 + 1 / 2 + 1) / 3,
        "recall_weighted": (3 * 2 / 3 + 2 * 1 / 2 + 1 * 1) / 6,
        "precision_macro": (1 + 1 / 2 + 1 / 2) / 3,
        "precision_weighted": (3 * 1 + 2 * 1 / 2 + 1 * 1 / 2) / 6,
        "f1_macro": (4 / 5 + 1 / 2 + 2 / 3) / 3,
        "f1_weighted": (3 * 4 / 5 + 2 * 1 / 2 + 1 * 2 / 3) / 6,
        "loss": -np.log(0.8 * 0.5 * 0.1 * 0.6 * 0.3 * 0.6) / 6,
        # Pairs of an image of the class and another one in which the former has the higher score:
        # 6 of 9, 5 of 8, 5 of 5.
        "roc_auc": (6 / 9 + 5 / 8 + 5 / 5) / 3,
        # Sorted by score, images of the class come at the places 1, 2, 6; at 2, 4; at 1.
        "average_precision": ((1 / 1 + 2 / 2 + 3 / 6) / 3 + (1 / 2 + 2 / 4) / 2 + 1 / 1) / 3,
        # Squared distances of each image's probabilities from the truth, halved.
        "brier": (0.06 + 0.42 + 1.34 + 0.245 + 0.78 + 0.26) / 2 / 6,
    }
    found = scores.score(labels, probabilities, top_k=2)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=2e-6)


def test_two_classes_give_the_familiar_binary_scores():
    labels, probabilities = predictions(classes=2)
    found = scores.score(labels, probabilities, top_k=3)
    assert found["roc_auc"] == pytest.approx(
        sk.roc_auc_score(labels, probabilities[:, 1]), abs=1e-6
    )
    assert found["brier"] == pytest.approx(np.mean((probabilities[:, 1] - labels) ** 2), abs=1e-6)
    assert not any(name.startswith("top") for name in found)  # one of two is no news


def test_a_class_without_images_is_left_out_of_the_areas_and_of_the_means(recwarn):
    labels, probabilities = predictions(classes=3)
    without_images = np.concatenate([probabilities, np.zeros((len(labels), 1))], axis=1)
    assert scores.score(labels, without_images) == scores.score(labels, probabilities, 3) | {
        "top3_accuracy": 1.0
    }
    assert not recwarn.list


def test_one_class_alone_has_no_areas():
    labels, probabilities = np.zeros(5, int), np.full((5, 2), 0.5, np.float32)
    assert "roc_auc" not in scores.score(labels, probabilities)


def test_scores_are_plain_numbers_that_json_can_hold():
    kinds = {type(value) for value in scores.score(*predictions()).values()}
    assert kinds == {int, float}


def test_scores_of_each_class_by_name():
    labels = np.array([0, 0, 0, 1])
    probabilities = np.array([[0.8, 0.2, 0], [0.7, 0.3, 0], [0.4, 0.6, 0], [0.1, 0.9, 0]])
    cat, _, eel = scores.score_classes(labels, probabilities, ["cat", "dog", "eel"])
    assert cat == ("cat", 1.0, 0.666667, 0.8, 3, 1.0, 1.0)
    assert eel == ("eel", 0.0, 0.0, 0.0, 0, None, None)


def test_the_weakest_classes_are_those_with_images_and_the_lowest_f1():
    found = [scores.ClassScore(name, 0, 0, f1, support, None, None) for name, f1, support in ROWS]
    assert [score.name for score in scores.weakest_classes(found, 2)] == ["bad", "fair"]
    perfect = [score._replace(f1=1.0) for score in found]
    assert scores.weakest_classes(perfect) == []  # a perfect class is not weak


ROWS = [("good", 0.9, 5), ("absent", 0.0, 0), ("bad", 0.1, 5), ("fair", 0.5, 5), ("so", 0.5, 1)]


def test_the_headline_has_the_interval_as_a_list_and_no_more_than_its_figures():
    test = scores.score(*predictions()) | {"base_rate": 0.25}
    figures = {"test": test, "val": test, "model": {"parameters": 3, "bytes": 12}}
    shown = scores.headline(figures)
    assert list(shown) == ["test", "val", "model"]
    assert shown["test"]["accuracy"] == test["accuracy"]
    assert shown["test"]["accuracy_interval"] == [test["accuracy_low"], test["accuracy_high"]]
    assert {"loss", "f1_macro", "top3_accuracy", "ece", "count", "base_rate"} <= shown[
        "test"
    ].keys()
    assert shown["val"] == {"accuracy": test["accuracy"], "count": 500}
    assert sum(map(len, shown.values())) <= 15


def test_calibration_error_is_the_mean_gap_between_confidence_and_accuracy():
    confidence = np.array([0.9, 0.9, 0.9, 0.9, 0.55, 0.55])
    correct = np.array([True, True, False, False, True, False])
    assert expected_calibration_error(correct, confidence) == pytest.approx(
        (4 * 0.4 + 2 * 0.05) / 6
    )
    bins = reliability(correct, confidence)
    assert bins["count"].tolist() == [2, 4]
    assert bins["accuracy"].tolist() == [0.5, 0.5]


def test_full_confidence_falls_into_the_last_bin():
    bins = reliability(np.array([True]), np.array([1.0]))
    assert (bins["high"].tolist(), bins["count"].tolist()) == ([1.0], [1])


def test_confusion_table_lists_the_diagonal_and_then_the_confusions():
    columns, rows = curves.confusion_table(
        np.array([0, 0, 0, 1]), np.eye(3)[[0, 0, 1, 1]], ["cat", "dog", "eel"]
    )
    assert columns == ["actual", "predicted", "count", "percent_of_actual", "percent_of_predicted"]
    assert rows == [
        ("cat", "cat", 2, 66.67, 100),
        ("dog", "dog", 1, 100, 50),
        ("eel", "eel", 0, 0, 0),
        ("cat", "dog", 1, 33.33, 50),
    ]


@pytest.mark.parametrize(("table", "area"), [("roc", "roc_auc"), ("precision_recall", None)])
def test_thinned_curves_keep_the_area(table, area):
    labels, probabilities = predictions(n=5000)
    _, rows = getattr(curves, f"{table}_table")(labels, probabilities, list("abcd"))
    x, y = np.array([row[1:] for row in rows if row[0] == "b"]).T
    assert len(x) <= curves.POINTS + 2
    roc_auc, average_precision = scores.one_vs_rest_areas(labels == 1, probabilities[:, 1])
    assert sk.auc(x, y) == pytest.approx(roc_auc if area else average_precision, abs=2e-3)


def test_precision_and_recall_end_where_every_image_of_the_class_is_found():
    labels = np.array([0, 0, 1, 1, 1, 1])
    scored = np.array([0.9, 0.8, 0.7, 0.3, 0.2, 0.1])
    probabilities = np.column_stack([scored, 1 - scored])
    _, rows = curves.precision_recall_table(labels, probabilities, ["a", "b"])
    assert [row[1:] for row in rows if row[0] == "a"] == [(0, 1), (0.5, 1), (1, 1)]
    assert {row[2] for row in rows if row[0] == curves.MEAN} == {1}


def test_with_many_classes_the_weakest_and_the_mean_are_drawn():
    labels, probabilities = predictions(n=4000, classes=40)
    names = [f"class {k}" for k in range(40)]
    _, rows = curves.roc_table(labels, probabilities, names)
    drawn = list(dict.fromkeys(row[0] for row in rows))
    assert drawn[0] == curves.MEAN
    areas = [sk.roc_auc_score(labels == k, probabilities[:, k]) for k in range(40)]
    assert set(drawn[1:]) == {names[k] for k in np.argsort(areas)[: curves.CURVES - 1]}


def test_most_confident_mistakes_come_first():
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.95, 0.05], [0.4, 0.6]])
    assert most_confident_mistakes(labels, probabilities).tolist() == [2, 1]
    assert most_confident_mistakes(labels, probabilities, 1).tolist() == [2]


def test_hardest_images_have_the_least_probability_of_what_they_are():
    labels = np.array([0, 0, 0, 1])
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.4, 0.6]])
    (hardest, easiest), (only, none) = hardest_and_easiest(labels, probabilities, 2, 1)
    assert (hardest.tolist(), easiest.tolist()) == ([1], [0])
    assert (only.tolist(), none.tolist()) == ([3], [])


def test_scores_do_without_what_takes_long_to_import_and_what_needs_it_gets_it():
    code = """
import sys
import numpy as np
from stages.metrics import curves, scores

labels, probabilities, classes = np.arange(9) % 3, np.random.default_rng(0).random((9, 3)), [*"abc"]
scores.score(labels, probabilities)
scores.score_classes(labels, probabilities, classes)
scores.report(labels, probabilities.argmax(axis=1), classes)
for table in curves.TABLES.values():
    table(labels, probabilities, classes)
print("sklearn" in sys.modules, "scipy.stats" in sys.modules)
from sklearn.metrics import label_ranking_average_precision_score as ranked
print(round(ranked([[1, 0, 0], [0, 0, 1]], [[0.75, 0.5, 1], [1, 0.2, 0.1]]), 3))
from scipy.stats import rankdata
print(rankdata([3, 1, 2]))
"""
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True
    )
    # The second figure is the first example of scikit-learn's manual.
    assert done.stdout.splitlines() == ["True False", "0.417", "[3. 1. 2.]"]
