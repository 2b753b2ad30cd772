"""How many JPEGs a second become pixels of one size, beside what people use and the limit?

Ours is the work of the preprocess stage from the archive to the shards on disk: reading,
decoding, resizing, hashing, writing. Beside it, in turn in the same run:

    loop         one image at a time: cv2.imread, cv2.resize
    keras        keras.utils.image_dataset_from_directory, read to its end
    torchvision  its decoder and its antialiased resizing, on all cores, of files in memory
    alone        our decoding and resizing and nothing else, likewise
    limit        nothing but libjpeg-turbo's decoding, likewise, at the scale that ours decodes at
    bare         the same into memory that is kept, as ours does: what no program can do without

What ours costs is printed in three parts: decoding (bare), resizing (alone without bare), and all
else (ours without alone): reading, hashing, describing, storing. With nothing else at all, ours
would come to the printed bound of the loop and of the limit.

Photos made here from the two that come with scikit-learn: small (32 x 32 -> 32 x 32), medium
(500 x 375 -> 224 x 224 and 64 x 64) and large (12 megapixels -> 224 x 224), these as a telephone
stores them and, at quality 70, as they are sent around. Enlarged pictures have no detail of their
own, so the large ones get a mosaic of the small photo and grain. What a file costs to decode
depends on its bytes a pixel, so they are printed: about 0.25 as from a telephone, 0.1 as sent.

Goals: 4 x the loop on large and 1.7 x on medium with two cores; 1.5 x torchvision on medium to 224;
80 % of the limit, there 70 %; and there 0.5 levels (of 255) from Pillow's box filter on the whole
image. `met` is judged by the clock, so on a machine that does nothing else; core ms an image says
what each costs whatever else runs. What is not installed is said to be so and judged by no goal.

    python -m bench.decode      (about three minutes)
"""

import argparse
import hashlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.resources import files
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import cv2
import numpy as np
import simplejpeg
from joblib import Parallel, delayed
from PIL import Image

from bench.measure import alternate, report
from stages.images.decode import SPARE, decode, kept_memory
from stages.images.fingerprints import DECODER
from stages.images.process import THREADS_FROM_BYTES, process
from stages.images.resize import place, reduction
from stages.parameters.pixels import Preprocessing
from stages.store.raw import Entry, read_manifest, write_manifest

# (name, height, width, side of the result, images, quality, goals: times each, and levels)
SETS = [
    ("small", 32, 32, 32, 20_000, 88, {}),
    (
        "medium",
        375,
        500,
        224,
        500,
        88,
        {"loop": 1.7, "torchvision": 1.5, "limit": 0.7, "levels": 0.5},
    ),
    ("medium to 64", 375, 500, 64, 800, 88, {"loop": 1.7, "limit": 0.8}),
    ("large", 3000, 4000, 224, 40, 92, {"loop": 4.0, "limit": 0.8}),
    ("large, compressed", 3000, 4000, 224, 40, 70, {"loop": 4.0, "limit": 0.8}),
]
ROUNDS = 3
ENLARGED = 2
GRAIN = 3  # levels
COMPARED = 20  # photos, with what Pillow makes of them


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    import keras

    results, met = {}, []
    for name, height, width, side, count, quality, goals in SETS:
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            photos = make(folder, height, width, count, quality)
            contestants = {
                "ours": partial(ours, folder, side),
                "loop": partial(loop, folder, side),
                "keras": partial(iterate, keras, folder, side),
                "torchvision": torchvision(photos, side),
                "alone": on_all_cores(partial(decode_and_resize, side), photos),
                "limit": on_all_cores(partial(decode_only, *scaled(height, width, side)), photos),
                "bare": on_all_cores(partial(decode_bare, *scaled(height, width, side)), photos),
            }
            installed = {who: run for who, run in contestants.items() if run}
            costs = alternate(installed, ROUNDS)
            levels = round(from_pillow(photos[:COMPARED], side), 2)
        rates = {who: round(count / cost.seconds, 1) for who, cost in costs.items()}
        work = {who: round(cost.work / count * 1000, 3) for who, cost in costs.items()}
        against = {who: round(rates["ours"] / rates[who], 2) for who in rates if who != "ours"}
        against |= {who: "not installed" for who in contestants if who not in installed}
        size = round(sum(map(len, photos)) / count / 1000, 1)
        density = round(size * 1000 / (height * width), 3)
        print(
            f"{name}: {size} kB, {density} bytes a pixel, {levels} levels from Pillow's box filter"
        )
        print(f"{name}: images/s {rates}, ratios {against}, core ms an image {work}")
        parts = {"decoding": work["bare"], "resizing": work["alone"] - work["bare"]}
        parts["all else"] = work["ours"] - work["alone"]
        bounds = {"loop": os.cpu_count() * work["loop"], "limit": work["limit"]}
        bounds = {who: round(cost / work["alone"], 2) for who, cost in bounds.items()}
        parts = {part: round(cost, 3) for part, cost in parts.items()}
        print(f"{name}: core ms an image {parts}, bounds {bounds}", flush=True)
        for what, goal in goals.items():
            value = levels if what == "levels" else against[what]
            if value != "not installed":
                met.append(value <= goal if what == "levels" else value >= goal)
                print(f"{name}: {what} {value}, goal {goal}, {'met' if met[-1] else 'not met'}")
        results[name] = {
            "bytes_a_pixel": density,
            "images_per_second": rates,
            "ratio": against,
            "core_ms": work,
            "parts_core_ms": parts,
            "bounds": bounds,
            "levels": levels,
        }
    goals = {row[0]: row[6] for row in SETS}
    report("decode", cores=os.cpu_count(), sets=results, goal=goals, met=all(met))


def make(folder: Path, height: int, width: int, count: int, quality: int) -> list[bytes]:
    """`count` different photos: returned, in images/<class>/, and in raw/ as by download."""
    sources = [
        simplejpeg.decode_jpeg((files("sklearn") / f"datasets/images/{name}").read_bytes())
        for name in ("china.jpg", "flower.jpg")
    ]
    random = np.random.default_rng(0)
    (folder / "raw").mkdir()
    photos: dict[bytes, None] = {}  # of a content that came twice, ours would decode one
    entries = []
    with zipfile.ZipFile(folder / "raw" / "images.zip", "w") as archive:
        while (number := len(photos)) < count:
            image = picture(sources[number % 2], height, width, random)
            data = simplejpeg.encode_jpeg(image, quality, colorsubsampling="420")
            if data in photos:
                continue
            path = f"{'ab'[number % 2]}/{number:05}.jpg"
            (folder / "images" / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "images" / path).write_bytes(data)
            archive.writestr(path, data)
            digest = hashlib.sha256(data).digest()
            entries.append(Entry(path, path[0], "", "", digest, "images.zip", path))
            photos[data] = None
    write_manifest(folder / "raw", sorted(entries))
    return list(photos)


def picture(source: np.ndarray, height: int, width: int, random) -> np.ndarray:
    """uint8 (height, width, 3): a part of `source`, or, if larger, a mosaic of parts with grain."""
    if height <= 427:
        crop = min(height * 4, 400), min(width * 4, 600)
        top, left = (
            random.integers(0, s - c + 1) for s, c in zip(source.shape, crop, strict=False)
        )
        part = source[top : top + crop[0], left : left + crop[1]]
        return cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
    # Enlarged twice, as is what a camera interpolates between the colours of its sensor.
    tiles = cv2.resize(source, None, fx=ENLARGED, fy=ENLARGED, interpolation=cv2.INTER_CUBIC)
    rows, columns = -(-height // tiles.shape[0]) + 1, -(-width // tiles.shape[1]) + 1
    top, left = random.integers(0, tiles.shape[0]), random.integers(0, tiles.shape[1])
    image = np.tile(tiles, (rows, columns, 1))[top : top + height, left : left + width]
    grain = random.integers(-GRAIN, GRAIN + 1, image.shape[:2], np.int8)[..., None]
    return np.clip(image + grain.astype(np.int16), 0, 255).astype(np.uint8)


def settings(side: int) -> Preprocessing:
    return Preprocessing(
        size=[side, side],
        color="rgb",
        resize="stretch",
        interpolation="area",
        background=[255, 255, 255],
        decoder=DECODER,
    )


def ours(folder: Path, side: int) -> None:
    out = folder / "processed"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    manifest, work = read_manifest(folder / "raw"), out / "work"
    images = process(folder / "raw", manifest, settings(side), work, folder / "nothing earlier")
    assert not images.rejects()
    images.publish(out)


def loop(folder: Path, side: int) -> None:
    for path in sorted((folder / "images").rglob("*.jpg")):
        cv2.resize(cv2.imread(str(path)), (side, side))


def iterate(keras, folder: Path, side: int) -> None:
    dataset = keras.utils.image_dataset_from_directory(
        folder / "images", image_size=(side, side), batch_size=32, shuffle=False, verbose=False
    )
    for _ in dataset:
        pass


def torchvision(photos: list[bytes], side: int) -> Callable[[], None] | None:
    """A function that decodes and resizes all photos on all cores; None if not installed."""
    try:
        import torch
        from torchvision.io import ImageReadMode, decode_jpeg
        from torchvision.transforms.v2.functional import resize
    except ImportError:
        return None
    torch.set_num_threads(1)  # several photos at a time

    def decode_part(part: list[bytes]) -> None:
        for photo in part:
            data = torch.frombuffer(bytearray(photo), dtype=torch.uint8)
            resize(decode_jpeg(data, ImageReadMode.RGB), [side, side], antialias=True)

    return on_all_cores(decode_part, photos, threads=True)


def on_all_cores(
    work: Callable[[list[bytes]], None], photos: list[bytes], threads: bool | None = None
) -> Callable[[], None]:
    """A function that does `work` on all photos: in processes if they are small, as ours does."""
    workers = os.cpu_count()
    if threads or len(photos[0]) >= THREADS_FROM_BYTES:
        pool = ThreadPoolExecutor(workers)
        return lambda: list(pool.map(lambda photo: work([photo]), photos))
    parallel = Parallel(workers)
    parts = [photos[start::workers] for start in range(workers)]
    parallel(delayed(len)(part) for part in parts)  # starts the processes before the clock
    return lambda: parallel(delayed(work)(part) for part in parts)


def decode_and_resize(side: int, photos: list[bytes]) -> None:
    for photo in photos:
        decode(photo, settings(side))


def scaled(height: int, width: int, side: int) -> tuple[int, int]:
    """The height and width at which ours decodes."""
    factor = reduction(place(height, width, (side, side), "stretch"), SPARE)
    return -(-height // factor), -(-width // factor)


def decode_only(height: int, width: int, photos: list[bytes]) -> None:
    for photo in photos:
        simplejpeg.decode_jpeg(photo, "RGB", min_height=height, min_width=width)


def decode_bare(height: int, width: int, photos: list[bytes]) -> None:
    kept = kept_memory(height * width * 3)
    for photo in photos:
        simplejpeg.decode_jpeg(photo, "RGB", min_height=height, min_width=width, buffer=kept)


def from_pillow(photos: list[bytes], side: int) -> float:
    """The mean distance, in levels, from the whole photos resized by Pillow's box filter."""
    distances = []
    for photo in photos:
        whole = Image.fromarray(simplejpeg.decode_jpeg(photo))
        expected = np.asarray(whole.resize((side, side), Image.Resampling.BOX)).astype(int)
        distances.append(np.abs(decode(photo, settings(side)) - expected).mean())
    return float(np.mean(distances))


if __name__ == "__main__":
    main()
