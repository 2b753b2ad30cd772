"""dvc.yaml says exactly what each stage reads, and no stage loads what it does not need."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
RUN_A_MODEL = {"train", "evaluate"}


def imported_modules(path: Path) -> set[str]:
    """Names of the project's modules that the file `path` imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return {name for name in names if name.startswith("stages.")}


def files_read(script: Path) -> set[str]:
    """The scripts, and the packages or modules of stages/, that `script` needs to run."""
    seen, waiting = set(), [script]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in imported_modules(path):
            module = ROOT.joinpath(*name.split("."))
            if module.is_dir():
                waiting.append(module / "__init__.py")
            elif module.with_suffix(".py").exists():
                waiting.append(module.with_suffix(".py"))
                if module.parent != ROOT / "stages":
                    waiting.append(module.parent / "__init__.py")
    relative = [path.relative_to(ROOT) for path in seen]
    return {"/".join(path.parts[:2]) for path in relative}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_exactly_the_code_it_imports(name):
    listed = {dep for dep in STAGES[name]["deps"] if dep.startswith("stages/")}
    assert listed == files_read(ROOT / "stages" / f"{name}.py")


@pytest.mark.parametrize("name", STAGES)
def test_outputs_survive_a_failure_of_their_stage(name):
    stage = STAGES[name]
    for kind in ("outs", "metrics", "plots"):
        for out in stage.get(kind, []):
            (path, settings), *_ = out.items()
            assert settings["persist"] is True, path


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
