"""make review BASE=main: compare the results at hand with those of another revision.

Writes reports/review/review.md, to read or to post on a pull request, the pictures it shows,
and images.csv: every test image whose outcome changed.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from matplotlib.ticker import MaxNLocator

from stages.arguments import Parser
from stages.errors import UserError, run
from stages.figures.pictures import image_grid
from stages.figures.style import BLUE, ORANGE, figure, save_png
from stages.files import METRICS, PROCESSED, REVIEW, SCORES, SPLITS
from stages.metrics.paired import paired_test
from stages.review import revision
from stages.review.changes import Pairing, compare_images, pair
from stages.review.comment import BROKEN, EPOCHS, Review, write_comment
from stages.review.revision import IN_GIT, Revision, read_pixels, read_revision
from stages.store.names import cell, path_cell, printable
from stages.store.outputs import outputs_of
from stages.store.tables import write_table

HERE = Path(".")
THUMBNAILS = 24  # broken images that are shown
COLUMNS = 6


def main() -> None:
    arguments = _arguments()
    commit = revision.commit_of(arguments.base)
    if not SCORES.exists() and not METRICS.exists():
        raise UserError(f"{SCORES} is missing; there are no results to review yet: dvc repro")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        revision.extract(commit, IN_GIT, folder)
        try:
            revision.extract_from_cache(commit, SPLITS, folder)
        except Exception as error:  # each kind of remote raises its own, and all mean the same
            _not_to_be_had(f"{SPLITS} of {arguments.base}", error)
        base, head = read_revision(folder, arguments.base), read_revision(HERE, "this change")
        if "accuracy" not in head.test:
            raise UserError(f"{SCORES} has no test accuracy; make it anew: dvc repro evaluate")
        review = compare(base, head)
        review.code = revision.changed_code(commit)
        review.stale = revision.stale_stages()
        review.moved_on = revision.merge_base(commit) not in (None, commit)
        with outputs_of("review") as outputs:
            output = outputs.directory(REVIEW)
            (output / "images").mkdir()
            if review.pairing and draw_broken(review.pairing, output / BROKEN, folder):
                review.pictures.append(BROKEN)
            if not review.same_model and draw_epochs(base, head, output / EPOCHS):
                review.pictures.append(EPOCHS)
            (output / "review.md").write_text(write_comment(review), encoding="utf-8")
            write_outcomes(review.pairing, output / "images.csv")
    print(f"review against {arguments.base}: {REVIEW / 'review.md'}")


def _not_to_be_had(what: str, error: Exception) -> None:
    print(printable(f"{what} is not to be had: {error}"), file=sys.stderr)


def _arguments() -> argparse.Namespace:
    parser = Parser("review", __doc__)
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
        review.images = compare_images(base.images, head.images)
    return review


def draw_broken(pairing: Pairing, path: Path, folder: Path) -> bool:
    """The broken images that head is surest of. False without any, or without their pixels.

    `folder` is for temporary files.
    """
    rows = pairing.broken.slice(0, THUMBNAILS)
    if not len(rows):
        return False
    try:
        images = read_pixels(rows["id"], folder)
    except Exception as error:  # as for every remote
        _not_to_be_had(f"{PROCESSED} with the broken images", error)
        return False
    captions = [
        [f"is {row['actual']}", f"said {row['head']}", f"{100 * row['head_confidence']:.1f} % sure"]
        for row in rows.to_pylist()
    ]
    title = f"Broken: right before, wrong now ({len(rows)} of {len(pairing.broken)})"
    save_png(image_grid(images, captions, min(COLUMNS, len(images)), title, highlight=1), path)
    return True


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
