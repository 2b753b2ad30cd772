"""make review BASE=main: compare the results at hand with those of another revision.

Writes reports/review/review.md, to read or to post on a pull request, the pictures it shows,
and images.csv: every test image whose outcome changed.
"""

import argparse
import filecmp
import shutil
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.ticker import MaxNLocator

from stages.errors import UserError, run
from stages.figures.pictures import confusion_matrix
from stages.figures.style import BLUE, ORANGE, figure, save_png
from stages.files import METRICS, PLOTS, REVIEW, SCORES, SPLITS
from stages.metrics.scores import confusion_counts
from stages.review import revision
from stages.review.changes import Pairing, count_changes, pair, paired_test
from stages.review.comment import Picture, Review, code, write_comment
from stages.review.revision import IN_GIT, Revision, read_revision
from stages.store.names import cell, path_cell, printable
from stages.store.outputs import outputs_of
from stages.store.tables import write_table

HERE = Path(".")


def main() -> None:
    arguments = _arguments()
    commit = revision.commit_of(arguments.base)
    if not SCORES.exists() and not METRICS.exists():
        raise UserError(f"{SCORES} is missing; there are no results to review yet: dvc repro")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        revision.extract(commit, IN_GIT, folder)
        lacking = revision.extract_from_cache(commit, [str(SPLITS), str(PLOTS)], folder)
        for path, reason in lacking.items():
            print(
                printable(f"{path} of {arguments.base} is not to be had: {reason}"), file=sys.stderr
            )
        base, head = read_revision(folder, arguments.base), read_revision(HERE, "this change")
        if "accuracy" not in head.test:
            raise UserError(f"{SCORES} has no test accuracy; make it anew: dvc repro evaluate")
        review = compare(base, head)
        review.code = revision.changed_code(commit)
        review.stale = revision.stale_stages()
        review.moved_on = revision.merge_base(commit) not in (None, commit)
        with outputs_of("review") as outputs:
            output = outputs.directory(REVIEW)
            add_pictures(review, output / "images")
            (output / "review.md").write_text(write_comment(review), encoding="utf-8")
            write_outcomes(review.pairing, output / "images.csv")
    print(f"review against {arguments.base}: {REVIEW / 'review.md'}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stages.review", description=__doc__)
    parser.add_argument("--base", default="main", help="branch, tag or commit to compare with")
    return parser.parse_args()


def compare(base: Revision, head: Revision) -> Review:
    """Judge `head` against `base`, as far as their results go."""
    review = Review(base, head)
    if base.predictions is not None and head.predictions is not None:
        pairing = review.pairing = pair(base.predictions, head.predictions)
        if len(pairing.table):
            review.test = paired_test(len(pairing.table), len(pairing.fixed), len(pairing.broken))
    if base.images is not None and head.images is not None:
        review.counts = count_changes(base.images, head.images)
    return review


def add_pictures(review: Review, folder: Path) -> None:
    """Put into `folder` what can be shown side by side, and note what cannot.

    The plots that the DVC cache keeps, if it has those of both sides; else what can be drawn
    from the results in git.
    """
    base, head = review.base, review.head
    folder.mkdir()
    if draw_epochs(base, head, folder / "epochs.png"):
        review.pictures.append(Picture("Learning curves", f"{folder.name}/epochs.png"))
    if base.plots and head.plots:
        _copy_plots(review, folder)
        return
    if review.pairing:
        classes = sorted({*base.classes(), *head.classes()})
        names = [f"{side}-confusion.png" for side in ("base", "here")]
        for name, revision in zip(names, (base, head), strict=True):
            draw_confusion(revision.predictions, classes, folder / name)
        review.pictures.append(Picture("confusion", *(f"{folder.name}/{n}" for n in names)))
    lacking = " and ".join(code(side.name) for side in (base, head) if not side.plots)
    review.notes.append(
        f"The other plots cannot be shown side by side: those of {lacking} (reports/plots) are "
        "not in the DVC cache here; <code>dvc pull</code> fetches them where a remote has them."
    )


def _copy_plots(review: Review, folder: Path) -> None:
    """Both sides of each plot that changed."""
    base, head = review.base.plots, review.head.plots
    same = []
    for name in sorted(base.keys() & head.keys()):
        if filecmp.cmp(base[name], head[name], shallow=False):
            same.append(name)
            continue
        copies = [f"{side}-{name}.png" for side in ("base", "here")]
        for copy, plots in zip(copies, (base, head), strict=True):
            shutil.copyfile(plots[name], folder / copy)
        review.pictures.append(Picture(name, *(f"{folder.name}/{copy}" for copy in copies)))
    if same:
        review.notes.append("Unchanged plots: " + ", ".join(code(name) for name in same) + ".")


def draw_epochs(base: Revision, head: Revision, path: Path) -> bool:
    """Loss and accuracy per epoch, both sides in one chart. False if there are none."""
    names = [
        name
        for name in ("loss", "accuracy")
        if any(f"{part}/{name}" in head.epochs for part in ("train", "val"))
    ]
    if not names:
        return False
    drawn = figure(10, 3.8)
    panels = drawn.subplots(1, len(names), squeeze=False)[0]
    for name, axes in zip(names, panels, strict=True):
        for side, colour in ((base, BLUE), (head, ORANGE)):
            for part, dashes in (("train", "--"), ("val", "-")):
                rows = side.epochs.get(f"{part}/{name}")
                if rows:
                    label = f"{side.name}, {'training' if part == 'train' else 'validation'}"
                    marker = "o" if len(rows) == 1 else None
                    steps, values = zip(*rows, strict=True)
                    axes.plot(steps, values, dashes, color=colour, label=label, marker=marker)
        axes.set(title=name.capitalize(), xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    panels[0].legend(fontsize=8)
    save_png(drawn, path)
    return True


def draw_confusion(predictions: pa.Table, classes: list[str], path: Path) -> None:
    """The confusion matrix of one side's predictions."""
    names = pa.array(classes, pa.string())
    actual, predicted = (
        pc.index_in(predictions[name], names).to_numpy() for name in ("actual", "predicted")
    )
    counts = confusion_counts(actual, predicted, len(classes))
    save_png(confusion_matrix(counts, classes), path)


def write_outcomes(pairing: Pairing | None, path: Path) -> None:
    """Every image whose outcome changed, as a table for further work."""
    columns = ("outcome", "id", "path", "actual", "base", "head")
    rows: list[list[str]] = []
    for outcome in ("broken", "fixed"):
        for row in getattr(pairing, outcome).to_pylist() if pairing else ():
            names = (cell(row[column]) for column in ("actual", "base", "head"))
            rows.append([outcome, row["id"], path_cell(row["path"]), *names])
    write_table(path, columns, rows)


if __name__ == "__main__":
    run(main)
