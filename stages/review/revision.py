"""Another revision of the repository: its files, its results."""

import json
import math
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from stages.errors import UserError
from stages.files import (
    DATA_ISSUES,
    DATA_SUMMARY,
    DATASET,
    INDEX,
    JUDGEMENT,
    LOG,
    METRICS,
    PARITY,
    PREDICTIONS,
    PREDICTIONS_COLUMNS,
    PROCESSED,
    SCORES,
    SIDES,
    SPLIT_COLUMNS,
    SPLITS,
    TIMES,
)
from stages.metrics.scores import Scores
from stages.review.changes import tally
from stages.store.model import read_times
from stages.store.names import flatten
from stages.store.processed import HEADER_BYTES, Dataset
from stages.store.tables import read_table

# The results of one side of a review, read from a folder laid out like the project.


PARAMETERS = "params.yaml"
# Text results that live in git, and results that live in the DVC cache.
EPOCH_LOG = LOG / "plots"
IN_GIT = [
    str(path)
    for path in (
        *(METRICS, SCORES, PREDICTIONS, JUDGEMENT, PARITY),
        *(DATA_SUMMARY, DATA_ISSUES, EPOCH_LOG, PARAMETERS),
    )
]


@dataclass(frozen=True)
class Revision:
    """The results of one side of a review; what its folder lacks is None or empty.

    `scores`, `parameters`, `data`: nested dicts as in their files; `timing` too, if it is of
    this side's model. `headline`: dotted names of the scores that DVC compares.
    `model`: the SHA-256 of the model that was judged.
    `parity`: by exported format how far its answers are from the model's.
    `predictions`: columns id, actual, predicted, confidence, path, one row a test image.
    `images`: columns id, label, side, one row an image of data/splits.
    `issues`: lines of reports/data_issues.csv by kind, and rejected files by reason.
    `epochs`: e.g. "val/loss" -> (epoch, value) of each row.
    """

    name: str
    scores: dict[str, Scores]
    headline: list[str]
    parameters: dict[str, Any]
    data: dict[str, Any]
    issues: dict[str, int] | None
    model: str | None
    parity: dict[str, Scores]
    timing: dict[str, Any]
    predictions: pa.Table | None
    images: pa.Table | None
    epochs: dict[str, list[tuple[int, float]]]

    @property
    def test(self) -> Scores:
        """Scores on the test images; empty if there are none."""
        return self.scores.get("test", {})


def read_revision(folder: Path, name: str) -> Revision:
    """Read what `folder` holds. Raises `UserError` for a file that is there but malformed."""
    try:
        metrics, data = _read_json(folder / METRICS), _read_json(folder / DATA_SUMMARY)
        model = _read_json(folder / JUDGEMENT).get("sha256")
        return Revision(
            name=name,
            # Commits without a file of all scores have them among the metrics.
            scores=_scores(_read_json(folder / SCORES) or metrics),
            headline=list(flatten(_scores(metrics))),
            parameters=_read_yaml(folder / PARAMETERS),
            data=data,
            issues=_read_issues(folder / DATA_ISSUES, data.get("rejects", {})),
            model=model,
            parity={name: of["figures"][0] for name, of in _read_json(folder / PARITY).items()},
            timing=read_times(folder / TIMES, model),
            predictions=_read_predictions(folder / PREDICTIONS),
            images=_read_images(folder / SPLITS),
            epochs=_read_epochs(folder / EPOCH_LOG),
        )
    except (yaml.YAMLError, pa.ArrowException, LookupError, ValueError, TypeError) as error:
        raise UserError(
            f"a result of {name} cannot be read ({error}); rebuild it there with: dvc repro"
        ) from None


def _scores(figures: dict[str, dict]) -> dict[str, Scores]:
    """The numbers in `figures`, without lists and tables."""
    return {
        part: {key: value for key, value in of_part.items() if isinstance(value, int | float)}
        for part, of_part in figures.items()
    }


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _read_yaml(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}


def _read_predictions(path: Path) -> pa.Table | None:
    return read_table(path, PREDICTIONS_COLUMNS) if path.exists() else None


def _read_issues(path: Path, rejects: dict[str, int]) -> dict[str, int] | None:
    if not path.exists():
        return None
    reasons = {f"rejected: {reason}": n for reason, n in rejects.items() if reason != "total"}
    return dict(sorted(tally(read_table(path, ["issue"]), "issue").items())) | reasons


def _read_images(folder: Path) -> pa.Table | None:
    tables = []
    for side in sorted(SIDES):
        if (path := folder / f"{side}.csv").exists():
            table = read_table(path, SPLIT_COLUMNS)
            tables.append(table.append_column("side", pa.repeat(side, len(table))))
    return pa.concat_tables(tables) if tables else None


def _read_epochs(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """DVCLive's tables, one a metric: the columns `step` and the metric's value."""
    epochs = {}
    metrics = folder / "metrics"
    for path in sorted(metrics.rglob("*.tsv")):
        rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
        step = rows[0].index("step")
        name = path.relative_to(metrics).with_suffix("").as_posix()
        epochs[name] = [(int(row[step]), float(row[1 - step])) for row in rows[1:]]
    return epochs


# The files of another revision: from git, and from the DVC cache or remote where it has them.


def commit_of(revision: str) -> str:
    """The full hash of the commit that `revision` (a branch, tag or hash) names."""
    done = _git("rev-parse", "--verify", "--quiet", "--end-of-options", revision + "^{commit}")
    if done.returncode:
        raise UserError(
            f"git knows no revision {revision}; fetch it, or name another: make review BASE=..."
        )
    return done.stdout.decode().strip()


def merge_base(commit: str) -> str | None:
    """The commit where the work at hand left `commit`'s line; None if they share no history."""
    done = _git("merge-base", commit, "HEAD")
    return done.stdout.decode().strip() if done.returncode == 0 else None


def extract(commit: str, paths: list[str], folder: Path) -> None:
    """Write those of `paths` (files or folders) that git holds at `commit` below `folder`."""
    listing = _git("ls-tree", "-r", "-z", "--name-only", commit, "--", *paths).stdout.decode()
    held = [path for path in paths if any(_within(name, path) for name in listing.split("\0"))]
    if not held:
        return
    command = ["git", "archive", "--format=tar", commit, "--", *held]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as archive,
    ):
        if hasattr(tarfile, "data_filter"):  # since Python 3.11.4
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(folder)


def extract_from_cache(commit: str, path: Path, folder: Path) -> None:
    """Write the DVC-tracked folder `path` of `commit` below `folder`.

    DVC looks in its cache first, then in the default remote when one is configured. Raises
    whatever the kind of remote raises.
    """
    from dvc.api import DVCFileSystem

    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    DVCFileSystem(".", rev=commit).get(str(path), str(target), recursive=True)


def read_pixels(ids: pa.ChunkedArray, folder: Path) -> list[np.ndarray]:
    """The processed images `ids` of the work at hand, each uint8 (height, width, channels).

    From data/processed, or from the DVC cache or remote, of which it reads the index (into
    `folder`) and these images alone. Raises as `extract_from_cache` does.
    """
    from dvc.api import DVCFileSystem

    files = DVCFileSystem(".")
    shape = Dataset.model_validate_json(files.read_bytes(str(PROCESSED / DATASET))).shape
    files.get_file(str(PROCESSED / INDEX), str(folder / INDEX))
    index = read_table(folder / INDEX, ["id", "shard", "row"])
    images = []
    for place in index.take(pc.index_in(ids, index["id"])).to_pylist():
        with files.open(str(PROCESSED / place["shard"]), "rb") as shard:
            shard.seek(HEADER_BYTES + place["row"] * math.prod(shape))
            images.append(np.frombuffer(shard.read(math.prod(shape)), np.uint8).reshape(shape))
    return images


def stale_stages() -> dict[str, list[str]]:
    """What changed since each stage last ran: stage name -> changed dependencies and outputs.

    Files that are merely absent, because they live in a DVC cache that is not here or on the
    machine of whoever has the photos, are no sign of a stale result and are left out.
    """
    from dvc.repo import Repo

    with Repo(".") as repo:
        status = repo.status()
    stale: dict[str, list[str]] = {}
    for stage, entries in status.items():
        changed = []
        for entry in entries:
            if isinstance(entry, str):  # "changed command", "always changed"
                changed.append(entry)
            else:
                for files in entry.values():
                    changed += _changed_names(files)
        if changed:
            stale[stage] = changed
    return stale


def _changed_names(files: dict) -> list[str]:
    names = []
    for name, state in files.items():
        if isinstance(state, dict):  # of a parameter file: key -> state
            names += list(state)
        elif state not in ("deleted", "not in cache") and not _is_empty(Path(name)):
            names.append(name)
    return names


def _is_empty(path: Path) -> bool:
    """True for a folder with no files but .gitignore, such as an inbox without its photos."""
    return path.is_dir() and all(
        file.is_dir() or file.name == ".gitignore" for file in path.rglob("*")
    )


def changed_code(commit: str) -> list[str]:
    """Files below stages/, and dvc.yaml, that differ between `commit` and the working tree."""
    names = _git("diff", "--name-only", "-z", "--relative", commit, "--", "stages", "dvc.yaml")
    return [name for name in names.stdout.decode().split("\0") if name]


def _within(name: str, path: str) -> bool:
    return name == path or name.startswith(path + "/")


def _git(*arguments: str) -> subprocess.CompletedProcess:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        raise UserError("git is not installed, and a review compares git revisions") from None
