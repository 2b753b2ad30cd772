"""What does split cost for millions of images? Time and memory of its steps, and of the stage.

The index is generated: hashes as photos have them (neighbouring parts of a picture are alike; on
CIFAR-10 two images share a band as often), 1 % blank pictures, 2 % in crowds of look-alikes, 2 %
copies saved again, 1 % exact copies. Pictures have 4 x 4 pixels, as reading pixels is not what is
measured. Goals: for ten times the images at most 30 times the work of searching close hashes (all
pairs would be 100 times); the stage under five minutes and 5 GiB for ten million.

    python -m bench.split_rows [--rows 1000000 3000000 10000000]
"""

import argparse
import itertools
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from bench.measure import ROOT, report, write_parameters
from stages.files import INDEX, INDEX_COLUMNS, PROCESSED, REJECTS, REJECTS_COLUMNS
from stages.parameters.pixels import Preprocessing
from stages.splits.near_duplicates import _candidates
from stages.store.processed import Dataset, Shards, digest_tables, shard_name
from stages.store.tables import write_table

CLASSES = [f"class{number:03}" for number in range(100)]
SHAPE = (4, 4, 1)
ROWS_A_SHARD = 2**20
BLANK, ALIKE, SAVED_AGAIN, SAME = 0.01, 0.02, 0.02, 0.01
CROWD = 4000  # look-alikes in a crowd
REACH = 4.0  # cells over which the brightness of a picture changes
MARGIN = 0.3  # spreads of brightness; at which CIFAR-10 is met
GROWTH, SECONDS, MIB = 30, 300, 5120


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10**6, 3 * 10**6, 10**7])
    options = parser.parse_args()
    searched, seconds, peaks = {}, {}, {}
    for rows in sorted(options.rows):
        with tempfile.TemporaryDirectory() as folder:
            # In a process of its own: the peak of a program counts what its parent held.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                searched[rows], pairs = pool.apply(write_and_search, (Path(folder), rows))
            print(f"{rows:,} rows, close hashes: {searched[rows]} s, {pairs:,} pairs", flush=True)
            seconds[rows], peaks[rows] = run_split(Path(folder))
            print(f"{rows:,} rows, split: {seconds[rows]} s, {peaks[rows]} MiB", flush=True)
    few, many = min(searched), max(searched)
    growth = searched[many] / searched[few]
    met = growth <= GROWTH * many / few / 10 and seconds[many] < SECONDS and peaks[many] < MIB
    report(
        "split_rows",
        close_hashes_s=searched,
        split_s=seconds,
        peak_mib=peaks,
        ratio=round(growth, 1),
        goal=f"{GROWTH} x for 10 x the rows; {SECONDS} s and {MIB} MiB",
        met=met,
    )


def write_and_search(folder: Path, rows: int) -> tuple[float, int]:
    """Seconds of work that it takes to find all close hashes of different sides; pairs found."""
    hashes = write_processed(folder, rows)
    started = time.process_time()
    sides = np.random.default_rng(1).choice(3, rows, p=[0.7, 0.1, 0.2])
    pairs = sum(len(left) for left, _ in _candidates(hashes, sides))
    return round(time.process_time() - started, 2), pairs


def run_split(folder: Path) -> tuple[float, int]:
    """Seconds and peak MiB of the stage, which is one process."""
    # To look at its memory while it runs would stop it, for a second each time at this size.
    started = time.perf_counter()
    command = [sys.executable, "-m", "stages.split"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"error: stages.split failed in {folder}")
    return round(time.perf_counter() - started, 1), round(usage.ru_maxrss / 1024)  # KiB on Linux


def write_processed(folder: Path, rows: int) -> np.ndarray:
    """What preprocess would leave of `rows` images; their perceptual hashes, uint64 (rows,)."""
    rng = np.random.default_rng(0)
    processed = folder / PROCESSED
    processed.mkdir(parents=True)
    hashes = photo_hashes(rows, rng)
    pixels = rng.integers(0, 256, (rows, *SHAPE), np.uint8)
    digests, files = _random_hex(rows, 16, rng), _random_hex(rows, 32, rng)
    again = rng.permutation(rows)[: int(rows * (SAVED_AGAIN + SAME))]
    of = rng.integers(0, rows, len(again))
    hashes[again], pixels[again] = hashes[of], pixels[of]
    same = again[: int(rows * SAME)]
    digests[same] = digests[of[: len(same)]]
    again = again[len(same) :]
    hashes[again] ^= np.uint64(1) << rng.integers(0, 64, len(again)).astype(np.uint64)
    starts = np.append(np.arange(0, rows, ROWS_A_SHARD), rows)
    shards = Shards(processed, SHAPE, starts)
    with open(processed / INDEX, "wb") as file:
        file.write(",".join(INDEX_COLUMNS).encode() + b"\n")
        for shard, (start, stop) in enumerate(itertools.pairwise(starts.tolist())):
            shards.create(shard)
            shards.write(np.arange(start, stop), pixels[start:stop])
            some, count = slice(start, stop), stop - start
            label = [CLASSES[row * len(CLASSES) // rows] for row in range(start, stop)]
            bits = hashes[some].astype(">u8").view(np.uint8).reshape(-1, 8)
            columns = {
                "id": files[some].astype("S16").astype(str),
                "path": [f"{name}/IMG_{row:08}.jpg" for row, name in enumerate(label, start)],
                "label": label,
                "split": [""] * count,
                "group": [""] * count,
                "sha256": files[some].astype(str),
                "shard": [shard_name(shard)] * count,
                "row": np.arange(count),
                "pixels": digests[some].astype(str),
                "perceptual": _hex(bits).astype(str),
                "width": rng.integers(400, 600, count),
                "height": rng.integers(300, 500, count),
                "mode": ["RGB"] * count,
                "format": ["JPEG"] * count,
                "levels": [""] * count,
                "bytes": rng.integers(20_000, 90_000, count),
                "darkest": rng.integers(0, 40, count),
                "brightest": rng.integers(200, 256, count),
                "entropy": rng.integers(400, 600, count),
                "sharpness": rng.integers(50, 5000, count),
            }
            pa.csv.write_csv(
                pa.table({column: columns[column] for column in INDEX_COLUMNS}),
                file,
                pa.csv.WriteOptions(include_header=False, quoting_style="none"),
            )
    write_table(processed / REJECTS, REJECTS_COLUMNS, [])
    Dataset(
        classes=CLASSES,
        shape=SHAPE,
        preprocess=Preprocessing(size=[*SHAPE[:2]], color="grayscale"),
        tables=digest_tables(processed),
    ).save(processed)
    write_parameters(folder)
    return hashes


def photo_hashes(count: int, rng: np.random.Generator) -> np.ndarray:
    """Perceptual hashes uint64 (count,) of pictures whose neighbouring parts are alike."""
    y, x = np.divmod(np.arange(72), 9)
    distance = np.hypot(y[:, None] - y, x[:, None] - x)
    mix = np.linalg.cholesky(np.exp(-distance / REACH)).T.astype(np.float32)
    hashes = np.empty(count, np.uint64)
    for start in range(0, count, 100_000):
        part = hashes[start : start + 100_000]
        cells = rng.standard_normal((len(part), 72), np.float32) @ mix
        cells = cells.reshape(-1, 8, 9)
        bits = cells[..., 1:] - cells[..., :-1] > MARGIN
        part[:] = np.packbits(bits.reshape(-1, 64), axis=1).view(">u8").ravel()
    order = rng.permutation(count)
    blank = int(count * BLANK)
    hashes[order[:blank]] = 0
    alike = order[blank : blank + int(count * ALIKE)]
    # Of the bits of a crowd's pattern each image has another few.
    flips = np.packbits(rng.random((len(alike), 64), np.float32) < 0.05, axis=1).view(">u8").ravel()
    hashes[alike] = hashes[alike[np.arange(len(alike)) // CROWD]] ^ flips.astype(np.uint64)
    return hashes


def _random_hex(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    return _hex(np.frombuffer(rng.bytes(count * size), np.uint8).reshape(count, size))


def _hex(values: np.ndarray) -> np.ndarray:
    """Bytes uint8 (n, size) as 2 * size hexadecimal digits each."""
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    text = np.empty((len(values), 2 * values.shape[1]), np.uint8)
    text[:, 0::2], text[:, 1::2] = digits[values >> 4], digits[values & 15]
    return text.view(f"S{text.shape[1]}").ravel()


if __name__ == "__main__":
    main()
