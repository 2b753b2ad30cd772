"""The Dockerfile, its steps taken one by one without Docker: what is copied, what is installed, and
whether the service answers from that alone."""

import ctypes
import fnmatch
import json
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from contextlib import suppress
from pathlib import Path

import pytest
from test_dvc_yaml import needed

from bench.faults.cases import tree
from bench.faults.requests import form_of
from bench.serve import ask, equal, free_port, predictions

ROOT = Path(__file__).parent.parent
# What is in python:3.12-slim, in bytes: 125 MB as `docker images` tells it.
BASE_BYTES, LIMIT_BYTES = 125e6, 400e6
THEME = "stages/report/theme.css"  # colours that the demo page shares with the report
MODEL_BYTES = 20e6  # EfficientNet-Lite2 as LiteRT takes 20 MB


def steps() -> list[tuple[str, str]]:
    """Instructions of the Dockerfile with their arguments."""
    text = re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def let_in(path: str) -> bool:
    """Whether .dockerignore lets a file into the build; the last line that fits counts."""
    inside = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        parents = [path, *map(str, Path(path).parents)]
        if any(matches(parent, pattern) for parent in parents):
            inside = line.startswith("!")
    return inside


def matches(path: str, pattern: str) -> bool:
    """As Docker has it: * stays within a folder, **/ is any folder."""
    if pattern.startswith("**/"):
        return fnmatch.fnmatch(Path(path).name, pattern[3:])
    return path.count("/") == pattern.count("/") and path != "." and fnmatch.fnmatch(path, pattern)


def context() -> list[str]:
    """Files of the project that reach the build."""
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return sorted(filter(let_in, set(files.stdout.splitlines())))


def pins(name: str) -> dict[str, set[str]]:
    """The versions that a file of requirements names, by package."""
    found: dict[str, set[str]] = {}
    for package, version in re.findall(
        r"(?m)^([\w.-]+)==([\w.!+-]+)", (ROOT / name).read_text(encoding="utf-8")
    ):
        found.setdefault(package, set()).add(version)
    return found


def test_what_reaches_the_container_is_what_the_service_imports():
    code = needed(ROOT / "stages/serve.py") | {"stages/errors.py", "stages/__init__.py"}
    assert code <= set(context())
    packages = {str(Path(file).parent / "__init__.py") for file in code}
    others = set(context()) - code - packages - {"requirements-serve.txt", THEME}
    assert {str(Path(file).parent) for file in others} <= {"stages/serving"}  # the demo page
    assert {Path(file).suffix for file in others} <= {".html", ".js", ".css"}
    assert let_in("models/export/model.tflite")
    assert let_in("models/export/golden/0.png")
    assert not let_in("models/export/model.onnx")  # whose runtime is not installed
    assert not let_in("models/model.keras")
    assert not let_in("data/raw/manifest.csv")


def test_the_lock_of_the_container_is_that_of_the_project():
    serve, whole = pins("requirements-serve.txt"), pins("requirements-export.txt")
    assert serve == {name: whole[name] for name in serve}
    assert not {"tensorflow", "keras", "dvc", "scikit-learn", "scipy"} & set(serve)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    asked = {re.split(r"[<>=;! ]", line)[0] for line in settings["dependency-groups"]["serve"]}
    assert asked <= set(serve)


def test_the_container_does_not_run_as_root_and_writes_nothing():
    names = [name for name, _ in steps()]
    assert names.count("FROM") == 1
    instructions = dict(steps())
    assert instructions["USER"].split(":")[0] not in ("0", "root")
    assert names.index("USER") > max(n for n, name in enumerate(names) if name in ("RUN", "COPY"))
    assert "VOLUME" not in names


@pytest.fixture
def place():
    """A folder that any user may enter, as the root of the container."""
    folder = Path(tempfile.mkdtemp(prefix="container-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


class Built:
    """What the steps of the Dockerfile make of `place`, in the place of its root."""

    def __init__(self, place: Path, export: Path):
        self.work, self.user = place, ""
        self.environment = {"PATH": f"{place}/venv/bin:/usr/bin:/bin", "HOME": "/nonexistent"}
        self.command: list[str] = []
        self.health: list[str] = []
        self._place, self._export = place, export
        for name, text in steps():
            getattr(self, f"_{name.lower()}")(text)

    def _from(self, image: str) -> None:
        # Whichever Python runs the tests is as good: the lock is for all of them.
        assert re.fullmatch(r"python:3\.1[123]-slim", image)
        environment = self._place / "venv"
        venv.create(environment, symlinks=True)
        pip = environment / "bin/pip"  # that of this Python: installing one takes seconds
        python = f"{shlex.quote(sys.executable)} -m pip --python {environment}/bin/python"
        pip.write_text(f'#!/bin/sh\nexec {python} "$@"\n')
        pip.chmod(0o755)

    def _workdir(self, path: str) -> None:
        self.work = self._place / path.lstrip("/")
        self.work.mkdir(parents=True)

    def _copy(self, text: str) -> None:
        source, target = text.split()
        if source == "models/export":
            shutil.copytree(self._export, self.work / target)
            return
        chosen = [file for file in context() if file == source or file.startswith(f"{source}/")]
        assert chosen, f"nothing to copy for {source}"
        for file in chosen:
            to = (
                self.work
                / target
                / (Path(file).name if file == source else file[len(source) + 1 :])
            )
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / file, to)

    def _run(self, command: str) -> None:
        index = {key: value for key, value in os.environ.items() if key.startswith("PIP_")}
        home = {"HOME": os.environ.get("HOME", "/")}  # where a user's pip.conf names an index
        done = subprocess.run(
            ["sh", "-ec", command],
            cwd=self.work,
            env=self.environment | index | home,
            capture_output=True,
            text=True,
        )
        if re.search("NewConnectionError|ConnectTimeoutError|NameResolutionError", done.stderr):
            missing = "the packages of requirements-serve.txt cannot be fetched here"
            pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
        assert done.returncode == 0, done.stderr

    def _env(self, text: str) -> None:
        self.environment |= dict(part.split("=", 1) for part in shlex.split(text))

    def _user(self, text: str) -> None:
        self.user = text

    def _expose(self, port: str) -> None:
        self.port = int(port)

    def _healthcheck(self, text: str) -> None:
        self.health = json.loads(text.removeprefix("CMD "))

    def _cmd(self, text: str) -> None:
        self.command = json.loads(text)

    def bytes(self) -> float:
        """Size of the image with a model of a usual size."""
        packages = next((self._place / "venv/lib").glob("python*/site-packages"))
        here = size(packages) + size(self.work)
        return BASE_BYTES + here - size(self.work / "models/export") + MODEL_BYTES


def size(path: Path) -> int:
    return sum(file.lstat().st_size for file in [path, *path.rglob("*")])


def outsider(python: Path) -> dict:
    """How `subprocess` starts a program that may do less than root, as far as this machine lets.

    Where no other user can reach the Python that runs the tests, root without its privileges has to
    do: it may not write where the permissions say so.
    """
    if os.getuid():
        return {}
    nobody = {"user": 65534, "group": 65534, "extra_groups": []}
    with suppress(OSError):
        if (
            subprocess.run([python, "-c", ""], cwd="/", capture_output=True, **nobody).returncode
            == 0
        ):
            return nobody
    return {"preexec_fn": give_up_privileges}


def give_up_privileges() -> None:
    """Leave this process no capability: root is then a user who owns files."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("<Ii", 0x20080522, 0)  # version 3, this process
    if libc.capset(header, bytes(24)):
        raise OSError(ctypes.get_errno(), "capset")


def read_only(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)


def wait_until_ready(process: subprocess.Popen, port: int) -> None:
    for _ in range(600):
        assert process.poll() is None, process.communicate()
        with suppress(OSError):
            return ask(port, "/readyz")
        time.sleep(0.05)
    pytest.fail("the service does not get ready")


def test_the_steps_of_the_dockerfile_make_a_service(place, exported, tmp_path):
    built = Built(place, exported)
    assert built.bytes() < LIMIT_BYTES
    read_only(built.work)
    before, port = tree(built.work), free_port()
    photo = exported / "golden/0.png"
    assert built.command[:3] == ["python", "-m", "stages.serve"]
    start = {"cwd": built.work, "env": built.environment, **outsider(place / "venv/bin/python")}
    with subprocess.Popen(
        # The last of two is what counts.
        [*built.command, "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **start,
    ) as process:
        wait_until_ready(process, port)
        kind, body = form_of([(photo.name, photo.read_bytes())])
        answer = json.loads(ask(port, "/predict", body, kind))
        health = [part.replace(f":{built.port}/", f":{port}/") for part in built.health]
        assert str(port) in health[-1]
        assert subprocess.run(health, **start).returncode == 0
        process.terminate()
        assert process.wait(30) == 0
        process.communicate()
    assert tree(built.work) == before
    expected = predictions([photo], exported / "model.tflite", tmp_path / "expected.json")
    assert equal(answer, expected[photo.name])
    down = subprocess.run(health, capture_output=True, **start)
    assert down.returncode != 0
