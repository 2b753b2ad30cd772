"""Stages killed in the midst of changing files, and run again: the bytes of an undisturbed run.

A module that Python imports at its start counts what the stage changes in its project (files
opened for writing, renamed, removed, folders made) and kills it before a change drawn at random,
or a moment after it. Before the second run every output must be there as it was or as it will be.
"""

import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from bench.faults.cases import (
    ACCEPTED,
    REJECTED,
    Outcome,
    Place,
    case_random,
    differences,
    first,
    traceback_outcome,
    tree,
)
from bench.faults.images import picture
from bench.faults.watched import GIB, Done, run_stage
from bench.measure import ROOT, write_parameters

STAGES = (
    *("download", "preprocess", "split", "features"),
    *("train", "evaluate", "export", "plot"),
)
SECONDS = 300  # of work: a stage with TensorFlow on a busy machine
MEMORY = 8 * GIB
SIGNALS = ("SIGKILL", "SIGKILL", "SIGKILL", "SIGKILL", "SIGINT", "SIGTERM")

HOOK = """
import atexit, os, signal, sys, threading

root = os.path.join(os.environ["FAULTS_PROJECT"], "")
at, how = int(os.environ["FAULTS_AT"]), getattr(signal, os.environ["FAULTS_SIGNAL"])
delay, count_in = float(os.environ["FAULTS_DELAY"]), os.environ["FAULTS_COUNT_IN"]
imports = os.environ["FAULTS_EVENTS"] == "imports"
CHANGES = {"os." + name for name in "rename remove mkdir rmdir link symlink truncate".split()}
count = 0

def counts(event, arguments):
    if imports:  # from the moment on at which the stage can do something about it
        return event == "import" and hasattr(sys.modules.get("stages.errors"), "run")
    if event == "open":
        path, _, flags = arguments
        if not flags or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return False
    elif event in CHANGES:
        path = arguments[0]
    else:
        return False
    if not isinstance(path, (str, bytes, os.PathLike)):
        return False
    return os.path.abspath(os.fsdecode(path)).startswith(root)

def strike():
    os.kill(os.getpid(), how)

def watch(event, arguments):
    global count
    if event not in ("open", "import") and event not in CHANGES:
        return
    if counts(event, arguments):
        count += 1
        if count == at:
            if delay:
                timer = threading.Timer(delay, strike)
                timer.daemon = True
                timer.start()
            else:
                strike()

def write_count():
    with open(count_in, "w") as file:
        file.write(str(count))

def leave(code, leave_at_once=os._exit):  # as stages with TensorFlow do
    write_count()
    leave_at_once(code)

if count_in:
    atexit.register(write_count)
    os._exit = leave
sys.addaudithook(watch)
"""


class Moment(NamedTuple):
    """A stage about to run: the project before it and after it, and how often it changes files."""

    before: Path
    after: dict[Path, bytes]
    changes: int


class Subject:
    """A small project, run undisturbed with two kinds of settings, and what each stage made of it.

    Stages are struck where the results of the first settings lie and those of the second are
    being made, so that every output is replaced.
    """

    def __init__(self, folder: Path, stages: Sequence[str] = STAGES):
        self.folder, self.stages = folder, stages
        self.hook = folder / "hook"
        self.hook.mkdir(parents=True)
        (self.hook / "sitecustomize.py").write_text(HOOK)
        project = Place(folder / "undisturbed").project
        make_project(project, earlier=True)
        for stage in stages:
            run_whole(stage, project)
        make_project(project, earlier=False)
        self.moments: dict[str, Moment] = {}
        for stage in stages:
            before = folder / f"before-{stage}"
            copy(project, before)
            count = folder / f"count-{stage}"
            run_whole(stage, project, self.hook, project, count)
            self.moments[stage] = Moment(before, contents(project), int(count.read_text()))
            print(f"kills: {stage} changes files {count.read_text()} times", flush=True)
        self.outputs = outputs_of_stages()
        self.project = project

    def run_case(self, seed: int, number: int) -> Outcome:
        """Strike a stage, look at what it left behind, run it to its end and compare."""
        random = case_random(seed, "kills", number)
        stage = self.stages[number % len(self.stages)]
        moment = self.moments[stage]
        how = random.choice(SIGNALS)
        imports = how == "SIGINT" and random.random() < 0.3
        at = random.randint(1, 300 if imports else moment.changes)
        delay = random.choice((0, 0, 0, 0.0005, 0.005))
        fresh = random.random() < 0.3
        what = f"{stage}, {how} at {'import' if imports else 'change'} {at} of {moment.changes}"
        what += f" and {delay} s" * bool(delay) + ", no earlier results" * fresh
        place = Place(self.folder / f"case-{number}")
        project = place.project
        copy(moment.before, project)
        outputs = self.outputs[stage]
        if fresh:
            for output in outputs:
                remove(project / output)
        before = contents(project)
        settings = {"FAULTS_AT": str(at), "FAULTS_SIGNAL": how, "FAULTS_DELAY": str(delay)}
        settings |= {"FAULTS_EVENTS": "imports" if imports else "changes"}
        struck = run(stage, project, self.hook, project, **settings)
        outcome = judge_struck(struck, how)
        if not outcome.is_fault:
            outcome = self.judge_rest(outcome, stage, project, before)
        if outside := place.written_outside():
            outcome = Outcome("outside", first(outside))
        if not outcome.is_fault:
            shutil.rmtree(place.top)
        return outcome._replace(detail=f"{what}: {outcome.detail}")

    def judge_rest(
        self, outcome: Outcome, stage: str, project: Path, before: dict[Path, bytes]
    ) -> Outcome:
        """What the struck stage left, and what a second run makes of it."""
        moment, left = self.moments[stage], contents(project)
        for output in self.outputs[stage]:
            kept, made = below(output, before), below(output, moment.after)
            if kept and below(output, left) not in (kept, made):
                lines = differences(below(output, left), kept)
                return Outcome("an earlier result not whole", first(lines))
        again = run(stage, project)
        if again.code or again.stopped:
            return Outcome("not resumed", f"exit code {again.code}: {again.err}")
        if lines := differences(contents(project), moment.after):
            return Outcome("differs", first(lines))
        return outcome


def judge_struck(done: Done, how: str) -> Outcome:
    """Whether a stage ended as the signal wants: dead, or with one line; or before it came."""
    if done.stopped:
        return Outcome("hang", f"after {how}: {done.err}")
    if done.code == 0:
        return Outcome(ACCEPTED, "it ended first", "ended first")
    if "Traceback" in done.err or "Exception ignored" in done.err:
        return traceback_outcome(done.err)
    if done.code == -getattr(signal, how) and how != "SIGINT":
        return Outcome(ACCEPTED, how)
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    if len(errors) == 1 and how != "SIGKILL":
        return Outcome(REJECTED, errors[0])
    return Outcome("no single error line", f"exit code {done.code} after {how}: {done.err}")


def make_project(project: Path, earlier: bool) -> None:
    """Sixty small photos of two classes, one of them broken, and the settings of a tiny net.

    With `earlier` the settings that made the results which are being replaced; then a photo
    that changes and one that goes.
    """
    inbox = project / "data/inbox"
    for number in range(60):
        path = inbox / "ab"[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = number + 100 * (not earlier and number % 10 == 0)
        picture("L" if number % 2 else "RGB", seed, size=(20, 16)).save(path)
    (inbox / "a/broken.png").write_bytes(b"no image")
    if not earlier:
        (inbox / "b/01.png").unlink()
    write_parameters(
        project,
        download={"source": "folder"},
        preprocess={
            "size": [18, 18],
            "color": "rgb",
            "max_rejects": 0.5,
            "background": [0, 0, 0] if earlier else [255, 255, 255],
        },
        split={"seed": int(earlier)},
        model={"name": "convnet", "settings": {"filters": [4, 4, 4], "dense": 8}},
        train={
            "epochs": 2,
            "batch_size": 16,
            "precision": "float32",
            "save_epochs": True,
            "seed": int(earlier),
        },
        evaluate={"top_k": 2 if earlier else 1, "grad_cam": 2},
        plot={"samples": 4 if earlier else 5, "mistakes": 4, "page_megabytes": 2},
    )


def trained_model(folder: Path) -> bytes:
    """The model that the undisturbed pipeline trains on the small project."""
    project = Place(folder).project
    make_project(project, earlier=False)
    for stage in STAGES[:4]:
        run_whole(stage, project)
    return (project / "models/model.keras").read_bytes()


def run(stage: str, project: Path, hook: Path | None = None, watched=None, **settings) -> Done:
    """Run `stage`; with `hook` its changes are counted as `settings` say, see `HOOK`."""
    environment = {}
    if hook:
        none = {"FAULTS_AT": "0", "FAULTS_SIGNAL": "SIGKILL", "FAULTS_DELAY": "0"}
        none |= {"FAULTS_EVENTS": "changes", "FAULTS_COUNT_IN": ""}
        environment = none | {"FAULTS_PROJECT": str(watched)} | settings
    path = [hook] if hook else []
    return run_stage(
        stage, project, seconds=SECONDS, memory=MEMORY, environment=environment, path=path
    )


def run_whole(stage: str, project: Path, hook: Path | None = None, watched=None, count="") -> None:
    """Run `stage` to its end, undisturbed."""
    settings = {"FAULTS_COUNT_IN": str(count)} if hook else {}
    done = run(stage, project, hook, watched, **settings)
    if done.code or done.stopped:
        raise SystemExit(f"error: stages.{stage} failed undisturbed in {project}: {done.err}")


def contents(project: Path) -> dict[Path, bytes]:
    """Every path of `project`; of what is about the run and not its results no more than that.

    Those are times, and hidden files: marks of files already read, locks.
    """
    found = tree(project)
    for path in found:
        if path.name == "timing.json" or any(part.startswith(".") for part in path.parts):
            found[path] = b""
    return found


def below(output: str, files: dict[Path, bytes]) -> dict[Path, bytes]:
    """Of `files` those that belong to `output`, a file or folder."""
    place = Path(output)
    return {path: value for path, value in files.items() if path.is_relative_to(place)}


def outputs_of_stages() -> dict[str, list[str]]:
    """What each stage of dvc.yaml writes."""
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    found = {}
    for name, stage in pipeline["stages"].items():
        lines = [line for key in ("outs", "metrics", "plots") for line in stage.get(key, [])]
        found[name] = [line if isinstance(line, str) else next(iter(line)) for line in lines]
    return found


def copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
        os.makedirs(path.parent, exist_ok=True)
