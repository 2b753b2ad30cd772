"""Classify images with the trained model.

    python -m stages.predict photo.jpg holiday/ 'scans/*.png' https://example.org/cat.jpg
    find . -name '*.jpg' | python -m stages.predict - --output predictions.csv

PATHS are image files, folders (searched to any depth), globs, URLs, or - for a list on
standard input. Images in folders named after classes are scored too. Images that cannot be
read are reported and the others done; the exit code is then 1.

Where evaluate has judged the model, an image gets the classes that it may be, such as "cat or
dog": as often as evaluate.coverage says, the right one is among them. An image unlike those the
model was trained on is called that.
"""

import argparse
import csv
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from errno import EISDIR
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from tqdm import tqdm

from stages.arguments import Parser, count
from stages.errors import UserError, run
from stages.files import MODEL
from stages.inference import trust
from stages.inference.answers import Answer, answers
from stages.inference.exported import SUFFIXES, load_exported
from stages.inference.inputs import Batch, Input, find_inputs, load
from stages.inference.seen import Seen
from stages.parameters.pixels import Preprocessing
from stages.progress import progress
from stages.store.exported import read_exported
from stages.store.model import (
    Calibration,
    Judgement,
    largest_activation,
    load_model,
    load_reference,
    read_info,
    read_judgement,
)
from stages.store.names import cell, path_cell, printable
from stages.store.outputs import replace_file

TOP_K = 3  # classes named for an image, unless the model was judged by others
BATCH_PIXELS = 2**22  # decoded at a time: 83 images of 224x224, and at most BATCH_SIZE
EXPORTED_PIXELS = 2**20  # the same for an exported model, which tells nothing of its layers
BATCH_SIZE = 128
# Calls of a Keras model at the same time: the layers of a small net leave cores idle in between.
AT_ONCE = 2
BATCH_NUMBERS = 2**26 // AT_ONCE  # that a layer may give in a call: 256 MiB of float32 in all
LISTED = 20  # unreadable images named on the terminal
NAMED = 3  # classes of a prediction set named on the terminal
PAGE = Path("drift.html")


def main() -> int:
    options = _options()
    is_exported = options.model.suffix in SUFFIXES
    if is_exported and options.drift:
        raise UserError(
            "--drift compares with validation images, which no exported model knows; name the "
            ".keras file with --model"
        )
    model = (_exported if is_exported else _trained)(options.model, options.tta)
    inputs = find_inputs(_arguments(options.paths), model.classes)
    if not inputs:
        names = printable(" ".join(options.paths))
        raise UserError(f"no images in {names}; name image files or folders")
    if all(item.error for item in inputs):
        raise UserError(f"{printable(inputs[0].name)}: {printable(inputs[0].error or '')}")
    judgement = model.judgement
    top_k = min(options.top_k or (judgement.top_k if judgement else TOP_K), len(model.classes))

    height, width, _ = model.preprocess.shape
    most = max(1, min(BATCH_SIZE, model.pixels // (height * width)))

    def classify(chosen: list[Input]) -> Iterator[tuple[Batch, Seen]]:
        batches = load(chosen, model.preprocess, options.batch_size or most)
        return _classify(options.model, model, batches)

    if options.drift:
        return _print_drift(inputs, classify(inputs), model, options.output or PAGE)
    if options.next:
        chosen, errors = _choose(len(inputs), classify(inputs), options.next)
        if options.output is None:
            print("".join(f"{printable(inputs[at].name)}\n" for at in chosen), end="")
            return _print_errors(inputs, errors)
        code = _print_errors(inputs, errors)
        inputs = [inputs[at] for at in chosen]
    else:
        code = 0
    judgement = _believed(judgement, model.tta)

    def tell(seen: Seen) -> Iterator[Answer]:
        return answers(seen, model.classes, judgement, top_k)

    return max(code, _write(inputs, classify(inputs), model.classes, tell, top_k, options.output))


class Source(NamedTuple):
    """A model to ask, trained or exported: what is known of it before it runs.

    `start` loads it, which may take seconds, and gives the function that it is; `pixels` of images
    are given to that at a time, by `at_once` threads. `held_out` float16 (n, d) are features of
    validation images.
    """

    classes: list[str]
    preprocess: Preprocessing
    judgement: Judgement | None
    tta: str
    pixels: int
    at_once: int
    start: Callable[[], Callable[[np.ndarray], Seen]]
    calibration: Calibration | None = None
    held_out: np.ndarray | None = None


def _trained(path: Path, tta: str | None) -> Source:
    """The Keras model in the file `path`, with views of each image as `tta` says, or as it was
    judged."""
    info, judgement, reference = read_info(path), read_judgement(path), load_reference(path)
    views = tta or (judgement.tta if judgement else "none")

    def start() -> Callable[[np.ndarray], Seen]:
        import stages.quiet  # noqa: F401  TensorFlow takes seconds

        model, _ = load_model(path)
        if not judgement and not tta:
            _print_unjudged(path)
        from stages.inference.fold import folded
        from stages.inference.probabilities import observer

        observe = observer(folded(model), views, reference.trained if reference else None)
        size = max(1, BATCH_NUMBERS // largest_activation(model))

        def observe_in_parts(images: np.ndarray) -> Seen:
            parts = range(0, max(1, len(images)), size)
            return Seen.together([observe(images[at : at + size]) for at in parts])

        return observe_in_parts

    return Source(
        info.classes,
        info.preprocess,
        judgement,
        views,
        BATCH_PIXELS,
        AT_ONCE,
        start,
        info.calibration,
        reference.held_out if reference else None,
    )


def _exported(path: Path, tta: str | None) -> Source:
    """The exported model in the file `path`, whose views of each image are a part of it."""
    exported, _ = read_exported(path)
    judgement = exported.judgement
    if tta not in (None, judgement.tta):
        raise UserError(
            f"--tta {tta}: {path} was exported with --tta {judgement.tta}, which is a part of it; "
            "leave --tta out, or name the .keras file with --model"
        )
    return Source(
        exported.classes,
        exported.preprocess,
        judgement,
        judgement.tta,
        EXPORTED_PIXELS,
        1,  # LiteRT takes no two calls at a time, and ONNX Runtime gains 5 % by them
        lambda: load_exported(path)[1],
    )


def _write(
    inputs: list[Input],
    classified: Iterator[tuple[Batch, Seen]],
    classes: list[str],
    tell: Callable[[Seen], Iterator[Answer]],
    top_k: int,
    output: Path | None,
) -> int:
    """Write an answer for each of `inputs` and print how many are right; the exit code."""
    predicted = np.full(len(inputs), -1, np.int32)
    errors: dict[int, str] = {}
    with _output(output, top_k) as write, progress(len(inputs), "images", "classifying") as bar:
        for batch, seen in classified:
            predicted[batch.positions] = seen.probabilities.argmax(axis=1)
            errors |= batch.errors
            told = dict(zip(batch.positions, tell(seen), strict=True))
            done = sorted([*told, *batch.errors])
            write([Line(inputs[at], told.get(at), batch.errors.get(at)) for at in done])
            bar.update(len(done))
    _print_score(inputs, predicted, classes)
    return _print_errors(inputs, errors)


def _believed(judgement: Judgement | None, tta: str) -> Judgement | None:
    """What of the `judgement` holds for images looked at with `tta`."""
    if not judgement or not judgement.sets or tta == judgement.tta:
        return judgement
    print(
        f"no prediction sets: the model was judged with --tta {judgement.tta}, and they hold "
        "with that alone",
        file=sys.stderr,
    )
    return judgement.model_copy(update={"sets": None})


class Line(NamedTuple):
    """An image, and what is told of it or what went wrong."""

    input: Input
    answer: Answer | None
    error: str | None = None


def _options() -> argparse.Namespace:
    parser = Parser("predict", __doc__)
    parser.add_argument("paths", nargs="+", metavar="PATHS")
    parser.add_argument("--model", type=Path, default=MODEL, help="default: %(default)s")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write a .csv or .json file, not the terminal"
    )
    other = parser.add_mutually_exclusive_group()
    other.add_argument(
        "--next",
        type=count,
        metavar="N",
        help="name the N images to label next: uncertain, and different from each other",
    )
    other.add_argument(
        "--drift",
        action="store_true",
        help="tell whether the images come from where the training images came from, with a page "
        f"of the most unusual (default: --output {PAGE})",
    )
    parser.add_argument(
        "--top-k", type=count, help=f"classes named for an image (default: evaluate's, or {TOP_K})"
    )
    parser.add_argument(
        "--tta",
        choices=get_args(Judgement.model_fields["tta"].annotation),
        help="average over views of each image (default: as evaluate judged the model)",
    )
    parser.add_argument(
        "--batch-size", type=count, help=f"images at a time (default: up to {BATCH_SIZE})"
    )
    options = parser.parse_args()
    endings = (".html",) if options.drift else (".csv", ".json")
    if options.output and options.output.suffix not in endings:
        raise UserError(f"--output {options.output}: the name must end in {' or '.join(endings)}")
    return options


def _arguments(paths: list[str]) -> Iterator[str]:
    for path in paths:
        if path == "-":
            lines = map(os.fsdecode, sys.stdin.buffer)  # keeps names that are not UTF-8
            yield from filter(None, (line.rstrip("\r\n") for line in lines))
        else:
            yield path


def _print_unjudged(model: Path) -> None:
    beside = model.with_suffix(".json")
    print(
        f"{printable(str(beside))} does not tell how {printable(model.name)} was judged: each "
        "image is looked at once (--tta none)",
        file=sys.stderr,
    )


def _classify(path: Path, model: Source, batches: Iterator[Batch]) -> Iterator[tuple[Batch, Seen]]:
    """Yield each batch with what the model in the file `path` makes of its images, in order."""

    def oldest() -> tuple[Batch, Seen]:
        batch, call = calls.popleft()
        seen = call.result()
        if not np.isfinite(seen.probabilities).all():
            raise UserError(
                f"{path} gives no numbers (NaN): its training diverged; lower "
                "train.optimizer.learning_rate and train again"
            )
        return batch, seen

    observe = model.start()
    calls: deque[tuple[Batch, Future[Seen]]] = deque()
    with ThreadPoolExecutor(model.at_once) as pool:
        for batch in batches:
            calls.append((batch, pool.submit(observe, batch.images)))
            if len(calls) > model.at_once:  # one waits, for as long as an answer is written
                yield oldest()
        while calls:
            yield oldest()


def _choose(
    count: int, classified: Iterator[tuple[Batch, Seen]], wanted: int
) -> tuple[list[int], dict[int, str]]:
    """Positions of the images to label next, and what is wrong with those that cannot be read."""
    errors: dict[int, str] = {}
    shortlist = trust.Shortlist(wanted)
    with progress(count, "images", "comparing") as bar:
        for batch, seen in classified:
            shortlist.add(batch.positions, seen.probabilities, seen.features)
            errors |= batch.errors
            bar.update(len(batch.positions) + len(batch.errors))
    return shortlist.choose(), errors


def _print_drift(
    inputs: list[Input], classified: Iterator[tuple[Batch, Seen]], model: Source, page: Path
) -> int:
    """Say whether `inputs` come from where the training images came from; the exit code."""
    from stages.inference import drift

    if not model.calibration or model.held_out is None or not len(model.held_out):
        raise UserError(
            "--drift compares with validation images, and this model knows none: set split.val "
            "above 0 and train again"
        )
    if len(inputs) < drift.FEWEST:
        raise UserError(f"--drift needs at least {drift.FEWEST} images, not {len(inputs)}")
    errors: dict[int, str] = {}
    collected = drift.Collected(len(inputs), len(model.classes))
    with progress(len(inputs), "images", "comparing") as bar:
        for batch, seen in classified:
            collected.add(batch, seen.probabilities, seen.features, seen.distance)
            errors |= batch.errors
            bar.update(len(batch.positions) + len(batch.errors))
    found = drift.compare(collected, model.held_out, model.calibration.predicted)
    print(found.describe([printable(name) for name in model.classes]))
    with _new_file(page) as new:
        names = [printable(item.name) for item in inputs]
        new.write_text(drift.render(found, names, model.classes), encoding="utf-8")
    print(f"the most unusual images: open {page}")
    return _print_errors(inputs, errors)


@contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """Yield a name to write to; the file takes the place of `path`, whole, at the end."""
    with ExitStack() as stack:
        try:
            if path.is_dir():
                raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
            new = stack.enter_context(replace_file(path))
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from None
        yield new


@contextmanager
def _output(path: Path | None, top_k: int) -> Iterator[Callable[[list[Line]], None]]:
    """Yield a function that writes a batch to the file `path`, or the terminal if it is None.

    The file takes its place, whole, at the end of the block.
    """
    if path is None:
        yield _print
        return
    columns = ["file", "actual", "predicted", "confidence"]
    columns += [f"{name}_{k}" for k in range(2, top_k + 1) for name in ("predicted", "confidence")]
    columns += ["set", "unlike", "error"]
    with ExitStack() as stack:
        new = stack.enter_context(_new_file(path))
        file = stack.enter_context(open(new, "w", encoding="utf-8", newline=""))
        if path.suffix == ".csv":
            table = csv.writer(file, lineterminator="\n")
            table.writerow(columns)
            yield lambda batch: table.writerows(_cells(_values(line, top_k)) for line in batch)
        else:
            written = 0

            def write(batch: list[Line]) -> None:
                nonlocal written
                for line in batch:
                    record = dict(zip(columns, _values(line, top_k), strict=True))
                    text = json.dumps(record, ensure_ascii=False)
                    file.write((",\n" if written else "[\n") + text)
                    written += 1

            yield write
            file.write("\n]\n")


def _values(line: Line, top_k: int) -> list[Any]:
    """What is told of an image, in the order of the columns; None for what is not known."""
    values: list[Any] = [printable(line.input.name), line.input.label]
    if line.answer:
        for ranked in line.answer.ranked:
            values += ranked
        values += line.answer.set, line.answer.unlike
    else:
        values += [None] * (2 * top_k + 2)
    values.append(printable(line.error) if line.error else None)
    return values


def _cells(values: list[Any]) -> list[Any]:
    """`_values` as a spreadsheet may read them."""
    name, *others, inside, unlike, error = values
    if inside is not None:
        inside = trust.joined(inside)
    if unlike is not None:
        unlike = "yes" if unlike else "no"
    others += inside, unlike, error
    return [path_cell(name), *(cell(each) if isinstance(each, str) else each for each in others)]


def _print(batch: list[Line]) -> None:
    lines = [
        f"{printable(line.input.name)}: {_verdict(line.answer)}" for line in batch if line.answer
    ]
    if lines:
        tqdm.write("\n".join(lines))  # beside the progress bar, not into it


def _verdict(answer: Answer) -> str:
    """What to believe of an image, and the probabilities."""
    figures = ", ".join(f"{printable(name)} {share:.1%}" for name, share in answer.ranked)
    if answer.unlike:
        return f"unlike the training images ({figures})"
    if answer.set is None:
        return figures
    if len(answer.set) > NAMED:
        return f"one of {len(answer.set)} classes ({figures})"
    return f"{' or '.join(map(printable, answer.set))} ({figures})"


def _print_score(inputs: list[Input], predicted: np.ndarray, classes: list[str]) -> None:
    """Accuracy and report of the images whose folder names their class, if there are any."""
    number: dict[str | None, int] = {name: label for label, name in enumerate(classes)}
    labels = np.array([number.get(item.label, -1) for item in inputs])
    scored = (labels >= 0) & (predicted >= 0)
    if not scored.any():
        return
    from stages.metrics import scores

    right = int((labels == predicted)[scored].sum())
    score = scores.accuracy(right, int(scored.sum()))
    print(scores.report(labels[scored], predicted[scored], [printable(name) for name in classes]))
    print(
        f"accuracy {score['accuracy']:.2%} ({right:,} of {score['count']:,}, 95 % interval "
        f"{score['accuracy_low']:.2%} to {score['accuracy_high']:.2%})"
    )
    if unscored := int((predicted >= 0).sum() - scored.sum()):
        print(f"{unscored:,} images lie in no folder named after a class and are not scored")


def _print_errors(inputs: list[Input], errors: dict[int, str]) -> int:
    """Name what could not be read; the exit code."""
    sys.stdout.flush()  # first what was classified, also where both go to one file
    for position, error in list(errors.items())[:LISTED]:
        print(
            f"unreadable: {printable(inputs[position].name)}: {printable(error)}", file=sys.stderr
        )
    if len(errors) > LISTED:
        print(f"... and {len(errors) - LISTED:,} more; --output lists all", file=sys.stderr)
    if errors:
        print(
            f"error: {len(errors):,} of {len(inputs):,} images could not be read; "
            "the others are classified",
            file=sys.stderr,
        )
    return 1 if errors else 0


if __name__ == "__main__":
    run(main)
