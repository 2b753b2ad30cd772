"""What does the service take and stand, beside a plain Keras service?

EfficientNet-Lite0 at 224x224 on two cores, trained by recipes/own-photos.yaml and exported. Both
services run on this machine and take photos of 35 kB over 8 connections, in turns, from the load
generator wrk. Goals: 10 times as many requests a second, under 200 MB in all processes, the first
answer in under a second, the 99th percentile under 10 times the median.

Then 60 s of twice the requests that the service can answer, at an even pace whether it answers or
not: no error but 429 and 503, memory flat, answers equal to those of `stages.predict`. At last
1,000 malformed requests (bench/faults/requests.py): none ends in a server's error, none stops or
grows the service, and nothing is written.

    python -m bench.serve [--data ZIP]      (six minutes; wrk: apt install wrk)
"""

import argparse
import asyncio
import io
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from bench.faults import requests
from bench.faults.cases import Outcome, Tally, tree
from bench.measure import ROOT, Cost, memory_of, report, run_stage
from bench.photos import write_photos
from bench.project import run_recipe
from stages.files import EXPORT
from stages.store.exported import FILES

RATIO_GOAL, MEMORY_GOAL, START_GOAL, TAIL_GOAL = 10, 200, 1.0, 10
FLAT = 1.1, 16  # memory after, at most: times before, and MB beyond
CORES, CONNECTIONS, PHOTOS, PHOTO_BYTES = 2, 8, 16, 35_000
FIELDS = {"ours": "file", "keras": "image"}  # of the form
CLOSE = 1e-5  # what rounding leaves between two equal probabilities
PATIENCE = 60  # seconds until a service has to have answered
# Malformed requests: seconds until each has to have come to an end, and how many at a time.
SECONDS, AT_ONCE = 45, 16


class Load(NamedTuple):
    """What wrk measured: requests a second, milliseconds, requests that failed; and milliseconds of
    all cores that the service worked for a request.

    On a machine that does other things as well, the work says more than the rate.
    """

    rate: float
    median: float
    p99: float
    failed: int
    work: float


class Service:
    """A program that answers POST /predict on 127.0.0.1; `start` is seconds to its first answer."""

    def __init__(self, command: Sequence[str], port: int, folder: Path, form: tuple[str, bytes]):
        self.port, self.folder = port, folder
        (folder / "cwd").mkdir(parents=True)
        (folder / "tmp").mkdir()
        self._log = open(folder / "log", "wb")  # noqa: SIM115
        started = time.perf_counter()
        self.process = subprocess.Popen(
            [*command, "--port", str(port)],
            cwd=folder / "cwd",
            env=os.environ
            | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "tmp")}
            | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        kind, body = form
        while True:
            with suppress(OSError):
                self.answer = ask(port, "/predict", body, kind)
                break
            if self.process.poll() is not None or time.perf_counter() - started > PATIENCE:
                self.stop()
                said = (folder / "log").read_text(errors="replace")
                raise SystemExit(f"{said}error: {command[2]} does not answer")
            time.sleep(0.005)
        self.start = time.perf_counter() - started

    def memory(self) -> float:
        """MB of all its processes, shared pages counted once."""
        return memory_of(self.process.pid) * 2**20 / 1e6

    def work(self) -> float:
        """Seconds of processor time that it has taken: all of its cores, none of other programs."""
        process = psutil.Process(self.process.pid)
        every = [process, *process.children(recursive=True)]
        return sum(sum(one.cpu_times()[:2]) for one in every)

    def written(self) -> list[str]:
        """Files that it has left anywhere it may."""
        return sorted(map(str, tree(self.folder, leave_out=None).keys() - {Path("log")}))

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE)
        self.process.kill()
        self._log.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="zip of train/ and test/ (default: made photos)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=10, help="of load on each side in a round")
    parser.add_argument("--overload", type=int, default=60, help="seconds of twice the capacity")
    parser.add_argument("--malformed", type=int, default=1000, help="requests")
    parser.add_argument("--seed", type=int, default=0, help="of the malformed requests")
    parser.add_argument("--format", default="onnx", choices=FILES, help="of the exported model")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        raise SystemExit("error: wrk is not installed; try: apt install wrk")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        exported = build(options.data or made_photos(folder), folder / "project", options.format)
        photos = uploads(options.data or folder / "photos.zip", folder / "uploads")
        photo = (photos[0].name, photos[0].read_bytes())
        form = requests.form_of([photo])
        ours = [sys.executable, "-m", "stages.serve", "--model", str(exported)]
        model = str(folder / "project/models/model.keras")
        sides = {
            "ours": (ours, form),
            "keras": (
                [sys.executable, "-m", "bench.keras_service", "--model", model],
                requests.form_of([photo], FIELDS["keras"]),
            ),
        }
        starts = in_turns_from_nothing(sides, folder, options.rounds)
        with ExitStack() as stack:
            services = {
                name: stack.enter_context(running(command, folder / name, form))
                for name, (command, form) in sides.items()
            }
            figures = in_turns(services, photos, options.rounds, options.seconds)
        rate = figures["requests_per_second"]["ours"]
        with running(ours, folder / "overload", form) as service:
            crowd = overload(service, photos, exported, rate, options.overload)
        with running(ours, folder / "malformed", form) as service:
            hostile = malformed(service, options.malformed, options.seed)
    ratio = figures.pop("ratio")
    report(
        "serve",
        **figures,
        start_seconds={name: cost.seconds for name, cost in starts.items()},
        start_core_seconds={name: cost.work for name, cost in starts.items()},
        overload=crowd,
        malformed=hostile,
        ratio=ratio,
        goal={
            "ratio": RATIO_GOAL,
            "megabytes": MEMORY_GOAL,
            "start_seconds": START_GOAL,
            "p99_by_median": TAIL_GOAL,
        },
        met={
            "ratio": ratio >= RATIO_GOAL,
            "megabytes": figures["megabytes"]["ours"] < MEMORY_GOAL,
            "start_seconds": starts["ours"].seconds < START_GOAL,
            "p99_by_median": figures["p99_by_median"]["ours"] < TAIL_GOAL,
            "overload": crowd["met"],
            "malformed": hostile["met"],
        },
    )


# What is served.


def made_photos(folder: Path) -> Path:
    """A zip of photos cut from the two that come with scikit-learn."""
    paths = write_photos(folder / "photos", 120, classes=2, size=(400, 300))
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        for path in paths:
            archive.write(path, path.relative_to(folder / "photos"))
    return folder / "photos.zip"


def build(data: Path, folder: Path, kind: str) -> Path:
    """Train and export on the zip `data`; the exported model of the format `kind`."""
    print("train and export EfficientNet-Lite0", flush=True)
    folder.mkdir()
    run_recipe(
        "own-photos",
        data,
        folder,
        model__name="efficientnet_lite0",
        preprocess__size=[224, 224],
        export__formats=[kind],
    )
    run_stage("export", folder)
    return folder / EXPORT / FILES[kind]


def uploads(data: Path, folder: Path) -> list[Path]:
    """Photos of the zip `data` as JPEGs of nearly `PHOTO_BYTES`, 500 pixels on the longer side."""
    from PIL import Image

    folder.mkdir()
    with zipfile.ZipFile(data) as archive:
        names = [name for name in archive.namelist() if name.lower().endswith((".jpg", ".jpeg"))]
        paths = []
        for number, name in enumerate(names[:: max(1, len(names) // PHOTOS)][:PHOTOS]):
            image = Image.open(io.BytesIO(archive.read(name))).convert("RGB")
            image.thumbnail((500, 500))
            best = min(
                (saved(image, quality) for quality in range(20, 100, 3)),
                key=lambda content: abs(len(content) - PHOTO_BYTES),
            )
            paths.append(folder / f"{number:02}.jpg")
            paths[-1].write_bytes(best)
    mean = statistics.mean(path.stat().st_size for path in paths)
    print(f"{len(paths)} photos of {mean / 1e3:.0f} kB to ask about", flush=True)
    return paths


def saved(image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


# Load.


def ask(port: int, path: str, body: bytes | None = None, kind: str = "") -> bytes:
    """The body of an answer. Raises `OSError`."""
    headers = {"Content-Type": kind} if kind else {}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, headers)
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return answer.read()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextmanager
def running(command: Sequence[str], folder: Path, form: tuple[str, bytes]) -> Iterator[Service]:
    service = Service(command, free_port(), folder, form)
    try:
        yield service
    finally:
        service.stop()


def in_turns_from_nothing(
    sides: dict[str, tuple[list[str], tuple[str, bytes]]], folder: Path, rounds: int
) -> dict[str, Cost]:
    """What the way from the command to the first answer costs, the median of several starts."""
    starts: dict[str, list[Cost]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, (command, form) in sides.items():
            with running(command, folder / f"start-{name}-{number}", form) as service:
                starts[name].append(Cost(service.start, service.work()))
    costs = {
        name: Cost(*(round(statistics.median(values), 2) for values in zip(*rows, strict=True)))
        for name, rows in starts.items()
    }
    print(f"first answer: {costs}", flush=True)
    return costs


def in_turns(
    services: dict[str, Service], photos: list[Path], rounds: int, seconds: int
) -> dict[str, Any]:
    """Figures of both sides, each asked for `seconds` in every round."""
    loads: dict[str, list[Load]] = {name: [] for name in services}
    peaks: dict[str, float] = dict.fromkeys(services, 0.0)
    for number in range(rounds):
        for name, service in services.items():
            with watched(service) as peak:
                loads[name].append(wrk(service, FIELDS[name], photos, seconds))
            peaks[name] = max(peaks[name], peak())
        shown = ", ".join(f"{name} {load[-1].rate:.1f}" for name, load in loads.items())
        print(f"  round {number + 1}/{rounds}: {shown} requests/s", flush=True)

    def middle(field: str) -> dict[str, float]:
        return {
            name: round(statistics.median(getattr(one, field) for one in rows), 1)
            for name, rows in loads.items()
        }

    medians, tails = middle("median"), middle("p99")
    pairs = list(zip(loads["ours"], loads["keras"], strict=True))
    return {
        "requests_per_second": middle("rate"),
        "failed": {name: sum(one.failed for one in rows) for name, rows in loads.items()},
        "median_milliseconds": medians,
        "p99_milliseconds": tails,
        "p99_by_median": {name: round(tails[name] / medians[name], 1) for name in loads},
        "megabytes": {name: round(peak) for name, peak in peaks.items()},
        "core_milliseconds": middle("work"),
        "work_ratio": round(statistics.median(keras.work / ours.work for ours, keras in pairs), 1),
        "ratio": round(statistics.median(ours.rate / keras.rate for ours, keras in pairs), 1),
    }


def wrk(service: Service, field: str, photos: list[Path], seconds: int) -> Load:
    command = ["wrk", "--threads=1", f"--connections={CONNECTIONS}", f"--duration={seconds}s"]
    command += [f"--timeout={PATIENCE}s", f"--script={ROOT / 'bench/upload.lua'}"]
    command += [f"http://127.0.0.1:{service.port}/predict", "--", field, *map(str, photos)]
    worked = service.work()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    worked = service.work() - worked
    found = json.loads(done.stdout.splitlines()[-1])
    answered = found["answers"] - found["failed"]
    work = 1e3 * worked / max(1, answered)
    return Load(answered / found["seconds"], found["median"], found["p99"], found["failed"], work)


@contextmanager
def watched(service: Service, every: float = 2.5):
    """Yield a function that tells the most MB that `service` was seen to hold, now and then: to
    look stops it for some milliseconds."""
    seen, ended = [service.memory()], threading.Event()

    def watch() -> None:
        while not ended.wait(every):
            seen.append(service.memory())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lambda: max(seen)
    finally:
        ended.set()
        thread.join()


def flat(before: float, after: float) -> bool:
    return after <= before * FLAT[0] + FLAT[1]


# Twice the capacity.


def overload(service: Service, photos: list[Path], model: Path, rate: float, seconds: int) -> dict:
    """Ask twice as often as can be answered, each time over a new connection."""
    print(f"{seconds} s of {2 * rate:.0f} requests/s", flush=True)
    expected = predictions(photos, model, service.folder / "expected.json")
    wrk(service, FIELDS["ours"], photos, 5)  # all that it needs has been allocated once
    before = service.memory()
    with watched(service) as peak:
        codes, wrong = asyncio.run(crowd(service.port, photos, expected, 2 * rate, seconds))
    time.sleep(1)
    after = service.memory()
    others = sum(count for code, count in codes.items() if code not in ("200", "429", "503"))
    print(f"  {dict(codes)}, {wrong} wrong, {before:.0f} to {after:.0f} MB", flush=True)
    return {
        "asked_per_second": round(2 * rate, 1),
        "answers": dict(sorted(codes.items())),
        "wrong": wrong,
        "megabytes": {"before": round(before), "most": round(peak()), "after": round(after)},
        "met": not others and not wrong and bool(codes["200"]) and flat(before, peak()),
    }


def predictions(photos: list[Path], model: Path, output: Path) -> dict[str, dict]:
    """What `stages.predict` says of each photo, by its name."""
    command = [sys.executable, "-m", "stages.predict", *map(str, photos), "--model", str(model)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(
        [*command, "--output", str(output)], env=environment, check=True, capture_output=True
    )
    found = json.loads(output.read_text(encoding="utf-8"))
    output.unlink()
    return {Path(answer["file"]).name: answer for answer in found}


async def crowd(
    port: int, photos: list[Path], expected: dict[str, dict], rate: float, seconds: float
) -> tuple[Counter, int]:
    """Answers by status (`none` where the connection ended), and how many were wrong."""
    codes: Counter[str] = Counter()
    wrong = 0
    forms = []
    for path in photos:
        kind, body = requests.form_of([(path.name, path.read_bytes())])
        forms.append((path.name, requests.post("/predict", body, kind)))

    async def one(name: str, request: bytes) -> None:
        nonlocal wrong
        status, body = await exchange(port, request)
        codes[status] += 1
        wrong += status == "200" and not equal(json.loads(body), expected[name])

    tasks = set()
    started = time.perf_counter()
    for number in range(round(rate * seconds)):
        await asyncio.sleep(started + number / rate - time.perf_counter())
        task = asyncio.create_task(one(*forms[number % len(forms)]))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    return codes, wrong


async def exchange(port: int, request: bytes) -> tuple[str, bytes]:
    """The status and the body of an answer; `none` or `late` where there is no answer."""
    writer = None
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with suppress(ConnectionError):  # refused before all was sent; the answer says so
                writer.write(request)
                await writer.drain()
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            return head[9:12].decode() or "none", body
    except TimeoutError:
        return "late", b""
    except OSError:
        return "none", b""
    finally:
        if writer:
            writer.close()


def equal(answer: dict, expected: dict) -> bool:
    """Whether an answer of the service is that of `stages.predict`."""
    (found,) = answer["predictions"]
    best = found["classes"][0]
    return (
        best["name"] == expected["predicted"]
        and abs(best["probability"] - expected["confidence"]) <= CLOSE
        and (found["set"], found["unlike"]) == (expected["set"], expected["unlike"])
    )


# Malformed requests.


def malformed(service: Service, count: int, seed: int) -> dict:
    """Outcomes of `count` malformed requests, several at a time, and what they left."""
    print(f"{count:,} malformed requests", flush=True)
    requests.prepare()
    files = service.written()
    tally = Tally("requests", count)

    def run(number: int) -> Outcome:
        return requests.run_case(requests.case(seed, number), service.port, SECONDS)

    memory = [service.memory()]
    with watched(service) as peak, ThreadPoolExecutor(AT_ONCE) as pool:
        for half in (range(count // 2), range(count // 2, count)):
            for number, outcome in zip(half, pool.map(run, half), strict=True):
                tally.add(number, outcome)
            memory.append(service.memory())
    alive = service.process.poll() is None and bool(ask(service.port, "/healthz"))
    written = sorted(set(service.written()) - set(files))
    figures = tally.figures()
    return {
        **figures,
        "alive": alive,
        "written": written,
        "megabytes": {
            "before": round(memory[0]),
            "most": round(peak()),
            "after": round(memory[-1]),
        },
        "met": not figures["other"] and alive and not written and flat(memory[1], memory[2]),
    }


if __name__ == "__main__":
    main()
