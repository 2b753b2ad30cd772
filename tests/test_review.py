"""`make review BASE=main` compares the results at hand with those of another revision.

Each test works on a real git repository with real DVC outputs: main holds one result, the
working tree another.
"""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from stages.errors import UserError
from stages.review import __main__ as review
from stages.review.changes import mcnemar, paired_test

PIPELINE = {
    "stages": {
        "build": {
            "cmd": "python -m stages.build",
            "params": ["train"],
            "deps": ["data/inbox", "stages/build.py"],
            "outs": ["data/splits", "reports/plots", {"reports/predictions.csv": {"cache": False}}],
            "metrics": [
                {name: {"cache": False}} for name in ("reports/scores.json", "reports/data.json")
            ],
            "plots": [{"reports/train/plots": {"cache": False}}],
        }
    }
}


class Project:
    """A folder laid out like the project, whose results tests write by hand."""

    def __init__(self, folder: Path):
        from dvc.repo import Repo

        self.folder = folder
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("config", "user.email", "reviewer@example.org")
        self.git("config", "user.name", "Reviewer")
        Repo.init(str(folder)).close()
        self.write("dvc.yaml", yaml.safe_dump(PIPELINE))
        self.write("stages/build.py", "print('built')\n")
        self.write("data/inbox/.gitignore", "*\n!.gitignore\n")
        self.write("data/inbox/cat.jpg", "a photo")
        self.write(".gitignore", "/reports/review/\n/reports/timing.json\n")

    def git(self, *arguments: str) -> None:
        subprocess.run(["git", *arguments], cwd=self.folder, check=True, capture_output=True)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def results(self, predictions: dict[str, tuple[str, str]], train=(), epochs=2, loss=(0.9, 0.4)):
        """Write results: `predictions` maps a test image to (actual, predicted class).

        `train` are (id, label) of training images.
        """
        right = sum(actual == predicted for actual, predicted in predictions.values())
        classes = sorted({actual for actual, _ in predictions.values()})
        rows = "".join(
            f'{id},{actual},{predicted},0.75,"test/{actual}/{id}.png"\n'
            for id, (actual, predicted) in predictions.items()
        )
        self.write("reports/predictions.csv", "id,actual,predicted,confidence,path\n" + rows)
        per_class = {}
        for name in classes:
            outcomes = [a == p for a, p in predictions.values() if a == name]
            per_class[name] = dict.fromkeys(
                ("precision", "recall", "f1"), sum(outcomes) / len(outcomes)
            ) | {"support": len(outcomes)}
        accuracy = right / len(predictions)
        test = {"accuracy": accuracy, "count": len(predictions), "loss": 1 - accuracy}
        self.write("reports/scores.json", json.dumps({"test": test}))
        columns = ("precision", "recall", "f1", "support", "roc_auc", "average_precision")
        lines = (
            ",".join([name, *(str(row.get(column, "")) for column in columns)])
            for name, row in per_class.items()
        )
        self.write(
            "reports/curves/per_class.csv", "\n".join([f"class,{','.join(columns)}", *lines, ""])
        )
        counts = {
            name: {
                "train": sum(label == name for _, label in train),
                "test": per_class[name]["support"],
                "bytes": 1000,
            }
            for name in classes
        }
        self.write("reports/data.json", json.dumps({"classes": counts}))
        self.write("params.yaml", yaml.safe_dump({"train": {"epochs": epochs, "seed": 0}}))
        self.write("data/splits/train.csv", table(train))
        self.write("data/splits/test.csv", table((id, a) for id, (a, _) in predictions.items()))
        for part in ("train", "val"):
            lines = [f"{step}\t{value}" for step, value in enumerate(loss)]
            self.write(
                f"reports/train/plots/metrics/{part}/loss.tsv", "\n".join(["step\tloss", *lines])
            )
        (self.folder / "reports/plots").mkdir(exist_ok=True)
        shade = Image.fromarray(np.full((8, 8), round(255 * accuracy), np.uint8))
        shade.save(self.folder / "reports/plots/confusion.png")

    def record(self, message: str) -> None:
        """What `dvc repro` and `git commit` leave behind."""
        from dvc.repo import Repo

        with Repo(str(self.folder)) as repo:
            repo.commit(force=True)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def drop_cache(self) -> None:
        shutil.rmtree(self.folder / ".dvc/cache")
        shutil.rmtree(self.folder / ".dvc/tmp", ignore_errors=True)

    def compare(self, before: dict, after: dict) -> str:
        """The comment on predictions `after` in place of `before`."""
        self.results(before)
        self.record("base")
        self.results(after)
        return self.review()

    def review(self, base="main") -> str:
        sys.argv = ["review", "--base", base]
        review.main()
        return (self.folder / "reports/review/review.md").read_text(encoding="utf-8")


def table(rows) -> str:
    return "id,label\n" + "".join(f"{id},{label}\n" for id, label in rows)


def outcomes(right: int, wrong: int, start: int = 0) -> dict[str, tuple[str, str]]:
    """Predictions of `right` + `wrong` test images of cats and dogs, the wrong ones last."""
    predictions = {}
    for index in range(start, start + right + wrong):
        actual, other = ("cat", "dog") if index % 2 else ("dog", "cat")
        predictions[f"i{index:04}"] = (actual, actual if index < start + right else other)
    return predictions


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])
    return Project(tmp_path)


# Chance


def test_mcnemar_is_the_exact_two_sided_test():
    assert mcnemar(0, 0) == 1
    assert mcnemar(5, 5) == 1
    assert mcnemar(9, 1) == mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar(10, 0) == pytest.approx(2 / 2**10)


def test_the_interval_is_that_of_drawing_the_paired_images_again_and_again():
    count, fixed, broken = 400, 30, 10
    test = paired_test(count, fixed, broken)
    change = np.repeat([1, -1, 0], [fixed, broken, count - fixed - broken])
    random = np.random.default_rng(1)
    drawn = [change[random.integers(count, size=count)].mean() for _ in range(4000)]
    assert test.difference == pytest.approx(0.05)
    assert [test.low, test.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.003)
    assert test == paired_test(count, fixed, broken)


def test_a_hundred_thousand_test_images_cost_no_more_than_a_hundred():
    test = paired_test(100_000, 600, 500)
    assert test.low < 0.001 < test.high
    assert test.significant


# Verdict


def test_a_clear_gain_is_better_than_chance(project):
    comment = project.compare(outcomes(70, 30), outcomes(90, 10))
    assert "## Test accuracy 70.00 % → 90.00 % (+20.00 points): better" in comment
    assert "20 fixed" in comment
    assert "0 broken" in comment
    assert "Yes, more than chance" in comment
    assert "p < 0.001" in comment


def test_a_small_gain_is_called_chance(project):
    comment = project.compare(outcomes(80, 20), outcomes(83, 17))
    assert "(+3.00 points): no more than chance" in comment
    assert "exact McNemar test p = 0.250" in comment


def test_a_loss_is_called_worse_and_the_broken_images_are_listed(project):
    comment = project.compare(outcomes(90, 10), outcomes(70, 30))
    assert "points): worse" in comment
    assert "Images broken: 20" in comment
    assert "<code>test/dog/i0070.png</code> | dog | dog 0.75 | cat 0.75 |" in comment
    with open("reports/review/images.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [f"i{index:04}" for index in range(70, 90)]
    assert {row["outcome"] for row in rows} == {"broken"}


def test_unchanged_results_change_nothing(project):
    project.results(outcomes(9, 1))
    project.record("base")
    comment = project.review()
    assert "(+0.00 points): the same outcome on every image" in comment
    assert "No metric changed." in comment
    assert "No setting changed." in comment
    assert "No pipeline code changed." in comment
    assert "The same images with the same labels." in comment
    assert "stale" not in comment


def test_test_sets_that_differ_are_compared_on_their_common_images(project):
    project.results(outcomes(80, 20))
    project.record("base")
    changed = outcomes(60, 40) | outcomes(50, 0, start=500)
    changed.pop("i0000")
    project.results(changed)
    comment = project.review()
    assert "**The test sets differ**: 99 images are common" in comment
    assert "1 only in" in comment
    assert "50 only here" in comment
    assert "Accuracy on the common images: 79.80 % → 59.60 %" in comment
    assert "points), on different test images" in comment


def test_relabelled_images_are_not_compared(project):
    predictions = outcomes(10, 0)
    comment = project.compare(predictions, predictions | {"i0000": ("cat", "cat")})
    assert "9 images are common" in comment
    assert "1 in both with different labels" in comment


def test_nothing_is_claimed_of_test_sets_without_a_common_image(project):
    project.results(outcomes(10, 0))
    project.record("base")
    project.results(outcomes(10, 0, start=50))
    assert "no common test image, so nothing can be said" in project.review()


# What else changed


def test_changed_metrics_settings_and_code_are_listed(project):
    project.results(outcomes(8, 2))
    project.record("base")
    project.results(outcomes(9, 1), epochs=20)
    project.write("stages/build.py", "print('built better')\n")
    comment = project.review()
    assert "| <code>test.accuracy</code> | 0.8000 | 0.9000 | +0.1000 better |" in comment
    assert "| <code>test.loss</code> | 0.2000 | 0.1000 | −0.1000 better |" in comment  # noqa: RUF001
    assert "| <code>train.epochs</code> | <code>2</code> | <code>20</code> |" in comment
    assert "Pipeline code changed: <code>stages/build.py</code>." in comment
    assert "1 of 2 classes changed" in comment


def test_images_added_and_removed_are_counted_per_class(project):
    project.results(outcomes(8, 2), train=[("a", "cat"), ("b", "cat"), ("c", "dog")])
    project.record("base")
    project.results(outcomes(8, 2), train=[("a", "cat"), ("b", "dog"), ("d", "dog"), ("e", "dog")])
    comment = project.review()
    assert "Images added: 3; removed: 2" in comment
    assert "| dog | 6 | 8 | +3 | −1 |" in comment  # noqa: RUF001
    assert "| cat | 7 | 6 | 0 | −1 |" in comment  # noqa: RUF001


def test_plots_stand_side_by_side(project):
    project.results(outcomes(8, 2), loss=(0.9, 0.5))
    project.record("base")
    project.results(outcomes(9, 1), loss=(0.8, 0.3))
    comment = project.review()
    for name in ("epochs", "base-confusion", "here-confusion"):
        assert f'src="images/{name}.png"' in comment
        with Image.open(f"reports/review/images/{name}.png") as picture:
            picture.load()
    base, here = (
        Image.open(f"reports/review/images/{side}-confusion.png") for side in ("base", "here")
    )
    assert base.getpixel((0, 0)) != here.getpixel((0, 0))


def test_the_same_review_gives_the_same_bytes(project):
    project.results(outcomes(8, 2))
    project.record("base")
    project.results(outcomes(9, 1))

    def everything():
        project.review()
        files = sorted(path for path in Path("reports/review").rglob("*") if path.is_file())
        return {path: path.read_bytes() for path in files}

    assert everything() == everything()


def test_times_are_shown_when_they_are_of_the_model_reviewed(project):
    project.results(outcomes(9, 1))
    project.record("base")
    times = {"train": {"model": "ab" * 32, "seconds": 12.5}, "evaluate": {"seconds": 3.0}}
    project.write("reports/timing.json", json.dumps(times))
    assert "seconds" not in project.review()  # nothing says which model this is
    project.write("models/model.json", json.dumps({"sha256": "ab" * 32}))
    comment = project.review()
    assert "| <code>train.seconds</code> | 12.5000 |" in comment
    assert "evaluate.seconds" not in comment
    project.write("models/model.json", json.dumps({"sha256": "cd" * 32}))  # another checked out
    assert "seconds" not in project.review()


def test_an_accuracy_no_better_than_the_commonest_class_is_said(project):
    project.results(outcomes(60, 40))
    project.record("base")
    assert "commonest class" not in project.review()  # an earlier version did not tell
    metrics = json.loads(Path("reports/scores.json").read_text(encoding="utf-8"))
    metrics["test"] |= {"accuracy_low": 0.5, "accuracy_high": 0.69, "base_rate": 0.62}
    project.write("reports/scores.json", json.dumps(metrics))
    comment = project.review()
    assert "> [!WARNING]\n> No better than always naming the commonest class" in comment
    assert "62.0 %" in comment


def test_hostile_paths_of_earlier_commits_are_safe_in_comment_and_table(project):
    project.results(outcomes(9, 1))
    path = Path("reports/predictions.csv")
    rows = path.read_text(encoding="utf-8")
    path.write_text(rows.replace("test/cat/i0001.png", "=1+1\x1b[31m\u202e.png"), encoding="utf-8")
    project.record("base")
    hostile = path.read_text(encoding="utf-8")
    path.write_text(hostile.replace("i0001,cat,cat", "i0001,cat,=cmd"), encoding="utf-8")
    comment = project.review()
    table = Path("reports/review/images.csv").read_text(encoding="utf-8")
    for said in (comment, table):
        assert not set("\x1b\u202e") & set(said)
    (row,) = csv.DictReader(table.splitlines())
    assert row["path"] == "./=1+1\\x1b[31m\\u202e.png"
    assert row["head"] == "'=cmd"


# With and without the DVC cache


def test_without_the_cache_the_review_says_what_it_could_not_compare(project):
    project.results(outcomes(70, 30), train=[("a", "cat")])
    project.record("base")
    project.results(outcomes(90, 10), train=[("a", "cat"), ("b", "cat")])
    project.record("change")
    project.drop_cache()
    shutil.rmtree("reports/plots")
    shutil.rmtree("data/splits")
    comment = project.review("HEAD~1")
    assert "Yes, more than chance" in comment
    assert "(data/splits) are not in the DVC cache here, so only totals compare" in comment
    assert "| cat | 51 | 52 | +1 |" in comment
    assert "(reports/plots) are not in the DVC cache here" in comment
    assert 'src="images/here-confusion.png"' in comment  # drawn from what git holds
    assert "stale" not in comment


def test_what_the_cache_lacks_comes_from_the_remote(project, tmp_path_factory):
    from dvc.repo import Repo

    remote = tmp_path_factory.mktemp("remote")
    project.write(
        ".dvc/config", f"[core]\n    remote = store\n['remote \"store\"']\n    url = {remote}\n"
    )
    project.results(outcomes(8, 2), train=[("a", "cat")])
    project.record("base")
    with Repo(".") as repo:
        repo.push()
    project.drop_cache()
    project.results(outcomes(9, 1), train=[("b", "cat")])
    comment = project.review()
    assert "Images added: 1; removed: 1" in comment
    assert 'src="images/base-confusion.png"' in comment


# Warnings


def test_results_older_than_the_settings_are_called_stale(project):
    project.results(outcomes(9, 1))
    project.record("base")
    project.write("params.yaml", "train: {epochs: 9, seed: 0}\n")
    comment = project.review()
    assert "stale" in comment
    assert "<code>build</code> (<code>train</code>)" in comment


def test_photos_that_are_elsewhere_make_no_result_stale(project):
    project.results(outcomes(9, 1))
    project.record("base")
    Path("data/inbox/cat.jpg").unlink()
    assert "stale" not in project.review()
    Path("data/inbox/dog.jpg").write_text("another photo")
    assert "<code>data/inbox</code>" in project.review()


def test_results_edited_by_hand_are_called_stale(project):
    project.results(outcomes(9, 1))
    project.record("base")
    project.write("reports/scores.json", '{"test": {"accuracy": 1.0}}')
    assert "<code>reports/scores.json</code>" in project.review().split("### ")[0]


def test_a_base_that_has_moved_on_is_pointed_out(project):
    project.results(outcomes(9, 1))
    project.record("base")
    project.git("checkout", "--quiet", "-b", "topic")
    project.git("checkout", "--quiet", "main")
    project.git("commit", "--quiet", "--allow-empty", "--message", "more")
    project.git("checkout", "--quiet", "topic")
    assert "has commits that this branch lacks" in project.review()


def test_a_base_without_results_still_gives_a_comment(project):
    project.git("add", "--all")
    project.git("commit", "--quiet", "--message", "no results yet")
    project.results(outcomes(9, 1))
    comment = project.review()
    assert "## Test accuracy 90.00 %" in comment
    assert "no results to compare with" in comment


def test_a_base_with_all_scores_among_its_metrics_is_compared(project):
    """As earlier versions of the pipeline wrote them."""
    project.results(outcomes(8, 2))
    scores = json.loads(Path("reports/scores.json").read_text(encoding="utf-8"))
    scores["test"]["per_class"] = {"cat": {"f1": 0.5}}
    Path("reports/scores.json").unlink()
    project.write("reports/metrics.json", json.dumps(scores))
    project.git("add", "--all")
    project.git("commit", "--quiet", "--message", "base")
    project.results(outcomes(9, 1))
    comment = project.review()
    assert "## Test accuracy 80.00 % → 90.00 %" in comment
    assert "<code>test.loss</code>" in comment
    assert "per_class" not in comment


def test_an_unknown_base_is_one_line(project):
    project.results(outcomes(9, 1))
    project.record("base")
    with pytest.raises(UserError, match="git knows no revision nonsense"):
        project.review("nonsense")


def test_no_results_is_one_line(project):
    project.git("commit", "--quiet", "--allow-empty", "--message", "empty")
    with pytest.raises(UserError, match=r"reports/scores\.json is missing"):
        project.review()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("reports/scores.json", "<<<<<<< main"),
        ("reports/scores.json", "[1]"),
        ("reports/predictions.csv", "id,actual\n1"),
        ("reports/train/plots/metrics/val/loss.tsv", ""),
    ],
)
def test_a_malformed_result_is_one_line_that_names_its_side(project, name, content):
    project.results(outcomes(9, 1))
    project.write(name, content)
    project.record("a merge gone wrong")
    project.results(outcomes(9, 1))
    with pytest.raises(UserError, match="a result of main cannot be read"):
        project.review()


def test_results_without_a_test_accuracy_are_one_line(project):
    project.results(outcomes(9, 1))
    project.record("base")
    project.write("reports/scores.json", "{}")
    with pytest.raises(UserError, match="no test accuracy"):
        project.review()


# The comment as a file


def test_names_cannot_smuggle_markup_into_the_comment(project):
    evil = "<img src=x>|@everyone `x` [a](b)"
    comment = project.compare(
        {"i1": ("plain", "plain"), "i2": ("plain", "plain")},
        {"i1": (evil, "plain"), "i2": ("plain", evil)},
    )
    for piece in ("<img src=x", "@everyone", "`x`", "[a]"):
        assert piece not in comment
    assert "&#60;img src=x&#62;&#124;&#64;everyone" in comment


def test_a_thousand_classes_fit_a_github_comment(project):
    def predictions(shift):
        return {
            f"i{index}": (f"class number {index % 1000}", f"class number {(index + shift) % 1000}")
            for index in range(3000)
        }

    comment = project.compare(predictions(0), predictions(1))
    assert len(comment) < 65_536
    assert "... and 980 more classes." in comment
    assert "... and 2,980 more; all are in reports/review/images.csv." in comment


def test_the_comment_can_be_found_again_to_be_updated(project):
    project.results(outcomes(9, 1))
    project.record("base")
    assert project.review().startswith("<!-- image classification review -->\n")
