"""dvc.yaml says exactly what each stage depends on, and no stage loads what it does not need."""

import ast
import fnmatch
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
RUN_A_MODEL = {"features", "train", "evaluate"}

# What reruns when a file is edited. The first pattern that fits counts.
RERUNS = """
stages/__init__.py                   -
stages/arguments.py                  -
stages/errors.py                     -
stages/progress.py                   -
stages/imports.py                    -
stages/quiet.py                      features train evaluate export
stages/scikit.py                     -
stages/predict.py                    -
stages/demo.py                       -
stages/inference/answers.py          -
stages/inference/inputs.py           -
stages/inference/drift.*             -
stages/recipe.py                     -
stages/review/*                      -
stages/serve.py                      -
stages/serving/*                     -
stages/search.*                      -

stages/download.py                   download
stages/sources/*                     download
stages/preprocess.py                 preprocess
stages/images/decode.py              preprocess export
stages/images/formats.py             preprocess export
stages/images/resize.py              preprocess export
stages/images/*                      preprocess
stages/workers.py                    download preprocess split features
stages/processes.py                  export plot
stages/split.py                      split
stages/splits/*                      split
stages/features.py                   features
stages/architectures/*               features train
stages/inference/deployable.py       features train
stages/inference/embed.py            features
stages/inference/fold.py             features train evaluate export
stages/inference/frozen.py           features train evaluate
stages/train.py                      train
stages/augmentation/*                train
stages/training/batches.py           train export
stages/training/*                    train
stages/evaluate.py                   evaluate
stages/export.*                      export
stages/inference/convert.py          export
stages/inference/exported.py         export
stages/inference/parity.py           export
stages/store/exported.py             export
stages/inference/probabilities.py    train evaluate export
stages/inference/seen.py             train evaluate export
stages/inference/trust.py            train evaluate export
stages/inference/*                   evaluate
stages/metrics/paired.py             export
stages/metrics/scores.py             evaluate export plot
stages/metrics/*                     evaluate plot
stages/report/model_card.md.j2       evaluate plot
stages/report/summary.py             evaluate plot
stages/report/*                      plot
stages/figures/*                     plot
stages/plot.py                       plot

stages/parameters/download.py        download preprocess plot
stages/parameters/pixels.py          preprocess split features train evaluate export plot
stages/parameters/preprocess.py      preprocess plot
stages/parameters/split.py           split plot
stages/parameters/augment.py         features train plot
stages/parameters/model.py           features train plot
stages/parameters/train.py           train plot
stages/parameters/evaluate.py        evaluate plot
stages/parameters/export.py          export plot
stages/parameters/plot.py            plot
stages/parameters/whole.py           plot
stages/parameters/section.py         download preprocess split features train evaluate export plot
stages/parameters/yaml_file.py       download preprocess split features train evaluate export plot

stages/files.py                      download preprocess split features train evaluate export plot
stages/store/features.py             features train evaluate
stages/store/archives.py             download preprocess export
stages/store/blobs.py                download preprocess split features train evaluate export plot
stages/store/corrections.py          preprocess plot
stages/store/raw.py                  download preprocess export
stages/store/processed.py            preprocess split features train evaluate export plot
stages/store/image_set.py            features train evaluate export plot
stages/store/model.py                features train evaluate export plot
stages/store/names.py                download preprocess split evaluate export plot
stages/store/outputs.py              download preprocess split features train evaluate export plot
stages/store/tables.py               download preprocess split features train evaluate export plot
"""
CHANGES_NOTHING = {"stages/__init__.py"} | {
    f"stages/{name}.py" for name in ("errors", "imports", "progress", "scikit")
}
TEMPLATES = {
    "stages/export.py": ("export.md.j2",),
    "stages/report/page.py": ("report/page.*", "theme.css", "curves.js"),
    "stages/report/summary.py": ("model_card.md.j2",),
}


def has_code(path: Path) -> bool:
    """Whether a file under stages/ can change anything: not a docstring alone."""
    if path.suffix != ".py":
        return True
    return not all(
        isinstance(node, ast.Expr) for node in ast.parse(path.read_text(encoding="utf-8")).body
    )


FILES = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "stages").rglob("*")
    if path.is_file() and "__pycache__" not in path.parts and has_code(path)
)


def reruns(file: str) -> set[str]:
    rows = [line.split() for line in RERUNS.splitlines() if line]
    stages = next(row[1:] for row in rows if fnmatch.fnmatch(file, row[0]))
    return set(stages) - {"-"}


class _Imports(ast.NodeVisitor):
    """Names of modules that a file imports, anywhere in it, but for type checkers."""

    def __init__(self, path: Path):
        self.names: set[str] = set()
        self.visit(ast.parse(path.read_text(encoding="utf-8")))

    def visit_If(self, node: ast.If) -> None:
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.names |= {alias.name for alias in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.level == 0, "relative import"
        self.names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}


def needed(script: Path) -> set[str]:
    """The files under stages/ whose code works in `script`, by what imports what."""
    seen, waiting = set(), [script]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in _Imports(path).names:
            module = ROOT.joinpath(*name.split("."))
            file = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
            if name.startswith("stages.") and file.exists():
                waiting += [file, file.parent / "__init__.py"]
    found = {str(path.relative_to(ROOT)) for path in seen if has_code(path)}
    for module, patterns in TEMPLATES.items():
        if module in found:
            found |= {f for f in FILES if any(Path(f).match(pattern) for pattern in patterns)}
    if script.stem in (
        "features",
        "train",
    ):  # takes an architecture by the name that a setting says
        found |= {file for file in FILES if file.startswith("stages/architectures/")}
    return found - CHANGES_NOTHING


def listed(stage: str) -> set[str]:
    deps = [dep for dep in STAGES[stage]["deps"] if dep.startswith("stages/")]
    return {file for file in FILES if any(file == d or file.startswith(f"{d}/") for d in deps)}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_code_that_works_in_it(stage):
    assert listed(stage) == needed(ROOT / "stages" / f"{stage}.py")


@pytest.mark.parametrize("file", FILES)
def test_an_edit_reruns_what_the_table_says(file):
    assert {stage for stage in STAGES if file in listed(stage)} == reruns(file)


def test_a_whole_folder_is_listed_where_all_of_it_is_needed():
    for stage in STAGES.values():
        for dep in stage["deps"]:
            assert "$" in dep or not dep.startswith("stages/") or (ROOT / dep).exists(), dep


@pytest.mark.parametrize("name", STAGES)
def test_outputs_survive_a_failure_of_their_stage(name):
    stage = STAGES[name]
    for kind in ("outs", "metrics", "plots"):
        for out in stage.get(kind, []):
            (path, settings), *_ = out.items()
            assert settings["persist"] is True, path


def test_keras_starts_without_what_it_can_do_without():
    code = (
        "import sys, stages.quiet\n"
        "print([m for m in ('sklearn', 'matplotlib', 'cv2') if m in sys.modules])\n"
        "import sklearn, matplotlib, cv2, keras"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", [*sorted(set(STAGES) - RUN_A_MODEL), "review"])
def test_a_stage_that_runs_no_model_does_not_import_tensorflow(name):
    code = (
        f"import sys, stages.{name}\n"
        "print([m for m in ('tensorflow', 'keras', 'sklearn', 'dvc') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"
