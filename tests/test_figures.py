"""Figures: right for 2 and for 100 classes, no text over other text, the same bytes each time."""

import errno
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from factory import ROOT, colour_images
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from PIL import Image

from stages.errors import UserError
from stages.figures import charts, pictures, style
from stages.figures.pictures import confusion_matrix
from stages.figures.style import DPI, save_png, shortened, to_image, to_svg
from stages.processes import at_once

LONG = "Yellow-headed Blackbird, juvenile, in flight over $water$"


def class_names(count):
    return [f"{k:03d} {LONG}" for k in range(count)]


def illegible(drawn):
    """Texts of a figure that stick out of it, and pairs that are drawn over each other."""
    drawn.draw_without_rendering()
    texts = [t for legend in drawn.legends for t in (legend.get_title(), *legend.get_texts())]
    for axes in drawn.axes:
        texts += [axes.title, axes._left_title, *axes.texts]
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            low, high = sorted(axis.get_view_interval())
            ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
            texts += [axis.label, *(label for place, label in ticks if low <= place <= high)]
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts if t.get_text().strip()]
    page = drawn.bbox
    out = [
        name
        for name, box in boxes
        if min(box.x0, box.y0) < -1 or box.x1 > page.width + 1 or box.y1 > page.height + 1
    ]
    return out + [
        (a, b)
        for (a, box), (b, other) in itertools.combinations(boxes, 2)
        if min(box.x1, other.x1) - max(box.x0, other.x0) > 1  # a pixel of contact is fine
        and min(box.y1, other.y1) - max(box.y0, other.y0) > 1
    ]


def test_overlapping_and_cut_off_texts_would_be_found():
    drawn = Figure(figsize=(4, 3))  # without the layout that makes room
    axes = drawn.add_axes((0.2, 0.2, 0.7, 0.7))
    axes.text(0.5, 0.5, "one")
    axes.text(0.5, 0.5, "two")
    axes.text(0.99, 0.2, "much too long for this place")
    assert illegible(drawn) == ["much too long for this place", ("one", "two")]


def test_a_figure_is_drawn_once_for_each_file(tmp_path):
    drawings = []

    class Counted(Artist):
        def draw(self, renderer):
            drawings.append(type(renderer))

    drawn = confusion_matrix(np.eye(3, dtype=int), list("xyz"))
    drawn.add_artist(Counted())
    to_svg(drawn)
    save_png(drawn, tmp_path / "matrix.png")
    assert len(drawings) == 2


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_names_on_a_confusion_matrix_never_overlap(classes):
    counts = np.random.default_rng(0).integers(0, 50, (classes, classes))
    drawn = confusion_matrix(counts, class_names(classes))
    assert len(drawn.axes[0].get_yticklabels()) == classes
    assert not illegible(drawn)


def test_a_confusion_matrix_shows_shares_of_the_actual_or_of_the_predicted_class():
    counts = np.array([[3, 1], [0, 4]])
    for of, expected in (
        ("actual", [["75", "25"], ["", "100"]]),
        ("predicted", [["100", "20"], ["", "80"]]),
        ("counts", [["3", "1"], ["", "4"]]),
    ):
        found = [["", ""], ["", ""]]
        for text in confusion_matrix(counts, ["a", "b"], of).axes[0].texts:
            found[int(text.get_position()[1])][int(text.get_position()[0])] = text.get_text()
        assert found == expected


@pytest.mark.parametrize("classes", [2, 100])
def test_bars_by_class_are_legible(classes):
    rng = np.random.default_rng(0)
    support = rng.integers(0, 90, classes)
    for drawn in (
        charts.class_scores(class_names(classes), rng.random(classes), support),
        charts.class_counts(class_names(classes), {"train": support * 9, "test": support}),
    ):
        assert not illegible(drawn)


def test_classes_without_test_images_have_no_f1_bar():
    drawn = charts.class_scores(["cat", "dog"], np.array([0.5, 0.0]), np.array([7, 0]))
    assert [label.get_text() for label in drawn.axes[0].get_yticklabels()] == ["cat (7)"]


def legend(drawn):
    return [text.get_text() for entry in drawn.legends for text in entry.get_texts()]


def crowded(drawn):
    """Whether a legend lies over what is drawn."""
    drawn.draw_without_rendering()
    boxes = [entry.get_window_extent() for entry in drawn.legends]
    return any(box.overlaps(axes.get_window_extent()) for box in boxes for axes in drawn.axes)


def test_learning_curves_mark_the_chosen_epoch():
    epochs = np.arange(1, 6)
    loss = {"train": (epochs, 1 / epochs), "val": (epochs, 1 / epochs + 0.1 * (epochs - 1))}
    drawn = charts.learning_curves(loss, {}, chosen=3)
    (axes,) = drawn.axes  # no empty one for an accuracy that is not there
    assert axes.get_title(loc="left") == "Loss, last: training 0.2, validation 0.6"
    assert legend(drawn) == ["training", "validation", "gap", "kept: epoch 3"]
    assert not crowded(drawn)


def test_a_gap_that_cannot_be_seen_is_neither_shaded_nor_named():
    epochs = np.arange(1, 21)
    train = 1 / epochs
    for val in (train - 0.1, train + 0.001, train + 0.1 * (epochs == 7)):
        drawn = charts.learning_curves({"train": (epochs, train), "val": (epochs, val)}, {}, None)
        assert legend(drawn) == ["training", "validation"]


def test_a_training_loss_against_softened_labels_is_explained_below_the_curves():
    epochs = np.arange(1, 4)
    curve = {"train": (epochs, 2 / epochs), "val": (epochs, 1 / epochs)}
    drawn = charts.learning_curves(curve, curve, 2, ["train.label_smoothing", "augment.mixup"])
    note = drawn.legends[0].get_title().get_text()
    assert "softened by train.label_smoothing, augment.mixup: it may lie above" in note
    assert not illegible(drawn)
    assert not crowded(drawn)
    assert not charts.learning_curves(curve, curve, 2).legends[0].get_title().get_text()


def test_figures_of_the_hardest_images_are_explained_below_the_curves():
    epochs = np.arange(1, 4)
    curve = {"train": (epochs, 2 / epochs), "val": (epochs, 1 / epochs)}
    drawn = charts.learning_curves(curve, curve, 2, ["train.label_smoothing"], hardest=0.5)
    softened, hardest = drawn.legends[0].get_title().get_text().splitlines()
    assert "softened by train.label_smoothing" in softened
    assert "the hardest 50 % of the images" in hardest
    assert not illegible(drawn)
    assert not crowded(drawn)


@pytest.mark.parametrize(("far", "side"), [(0, 0.05), (0.04, 0.1), (0.2, 0.5), (0.4, 1)])
def test_curves_of_a_good_classifier_are_shown_where_they_bend(far, side):
    perfect = np.array([0, 0, 1]), np.array([0, 1, 1])
    weak = np.array([0, far, 1]), np.array([0, 1 - far, 1])
    named = {"mean": weak, "cat": perfect}
    areas = dict.fromkeys(named, 0.9)
    for drawn, low in (
        (charts.roc(named, areas, 2), 0),
        (charts.precision_recall({k: (1 - x, y) for k, (x, y) in named.items()}, areas, 2), 1),
    ):
        (axes,) = drawn.axes
        left, right = axes.get_xlim()
        bottom, top = axes.get_ylim()
        assert right - left == pytest.approx(1.08 * side)
        assert top - bottom == pytest.approx(1.08 * side)
        assert left < low < right  # the frame is no part of a curve
        assert bottom < 1 < top
        said = [text.get_text() for text in axes.texts]
        assert said == (["Every class is told from the others without a mistake."] * (far == 0))
        assert not illegible(drawn)
        assert not crowded(drawn)


def test_no_bar_of_the_reliability_is_under_the_legend():
    low = np.arange(10) / 10
    drawn = charts.reliability(low, low + 0.1, low + 0.05, 1 - low, np.arange(1, 11), 0.3)
    assert not crowded(drawn)


@pytest.mark.parametrize("photos", [[1, 2], [1, 2, 5, 10, 20, 50, 52], range(1, 60)])
def test_any_number_of_points_of_accuracy_by_photos_is_legible(photos):
    photos = np.array(photos, float) * 1000
    accuracy = np.linspace(0.5, 1, len(photos))
    drawn = charts.accuracy_by_photos(photos, accuracy, accuracy - 0.1, accuracy)
    assert not illegible(drawn)
    assert not crowded(drawn)
    labels = [label.get_text() for label in drawn.axes[0].get_xticklabels()]
    assert labels[-1] == f"{photos[-1]:,.0f}"
    assert len(labels) == len(photos)


@pytest.mark.parametrize("epochs", [1, 200])
def test_learning_curves_without_validation_and_of_any_length(epochs):
    curve = np.arange(1, epochs + 1), np.linspace(1, 0.5, epochs)
    drawn = charts.learning_curves({"train": curve}, {"train": curve}, chosen=None)
    assert len(drawn.axes) == 2
    assert not illegible(drawn)


@pytest.mark.parametrize("height", [60, 128])  # 60: as inches times DPI a row less than it is
def test_a_grid_shows_the_pixels_of_its_images(height):
    image = np.random.default_rng(0).integers(0, 256, (height, 128, 3), np.uint8)
    shown = np.asarray(to_image(pictures.image_grid([image], [[]], 1, "One image")))
    top = shown.shape[0] - height - pictures.GAP - pictures.GAP // 2
    tile = shown[top : top + height, pictures.GAP : pictures.GAP + 128]
    np.testing.assert_array_equal(tile, image)


def test_grids_shorten_names_instead_of_running_into_the_neighbour():
    images = list(colour_images(np.arange(12) % 3))
    names = class_names(12)
    for drawn in (
        pictures.samples(images, names),
        pictures.mistakes(images, names, names[::-1], np.linspace(1, 0.5, 12)),
        pictures.grad_cam(images, np.zeros((12, 2, 4, 4), np.uint8), names, names),
        pictures.extremes(
            names[:2], [([(images[0], 0.1)], [(images[1], 0.9)]), ([(images[2], 0.5)], [])], 3
        ),
    ):
        assert not illegible(drawn)


def test_no_mistakes_is_said_not_drawn_as_empty_axes():
    drawn = pictures.mistakes([], [], [], np.array([]))
    assert not drawn.axes
    assert [text.get_text() for text in drawn.texts] == ["No mistakes on the test images"]


def test_names_that_the_font_cannot_write_are_told_apart_by_their_numbers():
    names = ["cat", "Äpfel Αθήνα Жук", "猫", "犬", "猫 (wild)", "ไก่"]
    new = style.written(names)
    assert new[:2] == names[:2]
    assert new[2:] == ["(class 2)", "(class 3)", "(wild) (class 4)", "(class 5)"]


def test_an_overview_keeps_texts_legible_at_the_width_of_a_readme():
    chart = charts.accuracy_by_photos(*np.array([[1, 2, 5], [0.5, 0.6, 0.7]] + [[0.5] * 3] * 2))
    grid = pictures.samples(list(colour_images(np.arange(16) % 3)), class_names(16))
    matrix = confusion_matrix(np.eye(10, dtype=int), [f"class {k}" for k in range(10)])
    picture = pictures.overview([[to_image(chart)], [to_image(grid), to_image(matrix)], []])
    assert picture.width == 1000
    top = np.asarray(picture)[: to_image(chart).height, 150:-150]
    assert np.array_equal(top, np.asarray(to_image(chart)))  # not enlarged
    row = picture.height - to_image(chart).height - pictures.GAP
    scale = row / max(to_image(drawn).height for drawn in (grid, matrix))
    sizes = [text.get_fontsize() for drawn in (grid, matrix) for text in drawn.axes[0].texts]
    assert min(sizes) * DPI / 72 * scale * 0.9 > 8.5  # pixels of a letter, shown 900 wide


def test_shortened_names_keep_beginning_and_end():
    assert shortened("abcdefghij", 5) == "ab…ij"
    assert shortened("a\n b", 5) == "a b"


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    counts = np.eye(3, dtype=int)
    for name in "ab":
        save_png(confusion_matrix(counts, list("xyz")), tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert "Software" not in image.info
    one, two = (to_svg(confusion_matrix(counts, list("xyz"))) for _ in range(2))
    assert one == two
    assert "<dc:date>" not in one


def test_every_figure_of_a_finished_job_is_there(finished_job):
    names = {path.stem for path in (finished_job / "reports/plots").glob("*.png")}
    assert names == {
        *("samples", "augmented", "learning_curves", "class_scores", "class_counts"),
        *("confusion_actual", "confusion_predicted", "confusion_counts", "mistakes", "extremes"),
        *("grad_cam", "roc", "precision_recall", "reliability", "accuracy_by_epoch"),
    }


def test_plot_warns_of_names_that_the_pictures_cannot_show(finished_job):
    said = (
        "lacks letters of some class names; there blåu $x$ ** (class 2) is blåu $x$ *猫*. reports"
    )
    assert said in (finished_job / "plot.txt").read_text(encoding="utf-8")
    page = (finished_job / "reports/report.html").read_text(encoding="utf-8")
    assert "blåu $x$ *猫*, AUC" in page
    assert "(class 2)" not in page


def test_without_validation_images_or_epochs_none_was_chosen(finished_job, tmp_path):
    from stages.report.results import read_results

    job = tmp_path / "job"
    shutil.copytree(finished_job, job)
    assert read_results(job).chosen_epoch
    metrics = job / "reports/train/metrics.json"
    before = metrics.read_text()
    metrics.write_text('{"best_epoch": 0, "epochs": 0}')  # the backbone is frozen
    assert read_results(job).chosen_epoch is None
    metrics.write_text(before)
    shutil.rmtree(job / "reports/train/plots/metrics/val")
    assert read_results(job).chosen_epoch is None


def test_plot_starts_without_tensorflow_and_heavy_libraries():
    code = (
        "import sys, stages.plot; "
        "print([m for m in ('tensorflow', 'keras', 'matplotlib', 'sklearn', 'pyarrow', 'jinja2') "
        "if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout.strip() == "[]"


def test_the_console_ends_with_headline_weakest_classes_and_the_page(
    finished_job, monkeypatch, capsys
):
    from stages.files import PAGE, TIMES
    from stages.report.results import read_results
    from stages.report.summary import console_summary
    from stages.store.model import read_times

    monkeypatch.chdir(finished_job)
    results = read_results()
    lines = console_summary(results, read_times(TIMES, results.sha256), str(PAGE)).splitlines()
    assert lines[0].startswith(
        f"{100 * results.scores['test']['accuracy']:.1f} % of 90 test images right"
    )
    weakest = sorted(results.class_scores, key=lambda score: score.f1)
    assert lines[1].startswith("  calibration: a confidence is off by ")
    assert lines[2].startswith("  prediction sets: ")
    assert lines[3].startswith("  suspected label errors: ")
    for score, line in zip(weakest, lines[4:7], strict=True):
        assert f"weakest: {score.name}: F1 {score.f1:.3f}" in line
    assert lines[7].startswith("  evaluate: seconds")
    assert lines[-1] == "open reports/report.html"


def test_every_picture_that_dvc_shows_is_drawn_without_a_mistake_to_show(finished_job, tmp_path):
    """DVC warns of a plot in dvc.yaml whose file is missing."""
    from stages import plot

    folder = tmp_path / "job"
    shutil.copytree(finished_job, folder)
    np.save(folder / "reports/evaluation/grad_cam.npy", np.zeros((0, 2, 1, 1), np.uint8))
    (folder / "reports/evaluation/grad_cam.csv").write_text("id\n")
    (folder / "reports/plots/grad_cam.png").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        plot.main()
    listed = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["plots"]
    assert all((folder / name).exists() for name in listed if isinstance(name, str))


copies_itself = pytest.mark.skipif(sys.platform != "linux", reason="processes are copied on Linux")


def test_several_processes_draw_the_bytes_of_one(tmp_path):
    def draw(classes):
        drawn = confusion_matrix(np.eye(classes, dtype=int), class_names(classes))
        shown = to_svg(drawn)
        save_png(drawn, tmp_path / f"{classes}.png")
        return shown, (tmp_path / f"{classes}.png").read_bytes()

    tasks = {classes: lambda classes=classes: draw(classes) for classes in (2, 3, 5, 8)}
    alone = at_once(tasks, processes=1)
    assert at_once(tasks, processes=3) == alone
    assert [*at_once(tasks, processes=8)] == [2, 3, 5, 8]


@copies_itself
def test_what_fails_in_a_process_is_raised_here():
    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "matrix.png")

    with pytest.raises(OSError, match=r"matrix\.png") as caught:
        at_once({"fine": int, "full": full}, processes=2)
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(UserError, match="was killed, perhaps for lack of memory"):
        at_once({"killed": lambda: os.kill(os.getpid(), signal.SIGKILL)}, processes=2)


@copies_itself
def test_processes_that_draw_end_with_the_stage_however_it_ends(tmp_path):
    program = (
        "import os, pathlib, sys, time\n"
        "from stages.processes import at_once\n"
        "def wait(name):\n"
        "    pathlib.Path(sys.argv[1], name).write_text(str(os.getpid()))\n"
        "    time.sleep(60)\n"
        "at_once({name: lambda name=name: wait(name) for name in 'ab'}, processes=2)\n"
    )
    stage = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT)

    def until(reached):
        end = time.monotonic() + 30
        while not reached():
            assert time.monotonic() < end
            time.sleep(0.01)

    files = [tmp_path / name for name in "ab"]
    until(lambda: all(file.exists() and file.read_text() for file in files))
    stage.kill()
    stage.wait()
    pids = [int(file.read_text()) for file in files]
    until(lambda: not any(running(pid) for pid in pids))


def running(pid):
    """Whether there is a process `pid` that has not ended; one that has may stay in the table."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
