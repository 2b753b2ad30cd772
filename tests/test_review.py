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
from factory import exported_figures
from PIL import Image

from stages.errors import UserError
from stages.metrics.paired import summary
from stages.parameters.pixels import Preprocessing
from stages.review import __main__ as review
from stages.store.processed import Dataset, Shards

PIPELINE = {
    "stages": {
        "build": {
            "cmd": "python -m stages.build",
            "params": ["train"],
            "deps": ["data/inbox", "stages/build.py"],
            "outs": [
                "data/splits",
                "data/processed",
                {"reports/predictions.csv": {"cache": False}},
            ],
            "metrics": [
                {f"reports/{name}.json": {"cache": False}} for name in ("metrics", "scores", "data")
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
        accuracy = right / len(predictions)
        test = {"accuracy": accuracy, "count": len(predictions), "loss": 1 - accuracy}
        for name in ("metrics", "scores"):
            self.write(f"reports/{name}.json", json.dumps({"test": test}))
        counts = {
            name: {
                "train": sum(label == name for _, label in train),
                "test": sum(actual == name for actual, _ in predictions.values()),
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
        self.pixels(predictions)

    def pixels(self, ids) -> None:
        """Processed images of 4 x 4 pixels: image number k is of grey 10 k."""
        processed = self.folder / "data/processed"
        if processed.exists():
            shutil.rmtree(processed)
        processed.mkdir(parents=True)
        greys = (10 * np.arange(len(ids)) % 256).astype(np.uint8)[:, None, None, None]
        shards = Shards(processed, (4, 4, 1), np.array([0, len(ids)]))
        shards.create(0)
        shards.write(np.arange(len(ids)), np.broadcast_to(greys, (len(ids), 4, 4, 1)))
        rows = "".join(f"{id},images-00000.npy,{row}\n" for row, id in enumerate(ids))
        self.write("data/processed/index.csv", "id,shard,row\n" + rows)
        dataset = Dataset(classes=["cat", "dog"], shape=(4, 4, 1), preprocess=Preprocessing())
        dataset.save(processed)

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


# Verdict


def test_a_clear_gain_is_better(project):
    comment = project.compare(outcomes(70, 30), outcomes(90, 10))
    assert "## Test accuracy 70.00 % → 90.00 % (+20.00 points): better\n" in comment
    assert "0 broken, 20 fixed of 100 images: exact McNemar test p < 0.001" in comment
    assert "another seed moves accuracy too" in comment


def test_a_small_gain_cannot_be_told_from_chance_and_nothing_is_called_better(project):
    comment = project.compare(outcomes(80, 20), outcomes(83, 17))
    assert "(+3.00 points): cannot be told from chance\n" in comment
    assert "0 broken, 3 fixed of 100 images: exact McNemar test p = 0.250" in comment
    assert "| <code>test.loss</code> (less is better) | 0.2000 | 0.1700 | −0.0300 |" in comment
    assert not {"better", "worse"} & set(comment.replace("(less is better)", "").split())


def test_a_loss_is_called_worse_and_the_broken_images_are_listed(project):
    comment = project.compare(outcomes(90, 10), outcomes(70, 30))
    assert "points): worse\n" in comment
    assert "| cat | 50 | 10 | 0 | dog ×10 |" in comment
    assert "Images broken: 20" in comment
    assert "<code>test/cat/i0071.png</code> | cat | cat 0.75 | dog 0.75 |" in comment
    assert "All 20: reports/review/images.csv." in comment
    with open("reports/review/images.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["id"] for row in rows) == [f"i{index:04}" for index in range(70, 90)]
    assert {row["outcome"] for row in rows} == {"broken"}


def test_unchanged_results_change_nothing(project):
    project.results(outcomes(9, 1))
    project.record("base")
    comment = project.review()
    assert "## Test accuracy 90.00 %: the same outcome on every image\n" in comment
    assert "byte-identical" not in comment  # nothing says which models these are
    assert "test.loss" not in comment
    assert "- Data: the same images, labels and sides.\n" in comment
    assert "- Settings: none changed.\n- Code: none changed.\n" in comment
    assert "What broke" not in comment
    assert "stale" not in comment


def test_a_change_of_code_alone_is_told_in_a_few_lines(project):
    project.write("models/model.json", json.dumps({"sha256": "ab" * 32}))
    project.results(outcomes(9, 1))
    project.record("base")
    project.write("stages/build.py", "print('built the same')\n")
    project.git("commit", "--quiet", "--all", "--message", "tidy")
    comment = project.review("HEAD~1")
    assert "The model is byte-identical." in comment
    assert "Learning curves" not in comment
    assert not Path("reports/review/images/epochs.png").exists()
    assert "- Code: <code>stages/build.py</code>.\n" in comment
    project.write("models/model.json", json.dumps({"sha256": "cd" * 32}))
    assert "byte-identical" not in project.review("HEAD~1")


def test_a_common_change_fits_a_hundred_lines(project):
    comment = project.compare(outcomes(900, 100), outcomes(800, 200))
    assert "Images broken: 100" in comment
    assert len(comment.splitlines()) < 100


def test_test_sets_that_differ_are_compared_on_their_common_images(project):
    project.results(outcomes(80, 20))
    project.record("base")
    changed = outcomes(60, 40) | outcomes(50, 0, start=500)
    changed.pop("i0000")
    project.results(changed)
    comment = project.review()
    assert "## Test accuracy 80.00 % → 73.15 %, on different test images\n" in comment
    assert (
        "Judged on the 99 test images common to both (1 left the test set, 50 joined it): "
        "79.80 % → 59.60 %, **worse**. 20 broken, 0 fixed of 99 images"
    ) in comment
    assert "| metric, on the test images of each |" in comment


def test_relabelled_images_are_not_compared(project):
    predictions = outcomes(10, 0)
    comment = project.compare(predictions, predictions | {"i0000": ("cat", "cat")})
    assert "Judged on the 9 test images common to both (1 with a corrected label)" in comment
    assert "**the same outcome on every image**." in comment


def test_nothing_is_claimed_of_test_sets_without_a_common_image(project):
    project.results(outcomes(10, 0))
    project.record("base")
    project.results(outcomes(10, 0, start=50))
    assert (
        "No test image is common to both (10 left the test set, 10 joined it)" in project.review()
    )


# What else changed


def test_changed_metrics_settings_and_code_are_listed(project):
    project.results(outcomes(8, 2))
    project.record("base")
    project.results(outcomes(9, 1), epochs=20)
    project.write("stages/build.py", "print('built better')\n")
    comment = project.review()
    assert "| <code>test.accuracy</code> | 0.8000 | 0.9000 | +0.1000 |" in comment
    assert "- <code>train.epochs</code>: <code>2</code> → <code>20</code>\n" in comment
    assert "- Code: <code>stages/build.py</code>.\n" in comment


def exported(project, **formats):
    project.write("reports/parity.json", json.dumps(summary(formats)))


def test_exported_formats_are_told_where_they_changed(project):
    project.results(outcomes(9, 1))
    exported(project, litert=exported_figures(10), onnx=exported_figures(10))
    project.record("base")
    assert "Exported" not in project.review()
    exported(project, litert=exported_figures(10) | {"largest_difference": 1e-9})
    comment = project.review()
    assert "### Exported models\n\nNo longer exported: <code>onnx</code>.\n" in comment
    row = "| <code>litert</code> | 0.38 | 90.00 % | +0.00 | 0, 0 | 100.00 % | 1e-09 |  |  |"
    assert row in comment
    assert "Less right" not in comment
    exported(project)
    assert "No longer exported: <code>litert</code>, <code>onnx</code>.\n" in project.review()


def test_an_exported_format_that_is_less_right_is_named_each_time(project):
    project.write("models/model.json", json.dumps({"sha256": "ab" * 32}))
    project.results(outcomes(9, 1))
    exported(project, litert=exported_figures(10), litert_int8=exported_figures(10, broken=2))
    project.record("base")
    times = {"milliseconds_per_single_image": 0.042, "images_per_second": 23456.7}
    timing = {"export": {"model": "ab" * 32, "litert_int8": times}}
    project.write("reports/timing.json", json.dumps(timing))
    comment = project.review()
    assert (
        "Less right than the model that they were made of: <code>litert_int8</code>.\n" in comment
    )
    row = "| <code>litert_int8</code> | 0.38 | 70.00 % | +0.00 | 2, 0 | 80.00 % | 0.012 "
    assert f"{row}| 0.042 | 23,457 |" in comment


def test_the_accuracy_of_both_sides_comes_with_its_interval(project):
    def results(accuracy, low, high):
        project.results(outcomes(9, 1))
        test = {"accuracy": accuracy, "accuracy_low": low, "accuracy_high": high}
        project.write("reports/scores.json", json.dumps({"test": test}))

    results(0.8, 0.7, 0.9)
    project.record("base")
    results(0.9, 0.85, 0.95)
    row = "| 0.8000 (0.7000 to 0.9000) | 0.9000 (0.8500 to 0.9500) | +0.1000 |"
    assert row in project.review()


def test_images_corrected_added_removed_and_moved_are_counted_by_id(project):
    train = [("a", "cat"), ("b", "cat"), ("c", "dog"), ("d", "dog"), ("e", "dog")]
    project.results(outcomes(8, 2), train=train)
    project.write("data/splits/val.csv", table([("v", "cat")]))
    project.record("base")
    train = [("a", "dog"), ("b", "dog"), ("c", "cat"), ("f", "dog"), ("v", "cat")]
    project.results(outcomes(8, 2), train=train)
    project.write("data/splits/val.csv", table([("d", "dog")]))
    assert (
        "- Data: 3 labels corrected (cat → dog ×2, dog → cat ×1), 1 image removed (dog ×1), "
        "1 image added (dog ×1), 2 images moved to another side of the split "
        "(train → val ×1, val → train ×1).\n"
    ) in project.review()


def test_rejects_and_suspects_are_counted_before_and_after(project):
    def issues(kinds, rejects):
        project.write(
            "reports/data_issues.csv", "issue,path\n" + "".join(f"{k},x\n" for k in kinds)
        )
        project.write("reports/data.json", json.dumps({"rejects": {"total": 9} | rejects}))

    project.results(outcomes(9, 1))
    issues(["near-duplicate", "near-duplicate", "dark"], {"truncated": 2})
    project.record("base")
    assert "Data issues" not in project.review()
    issues(["near-duplicate", "dark", "label"], {"truncated": 2, "not an image": 3})
    assert (
        "- Data issues: label 0 → 1, near-duplicate 2 → 1, rejected: not an image 0 → 3.\n"
    ) in project.review()


def test_broken_images_are_shown(project):
    comment = project.compare(outcomes(9, 1), outcomes(7, 3))
    assert '<img src="images/broken.png" width="800" alt="broken images">' in comment
    with Image.open("reports/review/images/broken.png") as picture:
        middle = [picture.convert("L").getpixel((x, 34 + 64)) for x in (10 + 64, 148 + 64)]
    assert middle == [70, 80]  # the numbers 7 and 8, which base had right


def test_without_their_pixels_broken_images_are_listed(project, capsys):
    project.results(outcomes(9, 1))
    project.record("base")
    project.results(outcomes(7, 3))
    shutil.rmtree("data/processed")
    project.drop_cache()
    comment = project.review()
    assert "Images broken: 2" in comment
    assert "broken.png" not in comment
    assert "The broken images (data/processed) are not in the DVC cache here to show." in comment
    assert "data/processed with the broken images is not to be had" in capsys.readouterr().err


def test_learning_curves_of_both_sides_stand_in_one_picture(project):
    comment = project.compare(outcomes(8, 2), outcomes(9, 1))
    assert '<img src="images/epochs.png" width="800" alt="learning curves">' in comment
    with Image.open("reports/review/images/epochs.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(100_000)}
    assert {(0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00)} <= colours


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
    assert "12.5 s" not in project.review()  # nothing says which model this is
    project.write("models/model.json", json.dumps({"sha256": "ab" * 32}))
    assert "that wrote this: train 12.5 s." in project.review()
    project.write("models/model.json", json.dumps({"sha256": "cd" * 32}))  # another checked out
    assert "12.5 s" not in project.review()


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
    shutil.rmtree("data/splits")
    comment = project.review("HEAD~1")
    assert "(+20.00 points): better" in comment
    assert "only totals compare" in comment
    assert "(data/splits) are not in the DVC cache here: cat: 51 → 52.\n" in comment
    assert "stale" not in comment


def test_what_the_cache_lacks_comes_from_the_remote(project, tmp_path_factory):
    from dvc.repo import Repo

    remote = tmp_path_factory.mktemp("remote")
    project.write(
        ".dvc/config", f"[core]\n    remote = store\n['remote \"store\"']\n    url = {remote}\n"
    )
    project.results(outcomes(8, 2), train=[("a", "cat")])
    project.record("base")
    project.results(outcomes(7, 3), train=[("b", "cat")])
    project.record("change")
    with Repo(".") as repo:
        repo.push(all_commits=True)
    project.drop_cache()
    shutil.rmtree("data/processed")
    comment = project.review("HEAD~1")
    assert "1 image removed (cat ×1), 1 image added (cat ×1)" in comment
    assert "broken.png" in comment
    assert not Path("data/processed").exists()


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
    project.write("reports/scores.json", '{"val": {"accuracy": 1.0}}')
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
    assert "... and 990 more classes." in comment
    assert "All 3,000: reports/review/images.csv." in comment
    assert len(comment.splitlines()) < 100


def test_the_comment_can_be_found_again_to_be_updated(project):
    project.results(outcomes(9, 1))
    project.record("base")
    assert project.review().startswith("<!-- image classification review -->\n")
