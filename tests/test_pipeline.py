"""The whole pipeline under real DVC, in a temporary git repository, the way people work."""

import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).parent.parent
COPIED = (
    "dvc.yaml",
    "params.yaml",
    "data/corrections.csv",
    ".dvcignore",
    ".gitignore",
    "stages",
    ".dvc/config",
    ".dvc/plots",
    "models/pretrained",
)
KINDS = ("outs", "metrics", "plots")  # of outputs of a stage in dvc.yaml
SMALL = {
    "download": {"source": "folder"},
    "preprocess": {"size": [16, 16], "color": "rgb", "max_rejects": 0.2},
    "split": {"val": 0.2, "test": 0.2},
    "model": {"name": "gap"},
    "train": {"epochs": 2, "batch_size": 16},
}


def environment() -> dict[str, str]:
    """What DVC and git are run with."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "GIT_AUTHOR_NAME": "t",
        "GIT_AUTHOR_EMAIL": "t@example.org",
        "GIT_COMMITTER_NAME": "t",
        "GIT_COMMITTER_EMAIL": "t@example.org",
    }


def call(folder: Path, *command: str, code: int = 0) -> str:
    """Run `command` in `folder`; its output, standard error included."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def copy(origin: Path, folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        source, target = origin / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)


def outputs(folder: Path) -> dict[str, bytes]:
    """Every file of the outputs that dvc.yaml names, by path."""
    stages = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    lists = [stage.get(kind, []) for stage in stages.values() for kind in KINDS]
    paths = [folder / path for entries in lists for entry in entries for path in entry]
    files = [file for path in paths for file in (path, *path.rglob("*"))]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files if file.is_file()}


def set_parameters(folder: Path, **sections: dict) -> None:
    path = folder / "params.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    for section, settings in sections.items():
        values[section].update(settings)
    path.write_text(yaml.safe_dump(values), encoding="utf-8")


def commit(folder: Path, message: str) -> None:
    call(folder, "git", "add", "--all")
    call(folder, "git", "commit", "--quiet", "--message", message)


def make_photos(inbox: Path) -> None:
    """Two classes that differ in colour, awkward file names, and two files that are no images."""
    random = np.random.default_rng(0)
    for name, color in (("red 'quoted'", (200, 40, 40)), ("grün & blau", (40, 80, 200))):
        (inbox / name).mkdir(parents=True)
        for number in range(20):
            size = random.integers(12, 40, 2)
            pixels = np.clip(random.normal(color, 40, (*size, 3)), 0, 255).astype(np.uint8)
            kind = ("jpg", "png", "bmp", "webp")[number % 4]
            Image.fromarray(pixels).save(inbox / name / f"a photo, no. {number}.{kind}")
    (inbox / "red 'quoted'" / "broken.jpg").write_bytes(b"not an image")
    (inbox / "grün & blau" / "empty.png").write_bytes(b"")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A repository in which `dvc repro` has run on a small folder of photos, committed."""
    folder = tmp_path_factory.mktemp("project") / "project"
    copy(ROOT, folder, COPIED)
    set_parameters(folder, **SMALL)
    call(folder, "git", "init", "--quiet", "--initial-branch=main")
    make_photos(folder / "data" / "inbox")
    (folder / "data" / "inbox" / ".gitignore").write_text("*\n!.gitignore\n", encoding="utf-8")
    commit(folder, "The pipeline")
    assert "open reports/report.html" in call(folder, "dvc", "repro")
    commit(folder, "First model")
    return folder


def test_every_promised_output_exists_and_broken_files_are_listed(project):
    for name in (
        "data/raw/manifest.csv",
        "data/processed/index.csv",
        "data/splits/train.csv",
        "models/model.keras",
        "reports/metrics.json",
        "reports/predictions.csv",
        "reports/report.html",
    ):
        assert (project / name).stat().st_size > 0, name
    rejects = (project / "data/processed/rejects.csv").read_text(encoding="utf-8")
    assert "broken.jpg" in rejects
    assert "empty.png" in rejects
    assert list((project / "reports/plots").glob("*.png"))


def test_a_second_repro_has_nothing_to_do(project):
    assert "up to date" in call(project, "dvc", "repro")
    assert "up to date" in call(project, "dvc", "status")
    assert call(project, "git", "status", "--porcelain") == ""


def test_metrics_and_plots_are_known_to_dvc(project):
    shown = json.loads(call(project, "dvc", "metrics", "show", "--json"))
    metrics = shown[""]["data"]["reports/metrics.json"]["data"]
    assert 0 <= metrics["test"]["accuracy"] <= 1
    call(project, "dvc", "plots", "show", "--out", "plots-page")
    assert "<html" in (project / "plots-page/index.html").read_text(encoding="utf-8").lower()
    shutil.rmtree(project / "plots-page")


def test_forced_again_every_output_has_the_same_bytes(project):
    before = (project / "dvc.lock").read_bytes()
    call(project, "dvc", "repro", "--force")
    assert (project / "dvc.lock").read_bytes() == before
    assert call(project, "git", "status", "--porcelain") == ""


def test_without_dvc_the_stages_one_after_another_give_the_same_bytes(
    project, tmp_path, monkeypatch
):
    """Here in one process, which has run other models before; under DVC each has its own."""
    inputs = ("data/inbox", "data/corrections.csv", "models/pretrained")
    copy(project, tmp_path, ("params.yaml", "dvc.yaml", "stages", *inputs))
    monkeypatch.chdir(tmp_path)
    for stage in (
        *("download", "preprocess", "split", "features"),
        *("train", "evaluate", "export", "plot"),
    ):
        import_module(f"stages.{stage}").main()
    expected, made = outputs(project), outputs(tmp_path)
    assert {"models/model.keras", "data/raw/manifest.csv", "reports/report.html"} <= set(expected)
    assert made.keys() == expected.keys()
    assert [name for name in made if made[name] != expected[name]] == []


def test_training_settings_do_not_rerun_preprocessing(project):
    set_parameters(project, train={"epochs": 3})
    plan = call(project, "dvc", "repro", "--dry")
    call(project, "git", "checkout", "--quiet", "params.yaml")
    assert "Running stage 'train'" in plan
    assert "Running stage 'preprocess'" not in plan
    assert "Running stage 'split'" not in plan


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("stages/errors.py", set()),
        ("stages/review/comment.py", set()),
        ("stages/parameters/plot.py", {"plot"}),
        ("stages/report/page.css", {"plot"}),
        ("stages/parameters/split.py", {"split", "plot"}),
        ("stages/training/loop.py", {"train"}),
        ("stages/inference/convert.py", {"export"}),
        ("stages/store/raw.py", {"download", "preprocess", "export"}),
        ("stages/images/decode.py", {"preprocess", "export"}),
    ],
)
def test_dvc_reruns_for_an_edit_what_the_edit_can_change(project, file, stages):
    with open(project / file, "a", encoding="utf-8") as code:
        code.write("/* edited */\n" if file.endswith("css") else "# edited\n")
    changed = json.loads(call(project, "dvc", "status", "--json"))
    call(project, "git", "checkout", "--quiet", file)
    assert set(changed) == stages


def test_an_experiment_shows_its_change_in_metrics_and_params(project):
    call(project, "dvc", "exp", "run", "--set-param", "train.epochs=1", "--name", "short")
    assert "train.epochs" in call(project, "dvc", "params", "diff")
    changes = json.loads(call(project, "dvc", "metrics", "diff", "--json"))
    assert list(changes) == ["reports/metrics.json"]
    assert len(changes["reports/metrics.json"]) <= 12
    assert "short" in call(project, "dvc", "exp", "show", "--csv")
    call(project, "git", "checkout", "--quiet", ".")
    call(project, "dvc", "checkout")


def test_a_wrong_setting_is_one_line_and_keeps_earlier_results(project):
    set_parameters(project, train={"epochs": 0})
    output = call(project, "dvc", "repro", code=255)
    call(project, "git", "checkout", "--quiet", "params.yaml")
    assert "error: params.yaml: train.epochs = 0" in output
    assert "Traceback" not in output
    assert (project / "models/model.keras").exists()
    assert "up to date" in call(project, "dvc", "status")


def test_a_setting_changed_while_its_stage_runs_is_not_recorded_with_the_old_model(project):
    lock = (project / "dvc.lock").read_bytes()
    watcher = (
        "import subprocess, sys, yaml\n"
        "run = subprocess.Popen(['dvc', 'repro', '--force', '--single-item', 'train'],\n"
        "    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)\n"
        "for line in run.stdout:\n"
        "    print(line, end='', flush=True)\n"
        "    if line.startswith('epoch 1/2'):\n"
        "        values = yaml.safe_load(open('params.yaml'))\n"
        "        values['augment']['rotation'] = 33.0\n"
        "        yaml.safe_dump(values, open('params.yaml', 'w'))\n"
        "sys.exit(run.wait())\n"
    )
    output = call(project, sys.executable, "-c", watcher, code=255)
    assert "error: params.yaml: augment changed while train was running" in output
    assert (project / "dvc.lock").read_bytes() == lock
    call(project, "git", "checkout", "--quiet", "params.yaml")
    assert "up to date" in call(project, "dvc", "status")


def test_a_weights_file_is_a_dependency(project):
    weights = project / "models/pretrained/start.weights.h5"
    weights.write_bytes(b"one")
    set_parameters(project, model={"weights": "models/pretrained/start.weights.h5"})
    call(project, "dvc", "commit", "--force", "train")  # as if it had been trained with them
    assert "up to date" in call(project, "dvc", "status", "train")
    weights.write_bytes(b"two")
    assert "models/pretrained" in call(project, "dvc", "status", "train")
    weights.unlink()
    call(project, "git", "checkout", "--quiet", ".")
    call(project, "dvc", "checkout")


def test_a_colleague_pulls_model_and_data_from_the_remote(project, tmp_path):
    storage = str(tmp_path / "storage")
    add_remote = ("dvc", "remote", "add", "--local", "--default", "storage", storage)
    call(project, *add_remote)
    call(project, "dvc", "push")
    clone = tmp_path / "clone"
    call(tmp_path, "git", "clone", "--quiet", str(project), str(clone))
    call(clone, *add_remote)
    call(clone, "dvc", "pull")
    for name in ("models/model.keras", "data/raw/manifest.csv", "reports/report.html"):
        assert (clone / name).read_bytes() == (project / name).read_bytes()


def test_a_corrected_label_reruns_preprocess_and_decodes_nothing(project):
    before = (project / "data/raw/manifest.csv").read_bytes()
    first, second, *_ = (project / "data/processed/index.csv").read_text().splitlines()[1:]
    table = project / "data/corrections.csv"
    lines = [f"{first.split(',')[0]},,red 'quoted'", f"{second.split(',')[0]},,-"]
    table.write_text("id,path,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    assert set(json.loads(call(project, "dvc", "status", "preprocess", "--json"))) == {"preprocess"}
    said = call(project, "dvc", "repro", "split")
    assert "Stage 'download' didn't change, skipping" in said
    assert "0 decoded, 39 reused, 2 rejected" in said
    assert "1 label corrected, 1 image removed" in said
    assert (project / "data/raw/manifest.csv").read_bytes() == before
    data = json.loads((project / "reports/data.json").read_text(encoding="utf-8"))
    assert data["corrections"] == {"relabelled": 1, "removed": 1, "unmatched": 0, "moved": 0}
    call(project, "git", "checkout", "--quiet", ".")
    call(project, "dvc", "checkout")


def test_a_photo_moved_to_another_class_is_noticed_and_reruns_what_is_needed(project):
    inbox = project / "data" / "inbox"
    old = inbox / "grün & blau" / "a photo, no. 3.webp"
    new = inbox / "red 'quoted'" / "moved.webp"
    old.rename(new)
    assert "data/inbox" in call(project, "dvc", "status")
    call(project, "dvc", "repro", "split")
    manifest = (project / "data/raw/manifest.csv").read_text(encoding="utf-8")
    assert "moved.webp" in manifest
    assert "no. 3.webp,grün" not in manifest
    new.rename(old)
    call(project, "dvc", "checkout")
    call(project, "git", "checkout", "--quiet", ".")
