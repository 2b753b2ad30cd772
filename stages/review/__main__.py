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

from stages.errors import UserError, run
from stages.files import METRICS, PLOTS, REVIEW, SPLITS
from stages.review import revision
from stages.review.changes import Pairing, count_changes, pair, paired_test
from stages.review.comment import Review, code, write_comment
from stages.review.pictures import draw_confusion, draw_epochs
from stages.review.revision import IN_GIT, Results, read_results
from stages.store.names import cell, path_cell, printable
from stages.store.outputs import replace_directory
from stages.store.tables import write_table

HERE = Path(".")


def main() -> None:
    arguments = _arguments()
    commit = revision.commit_of(arguments.base)
    if not Path(METRICS).exists():
        raise UserError(f"{METRICS} is missing; there are no results to review yet: dvc repro")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        revision.extract(commit, IN_GIT, folder)
        lacking = revision.extract_from_cache(commit, [str(SPLITS), str(PLOTS)], folder)
        for path, reason in lacking.items():
            print(
                printable(f"{path} of {arguments.base} is not to be had: {reason}"), file=sys.stderr
            )
        base, head = read_results(folder, arguments.base), read_results(HERE, "this change")
        if "accuracy" not in head.metrics.get("test", {}):
            raise UserError(f"{METRICS} has no test accuracy; make it anew: dvc repro evaluate")
        review = compare(base, head)
        review.code = revision.changed_code(commit)
        review.stale = revision.stale_stages()
        review.moved_on = revision.merge_base(commit) not in (None, commit)
        with replace_directory(REVIEW) as output:
            add_pictures(review, output / "images")
            (output / "review.md").write_text(write_comment(review), encoding="utf-8")
            write_outcomes(review.pairing, output / "images.csv")
    print(f"review against {arguments.base}: {REVIEW / 'review.md'}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stages.review", description=__doc__)
    parser.add_argument("--base", default="main", help="branch, tag or commit to compare with")
    return parser.parse_args()


def compare(base: Results, head: Results) -> Review:
    """Judge `head` against `base`, as far as their results go."""
    review = Review(base, head)
    if base.predictions is not None and head.predictions is not None:
        pairing = review.pairing = pair(base.predictions, head.predictions)
        if len(pairing.table):
            review.test = paired_test(len(pairing.table), len(pairing.fixed), len(pairing.broken))
    if base.members is not None and head.members is not None:
        review.counts = count_changes(base.members, head.members)
    return review


def add_pictures(review: Review, folder: Path) -> None:
    """Put into `folder` what can be shown side by side, and note what cannot.

    The plots that the DVC cache keeps, if it has those of both sides; else what can be drawn
    from the results in git.
    """
    base, head = review.base, review.head
    folder.mkdir()
    if draw_epochs(base, head, folder / "epochs.png"):
        review.pictures.append(("Learning curves", f"{folder.name}/epochs.png", None))
    if base.plots and head.plots:
        _copy_plots(review, folder)
        return
    if review.pairing:
        classes = sorted({*base.classes(), *head.classes()})
        links = []
        for side, results in (("base", base), ("here", head)):
            draw_confusion(results, classes, folder / f"{side}-confusion.png")
            links.append(f"{folder.name}/{side}-confusion.png")
        review.pictures.append(("confusion", *links))
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
        links = []
        for side, plots in (("base", base), ("here", head)):
            shutil.copyfile(plots[name], folder / f"{side}-{name}.png")
            links.append(f"{folder.name}/{side}-{name}.png")
        review.pictures.append((name, *links))
    if same:
        review.notes.append("Unchanged plots: " + ", ".join(code(name) for name in same) + ".")


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
