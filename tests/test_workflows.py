"""The GitHub workflows, as far as they can be tried without GitHub."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOWS = {path.stem: path for path in sorted((ROOT / ".github/workflows").glob("*.yaml"))}


def steps(name: str) -> list[dict]:
    workflow = yaml.safe_load(WORKFLOWS[name].read_text(encoding="utf-8"))
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def script(title: str) -> str:
    return next(step["run"] for step in steps("review") if step.get("name", "").startswith(title))


def bash(text: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", text],
        cwd=cwd,
        env=os.environ | environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


@pytest.mark.parametrize("name", WORKFLOWS)
def test_only_the_actions_of_github_itself_are_used(name):
    used = [step["uses"] for step in steps(name) if "uses" in step]
    assert used
    assert all(action.startswith("actions/") for action in used)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_text_from_a_pull_request_never_becomes_part_of_a_script(name):
    for step in steps(name):
        for code in (step.get("run", ""), step.get("with", {}).get("script", "")):
            assert "${{" not in code


def test_the_targets_that_workflows_make_exist():
    for target in (".venv/.installed", "review", "lint", "test"):
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def versions_in_ci() -> list[str]:
    workflow = yaml.safe_load(WORKFLOWS["tests"].read_text(encoding="utf-8"))
    return workflow["jobs"]["tests"]["strategy"]["matrix"]["python"]


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_make_accepts_the_versions_of_python_that_are_tested_and_no_other(tmp_path, version):
    python = tmp_path / "python"
    told = f"import sys; sys.version_info = ({version.replace('.', ', ')}, 0);"
    # Stands in for that version where it is asked for it, and fails where it should do more.
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] || exit 9\nexec {sys.executable} -c "{told} $2"\n')
    python.chmod(0o755)
    shutil.copy(ROOT / "Makefile", tmp_path)
    command = ["make", f"PYTHON={python}", ".venv/bin/python"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    refused = f"error: {python} is not Python 3.11 to 3.13" in done.stdout
    assert refused == (version not in versions_in_ci())
    assert ("-m venv" in done.stdout) != refused


def test_the_code_is_checked_for_the_oldest_python_that_is_tested():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    oldest = versions_in_ci()[0]
    assert settings["project"]["requires-python"].startswith(f">={oldest}")
    assert settings["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert f"--python-version {oldest} " in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_without_a_remote_the_review_goes_on_with_what_git_holds(tmp_path):
    project = dvc_project(tmp_path)
    said = bash(script("Fetch results"), project, DVC_CONFIG_LOCAL="")
    assert "no default DVC remote" in said
    assert not (project / ".dvc/config.local").exists()


def test_a_remote_that_does_not_work_is_a_warning(tmp_path):
    project = dvc_project(tmp_path)
    config = "[core]\n    remote = store\n['remote \"store\"']\n    url = nonsense://bucket"
    said = bash(script("Fetch results"), project, DVC_CONFIG_LOCAL=config)
    assert "::warning::dvc pull failed" in said


def test_the_pictures_of_a_review_get_addresses_that_last(tmp_path):
    remote, project = tmp_path / "remote.git", tmp_path / "project"
    subprocess.run(["git", "init", "--quiet", "--bare", remote], check=True)
    images = project / "reports/review/images"
    images.mkdir(parents=True)
    (images / "epochs.png").write_bytes(b"a picture")
    comment = project / "reports/review/review.md"
    comment.write_text('<img src="images/epochs.png" width="800">\n')
    (project / "other.txt").write_text("not part of the review")
    bash("git init --quiet && git remote add origin ../remote.git", project)
    step = next(step for step in steps("review") if "Keep the pictures" in step.get("name", ""))
    bash(
        step["run"],
        project,
        **{name: value for name, value in step["env"].items() if "${{" not in value},
        GIT_INDEX_FILE=str(tmp_path / "index"),
        NUMBER="7",
        GITHUB_SERVER_URL="https://github.com",
        GITHUB_REPOSITORY="someone/photos",
    )
    commit = bash("git rev-parse refs/review-images/7", remote).strip()
    assert bash(f"git ls-tree -r --name-only {commit}", remote).split() == ["epochs.png"]
    address = f"https://github.com/someone/photos/raw/{commit}/epochs.png"
    assert comment.read_text() == f'<img src="{address}" width="800">\n'


def dvc_project(folder: Path) -> Path:
    """A project with one DVC output that is not in its cache, and the .venv of the workflow."""
    from dvc.repo import Repo

    project = folder / "project"
    project.mkdir()
    subprocess.run(["git", "init", "--quiet", project], check=True)
    Repo.init(str(project)).close()
    (project / ".venv/bin").mkdir(parents=True)
    dvc = shutil.which("dvc") or Path(sys.executable).with_name("dvc")
    (project / ".venv/bin/dvc").symlink_to(dvc)
    outputs = ("data/splits", "reports/plots", "reports/report.html")
    (project / "dvc.yaml").write_text(
        yaml.safe_dump({"stages": {"all": {"cmd": "true", "outs": list(outputs)}}})
    )
    locked = [
        {"path": path, "hash": "md5", "md5": f"{number:032x}", "size": 1}
        for number, path in enumerate(outputs, 1)
    ]
    (project / "dvc.lock").write_text(
        yaml.safe_dump({"schema": "2.0", "stages": {"all": {"cmd": "true", "outs": locked}}})
    )
    return project
