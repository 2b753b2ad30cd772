"""Work on several machines: a Dask scheduler and workers, here as processes of one."""

import hashlib
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from factory import ROOT
from PIL import Image
from training_workspace import EMBEDDING, FLIP, FROZEN, WEIGHTS, make_workspace

from stages import workers
from stages.errors import UserError
from stages.store.raw import Entry, write_manifest

DASK = [sys.executable, "-m", "dask"]
# With shards of about eight images, so that a handful of images fill several.
SMALL_SHARDS = """
from stages import preprocess, split
from stages.errors import run
from stages.images import process
starts = process.shard_starts
process.shard_starts = lambda hashes, shape: starts(hashes, shape, target=8 * 64)
"""
PREPROCESS = SMALL_SHARDS + "run(preprocess.main)"
BOTH = SMALL_SHARDS + "run(lambda: preprocess.main() or split.main())"
SECONDS = 60  # nothing here takes as long, however busy the machine is


class Cluster:
    """A scheduler and workers, started in the folder `project` as a person would."""

    def __init__(self, project: Path):
        self.project, self.processes = project, []
        self.file = project / "scheduler.json"
        self.start_scheduler()

    def start(self, *command, **environment) -> subprocess.Popen:
        environment = {"PYTHONPATH": str(ROOT), **environment}
        process = subprocess.Popen(
            [*DASK, *command, "--no-dashboard", "--host", "127.0.0.1"],
            cwd=environment.pop("cwd", self.project),
            env=os.environ | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.processes.append(process)
        return process

    def start_scheduler(self, port: str = "0", **environment) -> None:
        self.file.unlink(missing_ok=True)
        options = ["--port", port, "--scheduler-file", str(self.file)]
        self.scheduler = self.start("scheduler", *options, **environment)
        wait_for(self.file.exists)
        wait_for(lambda: self.file.read_text().endswith("}"))
        self.address = json.loads(self.file.read_text())["address"]

    def start_worker(self, *options, **environment) -> subprocess.Popen:
        scratch = str(self.project / "scratch")
        options = ("--nthreads", "1", "--no-nanny", "--local-directory", scratch, *options)
        return self.start("worker", self.address, *options, **environment)

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()


def wait_for(ready) -> None:
    end = time.monotonic() + SECONDS
    while not ready():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def run(project: Path, address: str = "", code: str = PREPROCESS, **environment):
    """Starts Python with `code`, or the stage of this name, on this machine or in the cluster."""
    what = ["-c", code] if "\n" in code else ["-m", f"stages.{code}"]
    environment = {"PYTHONPATH": str(ROOT), "DASK_SCHEDULER": address, **environment}
    return subprocess.Popen(
        [sys.executable, *what],
        cwd=project,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen, code: int = 0) -> tuple[str, str]:
    out, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    return out, errors


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def jpeg(image: np.ndarray, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def pictures(count: int) -> dict[str, bytes]:
    """Small images, some of them near-copies of others, one broken."""
    files = {}
    for number in range(count):
        colours = np.random.default_rng(number // 3 * 3).integers(0, 256, (4, 4, 3), np.uint8)
        image = np.asarray(Image.fromarray(colours).resize((20, 30), Image.Resampling.BICUBIC))
        files[f"{'ab'[number % 2]}/{number:03}.jpg"] = jpeg(image, 90 - number % 3 * 5)
    return files | {"a/broken.jpg": files["a/000.jpg"][:300]}


def large_pictures(count: int) -> dict[str, bytes]:
    """Files that all differ and take some time each."""
    noise = [np.random.default_rng(n).integers(0, 256, (900, 1200, 3), np.uint8) for n in range(4)]
    files = [jpeg(image) for image in noise]

    def remark(number: int) -> bytes:
        return files[number % 4] + f"remark {number}".encode()

    return {f"{'ab'[number % 2]}/{number:03}.jpg": remark(number) for number in range(count)}


def write_raw(project: Path, files: dict[str, bytes], suffix: str = "zip") -> None:
    raw = project / "data/raw"
    shutil.rmtree(raw, ignore_errors=True)
    raw.mkdir(parents=True)
    paths, entries = sorted(files), []
    for number, part in enumerate((paths[::2], paths[1::2])):
        name = f"images-{number}.{suffix}"
        if suffix == "zip":
            with zipfile.ZipFile(raw / name, "w") as archive:
                for path in part:
                    archive.writestr(path, files[path])
        else:
            with tarfile.open(raw / name, "w") as archive:
                for path in part:
                    info = tarfile.TarInfo(path)
                    info.size = len(files[path])
                    archive.addfile(info, io.BytesIO(files[path]))
        for path in part:
            digest = hashlib.sha256(files[path]).digest()
            entries.append(Entry(path, path[0], "", "", digest, name, path))
    write_manifest(raw, sorted(entries))


def make_project(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    settings = "preprocess: {size: [8, 8], color: grayscale, max_rejects: 0.2}\n"
    (folder / "params.yaml").write_text(settings + "split: {near_duplicates: together}\n")
    write_raw(folder, files)
    return folder


@pytest.fixture
def cluster(tmp_path):
    """Makes a project with `files`, and a scheduler for it."""
    started = []

    def make(files: dict[str, bytes]) -> Cluster:
        started.append(Cluster(make_project(tmp_path / "project", files)))
        return started[0]

    yield make
    for one in started:
        one.stop()
        workers._disconnect(one.address) if one.address in workers._clients else None


def results(project: Path, address: str = "") -> dict[str, bytes]:
    """What preprocess and split make of the raw images, from nothing."""
    for name in ("processed", "splits", ".processed"):
        shutil.rmtree(project / "data" / name, ignore_errors=True)
    ended(run(project, address, BOTH))
    assert not (project / "data/.processed").exists()
    assert not (project / "data/.cluster").exists()
    made = {}
    for name in ("data/processed", "data/splits", "reports"):
        made |= {f"{name}/{path}": data for path, data in contents(project / name).items()}
    return made


def test_any_number_of_workers_gives_the_bytes_of_one_machine(cluster):
    one = cluster(pictures(120))
    expected = results(one.project)
    assert sum(name.endswith(".npy") for name in expected) > 8
    assert json.loads(expected["reports/data.json"])["duplicates"]["identical"] == 0
    for new in (1, 1, 2):
        for _ in range(new):
            one.start_worker()
        assert results(one.project, one.address) == expected


def test_a_stage_as_it_is_run_and_workers_with_nannies(cluster):
    one = cluster(pictures(30))
    one.start("worker", one.address, "--nworkers", "2", "--nthreads", "1")
    made = []
    for address in ("", one.address):
        ended(run(one.project, address, "preprocess"))
        made.append(contents(one.project / "data/processed"))
        shutil.rmtree(one.project / "data/processed")
    assert made[0] == made[1]


def test_what_is_there_is_reused_and_tars_are_read_once(cluster):
    one = cluster(pictures(60))
    one.start_worker()
    ended(run(one.project, one.address))
    write_raw(one.project, pictures(63), "tar")
    out, errors = ended(run(one.project, one.address))
    assert ": 3 decoded, 60 reused, 1 rejected" in out
    assert "3 images are in tar archives" in errors
    write_raw(one.project, pictures(66))
    out, errors = ended(run(one.project, one.address))
    assert (": 3 decoded, 63 reused, 1 rejected" in out, errors) == (True, "")
    incremental = contents(one.project / "data/processed")
    shutil.rmtree(one.project / "data/processed")
    ended(run(one.project))
    assert contents(one.project / "data/processed") == incremental


def test_damaged_archives_are_told_as_on_one_machine(cluster):
    one = cluster(pictures(30))
    one.start_worker()
    path = one.project / "data/raw/images-1.zip"
    data = bytearray(path.read_bytes())
    data[data.index(b"\xff\xd8\xff") + 20] ^= 255
    path.write_bytes(data)
    told = {ended(run(one.project, address), 1) for address in ("", one.address)}
    assert len(told) == 1
    assert "images-1.zip is damaged" in told.pop()[1]


def first_result(project: Path) -> None:
    """Wait until something has been decoded, but not all."""
    journal = project / "data/.processed/1/journal"
    wait_for(lambda: journal.exists() and b'"facts"' in journal.read_bytes())


@pytest.fixture(scope="module")
def large_files(tmp_path_factory):
    """Images that take some time, and what one machine makes of them."""
    files = large_pictures(100)
    project = make_project(tmp_path_factory.mktemp("alone") / "project", files)
    ended(run(project))
    return files, contents(project / "data/processed")


@pytest.fixture
def large(cluster, large_files):
    files, expected = large_files
    return cluster(files), expected


def test_workers_may_be_killed_and_stopped_in_the_middle(large):
    one, expected = large
    killed, slow, _ = (one.start_worker() for _ in range(3))
    client = run(one.project, one.address)
    first_result(one.project)
    killed.kill()
    slow.send_signal(signal.SIGSTOP)
    assert client.poll() is None
    time.sleep(1)
    slow.send_signal(signal.SIGCONT)
    ended(client)
    assert contents(one.project / "data/processed") == expected


def test_the_scheduler_may_be_restarted_in_the_middle(large):
    one, expected = large
    worker = one.start_worker()
    client = run(one.project, one.address)
    first_result(one.project)
    one.scheduler.kill()
    worker.wait()
    assert client.poll() is None
    one.start_scheduler(port=one.address.rsplit(":", 1)[1])
    one.start_worker()
    out, errors = ended(client)
    assert "100 decoded" in out
    assert f"the Dask scheduler at {one.address} has gone" in errors
    assert contents(one.project / "data/processed") == expected


def test_what_was_done_before_the_client_was_killed_is_kept(large):
    one, expected = large
    one.start_worker()
    client = run(one.project, one.address)
    first_result(one.project)
    client.kill()
    client.communicate()
    out, _ = ended(run(one.project, one.address))
    assert " reused" in out
    assert contents(one.project / "data/processed") == expected


def refusal(one: Cluster, **environment) -> str:
    return ended(run(one.project, one.address, **environment), 1)[1].splitlines()[-1]


def test_a_worker_that_decodes_otherwise_is_refused(cluster, tmp_path):
    one = cluster(pictures(10))
    other = tmp_path / "other/pillow-0.1.dist-info/METADATA"
    other.parent.mkdir(parents=True)
    other.write_text("Metadata-Version: 2.1\nName: pillow\nVersion: 0.1\n")
    one.start_worker(PYTHONPATH=f"{tmp_path / 'other'}{os.pathsep}{ROOT}")
    line = refusal(one)
    assert line.startswith("error: the worker tcp://127.0.0.1:")
    assert "Pillow 0.1," in line
    assert "this machine by" in line
    assert not (one.project / "data/processed").exists()


def test_a_worker_that_runs_other_code_is_refused(cluster, tmp_path):
    one = cluster(pictures(10))
    shutil.copytree(ROOT / "stages", tmp_path / "other/stages")
    with open(tmp_path / "other/stages/images/decode.py", "a") as file:
        file.write("\n# edited\n")
    one.start_worker(PYTHONPATH=str(tmp_path / "other"))
    assert "runs other code than is in" in refusal(one)


def test_a_worker_in_another_folder_is_refused(cluster, tmp_path):
    one = cluster(pictures(10))
    one.start_worker(cwd=tmp_path)
    assert f"was started in {tmp_path}, not in {one.project}" in refusal(one)


def test_a_worker_that_does_not_share_the_folder_is_refused(cluster):
    one = cluster(pictures(10))
    client = run(one.project, one.address)
    wait_for(lambda: list(one.project.glob("data/.cluster/*")))
    next(one.project.glob("data/.cluster/*")).unlink()
    one.start_worker()
    errors = ended(client, 1)[1].splitlines()
    assert errors[0].startswith(f"waiting for workers of {one.address}")
    assert f"does not see what this machine sees in {one.project}" in errors[1]


def test_without_dask_one_line_says_what_installs_it(cluster, tmp_path):
    project = make_project(tmp_path / "project", pictures(10))
    (tmp_path / "distributed.py").write_text("raise ImportError")
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    client = run(project, "tcp://127.0.0.1:8786", PYTHONPATH=path)
    assert "Dask is not installed; run: make cluster" in ended(client, 1)[1]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """In the folder of a project, with little patience."""
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    monkeypatch.setattr(workers, "CONNECT_SECONDS", 1)
    monkeypatch.setattr(workers, "RECONNECT_SECONDS", 1)
    return monkeypatch


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "localhost:8786"])
def test_no_scheduler_is_one_line(here, address):
    here.setenv("DASK_SCHEDULER", address)
    with pytest.raises(UserError, match=f"{address} (within 1 s; start it|is no address such as)"):
        list(workers.each(math.sqrt, [4.0]))


def test_a_scheduler_that_does_not_come_back_is_one_line(here, cluster):
    one = cluster(pictures(1))
    here.setenv("DASK_SCHEDULER", one.address)
    one.start_worker()
    done = workers.each(math.sqrt, (float(n * n) for n in range(1000)))
    assert next(done) < 1000
    one.scheduler.kill()
    with pytest.raises(UserError, match="run again, what is done is kept"):
        list(done)


def test_work_that_kills_its_workers_is_one_line(here, cluster):
    one = cluster(pictures(1))
    one.scheduler.kill()
    one.start_scheduler(DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="1")
    here.setenv("DASK_SCHEDULER", one.address)
    for _ in range(2):
        one.start_worker()
    with pytest.raises(UserError, match="2 workers died of the same work"):
        list(workers.each(os._exit, [1]))


def test_a_worker_computes_with_one_thread(here, cluster):
    one = cluster(pictures(1))
    here.setenv("DASK_SCHEDULER", one.address)
    one.start_worker()
    threads = "max(one['num_threads'] for one in __import__('threadpoolctl').threadpool_info())"
    list(workers.each(eval, ["__import__('numpy').pi"]))
    assert list(workers.each(eval, [threads])) == [1]


def test_results_come_as_they_are_done_and_errors_at_once(here):
    here.delenv("DASK_SCHEDULER", raising=False)
    slept = list(workers.each(_sleep, [0.3, 0.0, 0.1], threads=3))
    assert slept == [0.0, 0.1, 0.3]
    with pytest.raises(ValueError, match="sleep"):
        list(workers.each(_sleep, iter([-1.0, *[0.0] * 9]), threads=2))


def _sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


# Every process looks for architectures in the project's folder.
LOOK_HERE = """
import stages.architectures
stages.architectures.__path__ = ["."]
"""
SAVE_WEIGHTS = f"""
from pathlib import Path
import net
import stages.architectures
path = Path({str(WEIGHTS)!r})
path.parent.mkdir(parents=True)
built = stages.architectures.build_model("embedding", (18, 18, 1), 3)
built.get_layer("backbone").save_weights(path)
"""
FEATURES = """
import net
from stages import features
from stages.errors import run
run(features.main)
"""


def test_features_are_those_of_one_machine(cluster):
    one = cluster({})
    make_workspace(one.project, model=FROZEN, augment=FLIP)
    (one.project / "embedding.py").write_text(EMBEDDING)
    (one.project / "net.py").write_text(LOOK_HERE)
    out, _ = ended(run(one.project, "", SAVE_WEIGHTS + FEATURES))
    assert "72 computed" in out
    expected = contents(one.project / "data/features")
    shutil.rmtree(one.project / "data/features")
    one.start_worker("--preload", "net.py")
    out, _ = ended(run(one.project, one.address, FEATURES))
    assert "72 computed" in out
    assert contents(one.project / "data/features") == expected
