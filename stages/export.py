"""export: the trained model for other runtimes, with all that its use needs, in one folder."""

import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    as_completed,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from stages.errors import UserError, brief, run
from stages.files import EVALUATION, EXPORT, INDEX, MODEL, PARITY, PROCESSED, RAW, SPLITS, TIMES
from stages.images.decode import decode
from stages.inference.parity import Timer, Turn, prove
from stages.inference.seen import Sizes
from stages.metrics.paired import summary
from stages.parameters.export import Export, Format
from stages.parameters.section import read_settings
from stages.processes import end_with_parent
from stages.progress import progress
from stages.store.exported import (
    FILES,
    GOLDEN,
    NEIGHBOURS,
    README,
    Exported,
    Golden,
    Neighbours,
    describe_file,
    tensors,
    write_exported,
)
from stages.store.image_set import ImageSet, load_image_set
from stages.store.model import (
    ModelInfo,
    load_reference,
    read_info,
    read_judgement,
    record_times,
)
from stages.store.names import markdown_template, printable
from stages.store.outputs import Outputs, made_by, outputs_of
from stages.store.raw import read_images, read_manifest
from stages.store.tables import read_table
from stages.training.batches import drawn, fraction

PROCESSES = 2  # formats at a time; each takes TensorFlow's memory and a few times the model's
GOLDEN_IMAGES = 8
SIDES = (32, 48, 64)  # of a thumbnail: whole blocks of JPEG, which mix no two thumbnails
ENDINGS = {"jpeg": "jpg"}
ROUNDED = {"litert_float16", "litert_int8"}  # weights that are not those of the Keras model
TEMPLATE = Path(__file__).with_name("export.md.j2")


def main() -> None:
    started = time.perf_counter()
    with outputs_of("export") as outputs:
        times = export(outputs)
    seconds = {"seconds": round(time.perf_counter() - started, 3)}
    record_times(TIMES, "export", seconds | times, MODEL)


def export(outputs: Outputs) -> dict[str, dict[str, float]]:
    """Write the model in all formats asked for, what belongs to it, and how far they are from the
    Keras model; how fast each is."""
    settings, folder = read_settings(Export), outputs.directory(EXPORT)
    proof = outputs.file(PARITY)
    if not settings.formats:
        text = "Nothing is exported: `export.formats` in params.yaml is empty.\n"
        (folder / README).write_text(text, encoding="utf-8")
        proof.write_text("{}\n", encoding="utf-8")
        print("export.formats is empty: nothing is exported")
        return {}
    info, judgement = read_info(MODEL), read_judgement(MODEL)
    if judgement is None:
        raise UserError(f"{MODEL} is not the model that evaluate judged; run dvc repro evaluate")
    train, test = (load_image_set(PROCESSED, SPLITS / f"{side}.csv") for side in ("train", "test"))
    # The images that training used, in its order: so many, and drawn by its seed.
    seed = info.train.get("seed", 0)
    used = fraction(train.labels, seed, info.train.get("images", len(train)))
    labels = train.labels[used]

    calibration = train.rows[used[drawn(labels, seed, settings.calibration_images)]]
    images = train.pixels.take(calibration)
    with converting(settings.formats, MODEL, judgement.tta, images, folder) as (jobs, keras):
        reference, neighbours = load_reference(MODEL), None
        known = 0 if reference is None else len(reference.trained)
        if settings.neighbours and known:
            chosen = used[drawn(labels, seed, known)]
            if len(chosen) != known:
                raise UserError(
                    f"{MODEL} was trained on other images than {SPLITS} names; dvc repro"
                )
            neighbours = write_neighbours(folder, train, chosen, info)
        golden = write_golden(folder, test, info)
        sizes = made(jobs, folder)
        takes, gives = tensors(info.shape, len(info.classes), sizes)
        exported = Exported(
            classes=info.classes,
            preprocess=info.preprocess,
            input=takes,
            outputs=gives,
            temperature=info.calibration.temperature if info.calibration else 1.0,
            judgement=judgement,
            calibration=info.calibration,
            files={name: describe_file(folder / FILES[name]) for name in settings.formats},
            golden=golden,
            neighbours=neighbours,
        )
        write_exported(folder, exported)
        (folder / README).write_text(readme(exported), encoding="utf-8")
        with made_by("evaluate", EVALUATION):
            expected = np.load(EVALUATION / "probabilities.npy", mmap_mode="r")
        parity, times = prove(folder, exported, keras, RAW, test, expected, settings.limits)
    proof.write_text(json.dumps(summary(parity), indent=2) + "\n", encoding="utf-8")
    return times


Job = Future[tuple[Sizes, float]]  # how much comes out of an image, and seconds


@contextmanager
def converting(
    formats: Sequence[Format], model: Path, tta: str, images: np.ndarray, folder: Path
) -> Iterator[tuple[dict[Job, Format], Timer]]:
    """Write the file `model` to `folder` in all `formats` while the block runs, each in a process
    of its own (see `stages.inference.convert`); by the last of these the Keras model can be timed.

    So this process does without TensorFlow.
    """
    last = formats[-1]
    with _process() as kept, ThreadPoolExecutor(PROCESSES) as threads:

        def convert(format: Format) -> tuple[Sizes, float]:
            started = time.perf_counter()
            with nullcontext(kept) if format == last else _process() as process:
                target = folder / FILES[format]
                sizes = _result(process, format, _convert, format, model, tta, images, target)
            return sizes, time.perf_counter() - started

        def keras(images: np.ndarray) -> Turn:
            return _result(kept, last, _keras_turn, model, tta, images)

        try:
            yield {threads.submit(convert, format): format for format in formats}, keras
        finally:
            threads.shutdown(cancel_futures=True)


def made(jobs: dict[Job, Format], folder: Path) -> Sizes:
    """Wait for the files in `folder`; how much comes out of an image."""
    sizes = Sizes(0)
    with progress(len(jobs), "formats", "exporting") as bar:
        for job in as_completed(jobs):
            sizes, seconds = job.result()
            size = (folder / FILES[jobs[job]]).stat().st_size
            bar.write(f"{jobs[job]}: {size:,} bytes, {seconds:.0f} s", sys.stdout)
            bar.update()
    return sizes


@contextmanager
def _process() -> Iterator[Executor]:
    """A process that does one thing after the other, and starts with the first."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=_start) as process:
        try:
            yield process
        finally:
            with suppress(BrokenProcessPool):
                process.submit(os._exit, 0)  # to take down TensorFlow takes half a second


def _result(process: Executor, format: Format, work: Callable, *arguments: Any) -> Any:
    """What `work` makes of `arguments` in a `process` for this `format`."""
    try:
        return process.submit(work, *arguments).result()
    except UserError:
        raise
    except Exception as error:
        raise UserError(_failure(format, error)) from None


def _start() -> None:
    """In a new process: it ends with this one, even if this one is killed; and converters talk of
    what they do and of what will once be replaced."""
    end_with_parent()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def _convert(format: Format, model: Path, tta: str, images: np.ndarray, target: Path) -> Sizes:
    import stages.quiet  # noqa: F401
    from stages.inference.convert import convert

    try:
        return convert(format, model, tta, images, target)
    except (ImportError, UserError):
        raise
    except Exception as error:  # of libraries, whose own errors need not survive the way back
        raise RuntimeError(str(error).strip() or type(error).__name__) from None


def _keras_turn(model: Path, tta: str, images: np.ndarray) -> Turn:
    import stages.quiet  # noqa: F401
    from stages.inference.convert import keras_turn

    return keras_turn(model, tta, images)


def _failure(format: Format, error: Exception) -> str:
    if isinstance(error, ImportError):
        return f"export.formats: {format} needs packages that are not installed; run make export"
    if isinstance(error, BrokenProcessPool):
        return f"export.formats: the process of {format} was ended, perhaps for want of memory"
    return f"export.formats: {format} cannot be made of this model ({brief(error)}); leave it out"


def write_golden(folder: Path, test: ImageSet, info: ModelInfo) -> list[Golden]:
    """Write some test images, of all parts of the set, the smallest file of each; the answers of
    the Keras model to them, as evaluate found them."""
    with made_by("evaluate", EVALUATION):
        answers = np.load(EVALUATION / "probabilities.npy")
        distance = np.load(EVALUATION / "unlike.npy")
        if answers.shape != (len(test), len(info.classes)) or len(distance) != len(test):
            raise ValueError("it is about other images")
    manifest = read_manifest(RAW)
    row = {id: at for at, id in enumerate(manifest["id"].to_pylist())}
    with made_by("preprocess", PROCESSED / INDEX):
        index = read_table(PROCESSED / INDEX, ["id", "bytes", "format"])
        size, kind = (
            dict(zip(index["id"].to_pylist(), index[name].to_pylist(), strict=True))
            for name in ("bytes", "format")
        )
    parts = np.array_split(np.arange(len(test)), min(GOLDEN_IMAGES, len(test)))
    chosen = [min(part.tolist(), key=lambda at: (size[test.ids[at]], at)) for part in parts]
    files = dict(read_images(RAW, manifest, np.array([row[test.ids[at]] for at in chosen])))

    (folder / GOLDEN).mkdir()
    golden = []
    for number, at in enumerate(chosen):
        content, pixels = files[row[test.ids[at]]], test.images(at, at + 1)[0]
        if not np.array_equal(decode(content, info.preprocess), pixels):
            raise UserError(
                f"{printable(test.paths[at])} is decoded in another way than {PROCESSED} was: run "
                "dvc repro --force preprocess"
            )
        ending = kind[test.ids[at]].lower()
        image, tensor = f"{GOLDEN}/{number}.{ENDINGS.get(ending, ending)}", f"{GOLDEN}/{number}.npy"
        (folder / image).write_bytes(content)
        np.save(folder / tensor, pixels)
        golden.append(
            Golden(
                image=image,
                tensor=tensor,
                probabilities=[round(float(one), 7) for one in answers[at]],
                distance=None if np.isnan(distance[at]) else round(float(distance[at]), 5),
            )
        )
    return golden


def write_neighbours(
    folder: Path, train: ImageSet, chosen: np.ndarray, info: ModelInfo
) -> Neighbours:
    """Write thumbnails of the training images `chosen`, positions in `train`, as one picture."""
    height, width, channels = info.shape
    side = next((side for side in SIDES if side >= max(height, width)), SIDES[-1])
    columns = math.ceil(math.sqrt(len(chosen)))
    rows = math.ceil(len(chosen) / columns)
    paper = tuple(info.preprocess.background) if channels == 3 else 255
    sheet = Image.new("RGB" if channels == 3 else "L", (columns * side, rows * side), paper)
    for at, position in enumerate(chosen.tolist()):
        pixels = train.images(position, position + 1)[0]
        picture = Image.fromarray(pixels if channels == 3 else pixels[..., 0])
        thumbnail = ImageOps.pad(picture, (side, side), color=paper)
        sheet.paste(thumbnail, (at % columns * side, at // columns * side))
    sheet.save(folder / NEIGHBOURS, "JPEG", quality=85)
    labels = train.labels[chosen].tolist()
    return Neighbours(file=NEIGHBOURS, side=side, columns=columns, labels=labels)


def readme(exported: Exported) -> str:
    """Markdown text: how to use the folder in any language, and how to check that."""
    template = markdown_template(TEMPLATE)
    rounded = [name for name in exported.files if name in ROUNDED]
    return template.render(model=exported, test=exported.judgement.test, rounded=rounded)


if __name__ == "__main__":
    run(main, at_once=True)
