"""Outputs of a stage appear together at its end, made from inputs that stood still."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stages.errors import UserError
from stages.store.outputs import outputs_of, replace

ROOT = Path(__file__).parent.parent
PIPELINE = """
stages:
  make:
    cmd: python -m stages.make
    params: [make, other.depth]
    deps: ["${make.path}", data/raw, stages/make.py, stages/shared]
    outs: [out]
  fetch:
    cmd: python -m stages.fetch
    outs: [data/raw: {persist: true}]
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "dvc.yaml": PIPELINE,
        "params.yaml": "make: {path: data/inbox, size: 3}\nother: {depth: 1, width: 2}\n",
        "data/inbox/cat/1.jpg": "one",
        "data/raw/manifest.csv": "id",
        "stages/make.py": "print()\n",
        "stages/shared/code.py": "pass\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with outputs_of("make") as outputs:
        outputs.file(Path("report.json")).write_text("earlier")
        (outputs.directory(Path("data/out")) / "rows").write_text("earlier")
    return tmp_path


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*.tmp")]


def make(change=lambda: None) -> None:
    with outputs_of("make") as outputs:
        outputs.file(Path("report.json")).write_text("new")
        (outputs.directory(Path("data/out")) / "rows").write_text("new")
        change()


def edit(name: str, text: str):
    return lambda: Path(name).write_text(text)


CHANGES = {
    "params.yaml: make": edit(
        "params.yaml", "make: {path: data/inbox, size: 4}\nother: {depth: 1}"
    ),
    "params.yaml: other.depth": edit(
        "params.yaml", "make: {path: data/inbox, size: 3}\nother: {depth: 2}"
    ),
    "stages/make.py": edit("stages/make.py", "print(2)\n"),
    "stages/shared": edit("stages/shared/more.py", ""),
    "data/inbox": edit("data/inbox/cat/2.jpg", "two"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_while_the_stage_runs_fails_it_and_keeps_the_earlier_outputs(project, what):
    with pytest.raises(UserError, match=f"^{what} changed while make was running"):
        make(CHANGES[what])
    assert Path("report.json").read_text() == Path("data/out/rows").read_text() == "earlier"
    assert not left_over(project)
    make()
    assert Path("report.json").read_text() == Path("data/out/rows").read_text() == "new"


def test_what_the_stage_does_not_depend_on_may_change(project):
    def change():
        Path("params.yaml").write_text(
            "# a comment\nmake: {size: 3, path: data/inbox}\nother: {depth: 1, width: 9}\n"
        )
        Path("stages/other.py").write_text("")
        Path("stages/shared/__pycache__").mkdir()
        Path("stages/shared/__pycache__/code.pyc").write_text("compiled meanwhile")
        Path("data/inbox/.DS_Store").write_text("somebody looked")
        os.utime("stages/make.py")

    make(change)
    assert Path("report.json").read_text() == "new"


def test_a_failure_keeps_the_earlier_outputs(project):
    with pytest.raises(ZeroDivisionError):
        make(lambda: 1 / 0)
    assert Path("report.json").read_text() == Path("data/out/rows").read_text() == "earlier"
    assert not left_over(project)


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("data/raw", "the stage fetch makes it: run dvc repro"),
        ("stages/make.py", "git checkout stages/make.py brings it back"),
    ],
)
def test_a_missing_input_is_named_with_what_to_do(project, path, remedy):
    Path(path).rename("elsewhere")
    with pytest.raises(UserError, match=f"^{path} is missing; {remedy}"):
        make()


def test_of_a_missing_input_that_a_setting_names_the_stage_itself_speaks(project):
    Path("data/inbox").rename("elsewhere")
    with pytest.raises(UserError, match=r"set make\.path"):
        make(lambda: (_ for _ in ()).throw(UserError("set make.path")))


def test_a_stage_runs_once_at_a_time(project):
    code = (
        "import sys, time\nfrom stages.store.outputs import outputs_of\n"
        "with outputs_of(sys.argv[1]):\n    print('running', flush=True)\n    input()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, "make"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "running\n"
    with pytest.raises(UserError, match="another make is running in this folder"):
        make()
    with outputs_of("other"):
        pass
    other.kill()
    other.wait()
    make()
    assert Path("report.json").read_text() == "new"


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux'")
def test_a_folder_is_never_absent_while_it_is_replaced(tmp_path):
    path, missing, stop = tmp_path / "out", [], threading.Event()
    path.mkdir()

    def watch():
        while not stop.is_set():
            if not os.path.exists(path):
                missing.append(1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for number in range(300):
        new = tmp_path / f"new-{number}"
        new.mkdir()
        (new / "row").write_text(str(number))
        replace(new, path)
    stop.set()
    watcher.join()
    assert not missing
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (path / "row").read_text() == "299"


def test_what_a_kill_left_is_cleared_or_taken_back(project):
    Path("data/out").rename("data/.out.old.tmp")  # between two renames, where there is no exchange
    Path(".report.json.tmp").write_text("half")
    make(lambda: None if Path("data/out/rows").read_text() == "earlier" else 1 / 0)
    assert Path("data/out/rows").read_text() == "new"
    assert not left_over(project)


def run_program(folder: Path, code: str) -> subprocess.CompletedProcess:
    (folder / "stages").mkdir(exist_ok=True)
    for name in ("__init__.py", "errors.py"):
        (folder / "stages" / name).write_text((ROOT / "stages" / name).read_text())
    (folder / "stages" / "program.py").write_text(code)
    return subprocess.run(
        [sys.executable, "-m", "stages.program"],
        cwd=folder,
        capture_output=True,
        text=True,
        # Whoever runs this in the background may have Ctrl-C ignored, which a child inherits.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("OSError(errno.ENOSPC, '', 'big')", "the disk is full while writing big; free some"),
        ("OSError(errno.EROFS, '', 'x.csv')", "cannot write x.csv: the file system is read-only"),
        ("OSError(errno.EFBIG, '', 'x.npy')", "cannot write x.npy: larger than the file system"),
        ("OSError(errno.ELOOP, 'Too many levels', b'x')", "the system refuses x: Too many levels"),
        ("FileNotFoundError(2, '', 'data/raw')", "data/raw is missing"),
        ("PermissionError(13, '', 'reports')", "no permission to use reports"),
        ("MemoryError()", "out of memory"),
        ("KeyboardInterrupt()", "interrupted; run the same command again to continue"),
        ("UserError('two\\nlines of \\udcff')", "two lines of \\udcff"),
    ],
)
def test_what_the_machine_refuses_is_one_line(tmp_path, error, message):
    code = "import errno\nfrom stages.errors import UserError, run\ndef main():\n"
    done = run_program(tmp_path, f"{code}    raise {error}\nrun(main)\n")
    assert done.returncode == (130 if "Keyboard" in error else 1)
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize(("returned", "code"), [("None", 0), ("3", 3)])
def test_what_main_returns_is_the_exit_code_and_nothing_printed_is_lost(
    tmp_path, at_once, returned, code
):
    main = f"def main():\n    print('done', end='')\n    return {returned}\n"
    done = run_program(
        tmp_path, f"from stages.errors import run\n{main}run(main, at_once={at_once})\n"
    )
    assert (done.returncode, done.stdout) == (code, "done")


def test_ctrl_c_during_imports_is_one_line(tmp_path):
    done = run_program(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    assert done.stderr == "error: interrupted; run the same command again to continue\n"
    assert done.returncode != 0


def test_a_fault_of_ours_keeps_its_traceback(tmp_path):
    done = run_program(tmp_path, "from stages.errors import run\nrun(lambda: 1 / 0)\n")
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError" in done.stderr
