"""The workflows of GitHub and GitLab, as far as they can be tried without them."""

import json
import os
import shutil
import subprocess
import sys
import threading
import tomllib
import urllib.parse
from http.server import BaseHTTPRequestHandler, HTTPServer
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


def gitlab() -> dict:
    return yaml.safe_load((ROOT / ".gitlab-ci.yml").read_text(encoding="utf-8"))


def gitlab_script(part: str) -> str:
    """The command of GitLab's review that contains `part`."""
    return next(command for command in gitlab()["review"]["script"] if part in command)


FETCH = {"github": lambda: script("Fetch results"), "gitlab": lambda: gitlab_script("dvc pull")}


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


def test_gitlab_runs_what_exists():
    jobs = gitlab()
    assert jobs["tests"]["script"] == [".ci/run"]
    assert jobs["tests"]["parallel"]["matrix"] == [{"PYTHON": versions_in_ci()}]
    made = [line.split()[1] for line in jobs["review"]["script"] if line.startswith("make ")]
    assert made == [".venv/.installed", "review"]
    kept = jobs["review"]["artifacts"]
    assert kept["when"] == "always"
    assert "reports/review/" in kept["paths"]  # without the slash nothing links to it


@pytest.mark.parametrize("job", ["review", "tests"])
def test_every_command_for_gitlab_is_sound_shell(job):
    for command in gitlab()[job]["script"]:
        subprocess.run(["bash", "-n", "-c", command], check=True)


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


@pytest.mark.parametrize("forge", FETCH)
def test_without_a_remote_the_review_goes_on_with_what_git_holds(tmp_path, forge):
    project = dvc_project(tmp_path)
    said = bash(FETCH[forge](), project, DVC_CONFIG_LOCAL="")
    assert "no default DVC remote" in said
    assert not (project / ".dvc/config.local").exists()


@pytest.mark.parametrize("forge", FETCH)
def test_a_remote_that_does_not_work_is_a_warning(tmp_path, forge):
    project = dvc_project(tmp_path)
    config = "[core]\n    remote = store\n['remote \"store\"']\n    url = nonsense://bucket"
    said = bash(FETCH[forge](), project, DVC_CONFIG_LOCAL=config)
    assert "dvc pull failed; the review goes on without the DVC cache" in said


PICTURE = '<img src="images/epochs.png" width="800" alt="learning curves">'


def reviewed(folder: Path) -> Path:
    """A checkout with a review of one picture, as `make review` leaves it; returns the comment."""
    project = folder / "project"
    images = project / "reports/review/images"
    images.mkdir(parents=True)
    (images / "epochs.png").write_bytes(b"a picture")
    (project / "other.txt").write_text("not part of the review")
    bash("git init --quiet && git remote add origin ../remote.git", project)
    comment = project / "reports/review/review.md"
    comment.write_text(f"<!-- image classification review -->\n## + 100 % & more\n{PICTURE}\n")
    return comment


def keep_pictures(project: Path) -> str:
    """Run the step; returns the summary of the run."""
    step = next(step for step in steps("review") if "Keep the pictures" in step.get("name", ""))
    bash(
        step["run"],
        project,
        **{name: value for name, value in step["env"].items() if "${{" not in value},
        GIT_INDEX_FILE=str(project.parent / "index"),
        GITHUB_STEP_SUMMARY=str(project.parent / "summary.md"),
        NUMBER="7",
        GITHUB_SERVER_URL="https://github.com",
        GITHUB_REPOSITORY="someone/photos",
    )
    return (project.parent / "summary.md").read_text()


def test_the_pictures_of_a_review_get_addresses_that_last(tmp_path):
    remote = tmp_path / "remote.git"
    subprocess.run(["git", "init", "--quiet", "--bare", remote], check=True)
    comment = reviewed(tmp_path)
    summary = keep_pictures(tmp_path / "project")
    commit = bash("git rev-parse refs/review-images/7", remote).strip()
    assert bash(f"git ls-tree -r --name-only {commit}", remote).split() == ["epochs.png"]
    address = f"https://github.com/someone/photos/raw/{commit}/epochs.png"
    assert PICTURE.replace("images/epochs.png", address) in comment.read_text()
    assert summary == comment.read_text()


def test_a_token_that_may_not_write_leaves_the_review_in_the_summary(tmp_path):
    comment = reviewed(tmp_path)  # and no remote that would take anything
    summary = keep_pictures(tmp_path / "project")
    assert "## + 100 % & more\nThe picture <code>images/epochs.png</code> is in the" in summary
    assert "<img" not in summary
    assert summary == comment.read_text()


def test_a_review_without_pictures_is_published_too(tmp_path):
    comment = reviewed(tmp_path)
    comment.with_name("images").joinpath("epochs.png").unlink()
    comment.write_text("The model is byte-identical.\n")
    assert keep_pictures(tmp_path / "project") == "The model is byte-identical.\n"


NODE = shutil.which("node")
HARNESS = """
const said = [];
const answer = name => async options => {
  said.push([name, options.comment_id ?? options.issue_number]);
  if (STATUS) throw Object.assign(new Error('refused'), {status: STATUS});
};
const issues = {createComment: answer('create'), updateComment: answer('update')};
const github = {rest: {issues}, paginate: async () => EARLIER};
const context = {repo: {owner: 'someone', repo: 'photos'}, issue: {number: 7}};
const core = {notice: message => said.push(['notice', message])};
(async () => {SCRIPT})().then(() => console.log(JSON.stringify(said)));
"""


def post(project: Path, earlier: list[dict], status: int = 0) -> list[list]:
    """What the step that posts the comment asks of GitHub, which answers `status` if not 0."""
    text = next(
        s["with"]["script"] for s in steps("review") if s.get("name", "").startswith("Post")
    )
    code = HARNESS.replace("SCRIPT", text).replace("STATUS", str(status))
    code = code.replace("EARLIER", json.dumps(earlier))
    done = subprocess.run([NODE, "-e", code], cwd=project, check=True, capture_output=True)
    return json.loads(done.stdout)


@pytest.mark.skipif(not NODE, reason="no node, which GitHub runs the script with")
def test_the_comment_is_posted_updated_or_left_to_the_summary(tmp_path):
    comment = reviewed(tmp_path)
    marker = comment.read_text().splitlines()[0]
    earlier = [{"id": 1, "body": "Looks good"}, {"id": 2, "body": f"{marker}\nold"}]
    project = tmp_path / "project"
    assert post(project, earlier[:1]) == [["create", 7]]
    assert post(project, earlier) == [["update", 2]]
    (tried, (kind, message)) = post(project, [], status=403)
    assert (tried, kind) == (["create", 7], "notice")
    assert "summary" in message
    with pytest.raises(subprocess.CalledProcessError):
        post(project, [], status=500)


@pytest.fixture
def notes():
    """Answers as the notes of a merge request do on GitLab; `asked` is what it was told."""

    class Notes(BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer(self.server.notes)

        def do_POST(self):
            length = int(self.headers["Content-Length"])
            form = urllib.parse.parse_qs(self.rfile.read(length).decode(), strict_parsing=True)
            self.server.asked.append((self.command, self.path, form["body"][0]))
            self.answer({})

        do_PUT = do_POST

        def answer(self, content):
            self.send_response(200 if self.headers["PRIVATE-TOKEN"] == "secret" else 401)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *arguments):
            pass

    with HTTPServer(("127.0.0.1", 0), Notes) as server:
        server.notes, server.asked = [{"id": 1, "body": "Looks good"}], []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_gitlab_gets_the_comment_once_and_updates_it(tmp_path, notes):
    comment = reviewed(tmp_path)
    project = tmp_path / "project"
    (project / ".venv/bin").mkdir(parents=True)
    (project / ".venv/bin/python").symlink_to(sys.executable)

    def publish(token: str) -> str:
        return bash(
            gitlab_script("REVIEW_TOKEN"),
            project,
            REVIEW_TOKEN=token,
            CI_JOB_URL="https://gitlab.com/someone/photos/-/jobs/5",
            CI_API_V4_URL=f"http://127.0.0.1:{notes.server_port}/api/v4",
            CI_MERGE_REQUEST_PROJECT_ID="3",
            CI_MERGE_REQUEST_IID="7",
            no_proxy="127.0.0.1",
        )

    assert "no REVIEW_TOKEN; the review is reports/review/review.md" in publish("")
    assert notes.asked == []
    publish("secret")
    notes.notes.append({"id": 2, "body": comment.read_text()})
    publish("secret")
    path = "/api/v4/projects/3/merge_requests/7/notes"
    assert [asked[:2] for asked in notes.asked] == [("POST", path), ("PUT", f"{path}/2")]
    raw = "https://gitlab.com/someone/photos/-/jobs/5/artifacts/raw/reports/review/images/"
    shown = comment.read_text().replace("images/", raw)
    assert [asked[2] for asked in notes.asked] == [shown, shown]
    with pytest.raises(subprocess.CalledProcessError):
        publish("expired")


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
    outputs = ("data/splits", "reports/report.html")
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
