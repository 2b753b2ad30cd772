"""What does a cluster cost, and how many machines could one client feed?

Small images (32 x 32, JPEG and PNG by turns), 10,000 and ten times as many until `--images`, go
through preprocess: on this machine alone, and by a Dask scheduler and two workers, which here are
processes of the same machine, so that the ratio says what the cluster costs and not what it gives.
Then tasks as large as real ones go to workers that do nothing with them.

Goals: the bytes of one machine; from 100,000 images, of which a shard is full, no more than 1.25
times the memory of a worker; 1.25 KiB of the client for each image more; a client that could feed
100 workers. The arithmetic for 100 million images on 100 workers is printed from these figures.

    python -m bench.cluster      (three minutes on two cores; --images 1000000: half an hour)
"""

import argparse
import hashlib
import io
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import simplejpeg
from PIL import Image

from bench.measure import ROOT, report, write_parameters
from stages.files import MANIFEST, PROCESSED, RAW
from stages.images.process import _Part, _PartDone, _parts
from stages.images.reuse import FACTS, Contents, Work
from stages.parameters.pixels import Preprocessing
from stages.store.processed import Shards, shard_starts
from stages.store.raw import RawImage, pack, read_manifest, write_manifest
from stages.workers import SCHEDULER, each

FEWEST, SHAPE, WORKERS = 10_000, (32, 32, 3), 2
GROWTH, CLIENT_BYTES_AN_IMAGE, FED = 1.25, 1280, 100
EMPTY_TASKS = 200


class Run(NamedTuple):
    """Of a run of preprocess: seconds of wall clock, seconds of work and peak MiB of the process
    that was started, and a digest of what it wrote."""

    seconds: float
    work: float
    peak: float
    digest: str


def images(count: int) -> Iterator[RawImage]:
    random = np.random.default_rng(0)
    for number in range(count):
        kind = ("jpg", "png")[number % 2]
        pixels = random.integers(0, 256, (4, 4, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        if kind == "jpg":
            data = simplejpeg.encode_jpeg(pixels)
        else:
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
            data = buffer.getvalue()
        label, digest = f"class {number * 10 // count}", hashlib.sha256(data).digest()
        path = f"{label}/{number:09}.{kind}"
        yield RawImage(path, label, "", "", len(data), digest, lambda data=data: data)


def make(folder: Path, count: int) -> None:
    """A project with `count` images, packed as download packs them."""
    (folder / RAW).mkdir(parents=True)
    write_manifest(folder / RAW, pack(images(count), folder / RAW, folder, folder / "seen.json"))
    write_parameters(folder, preprocess={"size": list(SHAPE[:2]), "color": "rgb"})


def preprocess(folder: Path, address: str) -> Run:
    """On this machine, or by the cluster of this address; its results are removed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), SCHEDULER: address}
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.preprocess"],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"error: stages.preprocess failed in {folder}")
    digest = hashlib.sha256()
    for path in sorted((folder / PROCESSED).iterdir()):
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
        path.unlink()
    (folder / PROCESSED).rmdir()
    work = usage.ru_utime + usage.ru_stime
    return Run(seconds, work, usage.ru_maxrss / 1024, digest.hexdigest())


class Cluster:
    """A scheduler and workers in `folder`."""

    def __init__(self, folder: Path, workers: int):
        self._folder, self._processes = folder, []
        file = folder / "scheduler.json"
        self.scheduler = self._start("scheduler", "--port", "0", "--scheduler-file", str(file))
        while not file.exists() or not file.read_text().endswith("}"):
            time.sleep(0.05)
        self.address = json.loads(file.read_text())["address"]
        self.workers = [
            self._start("worker", self.address, "--nthreads", "1", "--no-nanny")
            for _ in range(workers)
        ]
        file.unlink()

    def _start(self, *command: str) -> psutil.Process:
        process = psutil.Popen(
            [sys.executable, "-m", "dask", *command, "--no-dashboard", "--host", "127.0.0.1"],
            cwd=self._folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._processes.append(process)
        return process

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


def peak_of(process: psutil.Process) -> float:
    """MiB, from Linux."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def work_of(process: psutil.Process) -> float:
    return sum(process.cpu_times()[:2])


def nothing(part: _Part) -> _PartDone:
    """What a worker returns, without its work."""
    return _PartDone(part.number, part.path, (part.rows, np.zeros(len(part.rows), FACTS), {}))


def feed(folder: Path) -> dict:
    """How fast real tasks go to workers that do nothing, and what the client then does with their
    results, by the process that this is."""
    from bench.cluster import nothing  # of a module that a worker can import: this one is __main__

    manifest = read_manifest(folder / RAW)
    contents = Contents.from_manifest(manifest)
    starts = shard_starts(contents.hashes.to_pylist(), SHAPE)
    wanted = np.arange(len(contents.first))
    here = Work(folder / "work", Preprocessing(size=list(SHAPE[:2]), color="rgb"), starts)
    shards = Shards(here.folder, SHAPE, starts)
    cluster = Cluster(folder, WORKERS)
    before, os.environ[SCHEDULER] = os.getcwd(), cluster.address
    os.chdir(folder)
    try:
        parts = list(each(nothing, _parts(manifest, contents, wanted, shards)))  # starts workers
        worked, passed = time.process_time(), work_of(cluster.scheduler)
        started, tasks, received = time.perf_counter(), 0, 0
        while tasks < EMPTY_TASKS:
            for part in each(nothing, _parts(manifest, contents, wanted, shards)):
                rows, facts, _ = part.done
                rows = rows + starts[part.number]
                contents.facts[rows] = facts
                here.remember(contents, rows, [])
                received += len(rows)
                tasks += 1
        seconds = time.perf_counter() - started
        worked, passed = time.process_time() - worked, work_of(cluster.scheduler) - passed
    finally:
        os.chdir(before)
        del os.environ[SCHEDULER]
        cluster.stop()
        here.close()
    some = list(_parts(manifest, contents, wanted, shards))
    return {
        "tasks_per_second": round(tasks / seconds, 1),
        "images_per_second": round(received / seconds),
        "client_us_an_image": round(worked / received * 1e6, 2),
        "scheduler_us_an_image": round(passed / received * 1e6, 2),
        "images_a_task": round(received / tasks),
        "bytes_there": round(statistics.mean(len(pickle.dumps(part)) for part in some)),
        "bytes_back": round(statistics.mean(len(pickle.dumps(part)) for part in parts)),
    }


def measure(folder: Path, count: int, rounds: int) -> dict:
    """Both sides in turns on `count` images."""
    make(folder, count)
    print(f"{count:,} images, manifest {(folder / RAW / MANIFEST).stat().st_size:,} bytes")
    cluster = Cluster(folder, WORKERS)
    try:
        preprocess(folder, cluster.address) if count == FEWEST else None  # modules are imported
        busy = sum(work_of(process) for process in cluster.workers)
        runs: dict[str, list[Run]] = {"alone": [], "cluster": []}
        for _ in range(rounds):
            for name, address in (("alone", ""), ("cluster", cluster.address)):
                runs[name].append(run := preprocess(folder, address))
                print(f"  {name}: {run.seconds:.1f} s, {run.peak:.0f} MiB", flush=True)
        busy = sum(work_of(process) for process in cluster.workers) - busy
        peaks = [peak_of(process) for process in (cluster.scheduler, *cluster.workers)]
    finally:
        cluster.stop()
    seconds = {name: statistics.median(run.seconds for run in some) for name, some in runs.items()}
    return {
        "images_per_second": {name: round(count / value) for name, value in seconds.items()},
        "ratio": round(seconds["alone"] / seconds["cluster"], 2),
        "us_an_image": round(seconds["cluster"] / count * 1e6, 1),
        "client_work": statistics.median(run.work for run in runs["cluster"]),
        "worker_work": busy / rounds,
        "peak_mib": {
            "alone": round(max(run.peak for run in runs["alone"])),
            "client": round(max(run.peak for run in runs["cluster"])),
            "scheduler": round(peaks[0]),
            "worker": round(max(peaks[1:])),
        },
        "same": len({run.digest for some in runs.values() for run in some}) == 1,
    }


def on_paper(few: dict, many: dict, more: int, feeding: dict) -> dict:
    """What the figures of two sizes, `more` images apart, come to for 100 million images."""
    images, machines = 100_000_000, 100
    client = (many["client_work"] - few["client_work"]) / more
    worker = (many["worker_work"] - few["worker_work"]) / more
    memory = (many["peak_mib"]["client"] - few["peak_mib"]["client"]) * 2**20 / more
    meanwhile, scheduler = (
        feeding[f"{name}_us_an_image"] / 1e6 for name in ("client", "scheduler")
    )
    fed = worker / max(meanwhile, scheduler)
    decoding = images * max(worker / machines, meanwhile, scheduler) / 60
    print(
        f"an image costs a worker {worker * 1e6:.0f} us; the client {client * 1e6:.1f} us, of "
        f"which {meanwhile * 1e6:.1f} while the workers work, and {memory:.0f} bytes; the "
        f"scheduler {scheduler * 1e6:.1f} us: one client feeds {fed:.0f} workers\n{images:,} "
        f"images on {machines} workers: {decoding:.0f} minutes, and before and after it "
        f"{images * (client - meanwhile) / 60:.0f} minutes of the client alone, which has "
        f"{images * memory / 2**30:.0f} GiB"
    )
    return {
        "worker_us_an_image": round(worker * 1e6, 1),
        "client_us_an_image": round(client * 1e6, 1),
        "client_bytes_an_image": round(memory),
        "workers_fed": round(fed),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000, help="the most")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    sizes = [FEWEST]
    while sizes[-1] * 10 <= options.images:
        sizes.append(sizes[-1] * 10)
    if len(sizes) < 2:
        parser.error(f"--images: at least {10 * FEWEST}")
    figures = {}
    for count in sizes:
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            figures[count] = measure(Path(folder), count, options.rounds)
            if count == 10 * FEWEST:
                feeding = feed(Path(folder))
    few, many = figures[sizes[0]], figures[sizes[-1]]
    more = sizes[-1] - sizes[0]
    paper = on_paper(few, many, more, feeding)
    # A shard is full from 100,000 images on.
    full = [figure["peak_mib"]["worker"] for figure in list(figures.values())[1:]]
    met = (
        all(figure["same"] for figure in figures.values())
        and full[-1] <= GROWTH * full[0]
        and paper["client_bytes_an_image"] <= CLIENT_BYTES_AN_IMAGE
        and paper["workers_fed"] >= FED
    )
    report(
        "cluster",
        sizes=figures,
        ratio=many["ratio"],
        feeding=feeding,
        **paper,
        goal=f"same bytes; worker {GROWTH} x from 100,000; client {CLIENT_BYTES_AN_IMAGE} bytes an "
        f"image; {FED} workers fed",
        met=met,
    )


if __name__ == "__main__":
    main()
