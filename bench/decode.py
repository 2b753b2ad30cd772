"""How many JPEGs a second become pixels of one size, beside what people use and the limit?

Ours is the work of the preprocess stage from the archive to the shards on disk: reading,
decoding, resizing, hashing, writing. Beside it, in turn in the same run:

    loop    one image at a time: cv2.imread, cv2.resize
    keras   keras.utils.image_dataset_from_directory, read to its end
    limit   nothing but libjpeg-turbo's decoding, on all cores, at the scale that ours decodes at

Photos made here from the two that come with scikit-learn: small (32 x 32 -> 32 x 32), medium
(500 x 375 -> 224 x 224 and 64 x 64) and large (12 megapixels -> 224 x 224), these as a telephone
stores them and, at quality 70, as they are sent around. Enlarged pictures have no detail of their
own, so the large ones get a mosaic of the small photo and grain. What a file costs to decode
depends on its bytes a pixel, so they are printed: about 0.25 as from a telephone, 0.1 as sent.

Goals: 4 x the loop on large and 1.7 x on medium with two cores; 80 % of the limit. `met` is
judged by the clock, so on a machine that does nothing else; core ms an image says what each
costs whatever else runs.

    python -m bench.decode      (about three minutes)
"""

import argparse
import hashlib
import os
import shutil
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.resources import files
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import cv2
import numpy as np
import simplejpeg
from joblib import Parallel, delayed

from bench.measure import alternate, report
from stages.images.decode import SPARE
from stages.images.process import process
from stages.images.resize import place, reduction
from stages.store.raw import Entry, read_manifest, write_manifest

# (name, height, width, side of the result, images, quality, times the loop, share of the limit)
SETS = [
    ("small", 32, 32, 32, 20_000, 88, None, None),
    ("medium", 375, 500, 224, 500, 88, 1.7, 0.8),
    ("medium to 64", 375, 500, 64, 800, 88, 1.7, 0.8),
    ("large", 3000, 4000, 224, 40, 92, 4.0, 0.8),
    ("large, compressed", 3000, 4000, 224, 40, 70, 4.0, 0.8),
]
ROUNDS = 3
ENLARGED = 2
GRAIN = 3  # levels


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    import keras

    results, met = {}, []
    for name, height, width, side, count, quality, times_loop, share_of_limit in SETS:
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            photos = make(folder, height, width, count, quality)
            contestants = {
                "ours": partial(ours, folder, side),
                "loop": partial(loop, folder, side),
                "keras": partial(iterate, keras, folder, side),
                "limit": limit(photos, height, width, side),
            }
            costs = alternate(contestants, ROUNDS)
        rates = {who: round(count / cost.seconds, 1) for who, cost in costs.items()}
        work = {who: round(cost.work / count * 1000, 3) for who, cost in costs.items()}
        against = {who: round(rates["ours"] / rates[who], 2) for who in ("loop", "keras", "limit")}
        size = round(sum(map(len, photos)) / count / 1000, 1)
        density = round(size * 1000 / (height * width), 3)
        print(f"{name}: {size} kB, {density} bytes a pixel", flush=True)
        print(f"{name}: images/s {rates}, ratios {against}, core ms an image {work}", flush=True)
        results[name] = {
            "bytes_a_pixel": density,
            "images_per_second": rates,
            "ratio": against,
            "core_ms": work,
        }
        met.append(not times_loop or against["loop"] >= times_loop)
        met.append(not share_of_limit or against["limit"] >= share_of_limit)
    goals = {row[0]: {"loop": row[6], "limit": row[7]} for row in SETS}
    report("decode", cores=os.cpu_count(), sets=results, goal=goals, met=all(met))


def make(folder: Path, height: int, width: int, count: int, quality: int) -> list[bytes]:
    """`count` different photos: returned, in images/<class>/, and in raw/ as by download."""
    sources = [
        simplejpeg.decode_jpeg((files("sklearn") / f"datasets/images/{name}").read_bytes())
        for name in ("china.jpg", "flower.jpg")
    ]
    random = np.random.default_rng(0)
    (folder / "raw").mkdir()
    photos, entries = [], []
    with zipfile.ZipFile(folder / "raw" / "images.zip", "w") as archive:
        for number in range(count):
            image = picture(sources[number % 2], height, width, random)
            data = simplejpeg.encode_jpeg(image, quality, colorsubsampling="420")
            path = f"{'ab'[number % 2]}/{number:05}.jpg"
            (folder / "images" / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "images" / path).write_bytes(data)
            archive.writestr(path, data)
            digest = hashlib.sha256(data).digest()
            entries.append(Entry(path, path[0], "", "", digest, "images.zip", path))
            photos.append(data)
    write_manifest(folder / "raw", sorted(entries))
    return photos


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


def ours(folder: Path, side: int) -> None:
    settings = {
        "size": [side, side],
        "color": "rgb",
        "resize": "stretch",
        "interpolation": "area",
        "background": [255, 255, 255],
    }
    out = folder / "processed"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    manifest = read_manifest(folder / "raw")
    images = process(folder / "raw", manifest, settings, out / "work", folder / "nothing earlier")
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


def limit(photos: list[bytes], height: int, width: int, side: int):
    """A function that decodes all photos on all cores, at the scale `ours` chooses."""
    factor = reduction(place(width, height, (side, side), "stretch"), SPARE)
    scaled = -(-height // factor), -(-width // factor)
    workers = os.cpu_count()
    if height > 100:
        pool = ThreadPoolExecutor(workers)
        return lambda: list(pool.map(lambda photo: decode_all([photo], *scaled), photos))
    parallel = Parallel(workers)
    parts = [photos[start::workers] for start in range(workers)]
    parallel(delayed(len)(part) for part in parts)  # starts the processes before the clock
    return lambda: parallel(delayed(decode_all)(part, *scaled) for part in parts)


def decode_all(photos: list[bytes], height: int, width: int) -> None:
    for photo in photos:
        simplejpeg.decode_jpeg(photo, "RGB", min_height=height, min_width=width)


if __name__ == "__main__":
    main()
