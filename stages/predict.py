"""Classify images with the trained model.

    python -m stages.predict photo.jpg holiday/ 'scans/*.png' https://example.org/cat.jpg
    find . -name '*.jpg' | python -m stages.predict - --output predictions.csv

PATHS are image files, folders (searched to any depth), globs, URLs, or - for a list on
standard input. Images in folders named after classes are scored too. Images that cannot be
read are reported and the others done; the exit code is then 1.
"""

import argparse
import csv
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from errno import EISDIR
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, get_args

import numpy as np
from tqdm import tqdm

from stages.errors import UserError, run
from stages.files import MODEL
from stages.inference.inputs import Batch, Input, find_inputs, load
from stages.progress import progress
from stages.store.model import (
    Judgement,
    largest_activation,
    load_model,
    read_info,
    read_judgement,
)
from stages.store.names import cell, path_cell, printable
from stages.store.outputs import replace_file

TOP_K = 3  # classes named for an image, unless the model was judged by others
BATCH_PIXELS = 2**22  # decoded at a time: 83 images of 224x224, and at most BATCH_SIZE
BATCH_SIZE = 128
BATCH_NUMBERS = 2**26  # that a layer may give at a time: 256 MiB of float32
LISTED = 20  # unreadable images named on the terminal


def main() -> int:
    options = _options()
    info = read_info(options.model)
    inputs = find_inputs(_arguments(options.paths), info.classes)
    if not inputs:
        names = printable(" ".join(options.paths))
        raise UserError(f"no images in {names}; name image files or folders")
    if all(item.error for item in inputs):
        raise UserError(f"{printable(inputs[0].name)}: {printable(inputs[0].error or '')}")
    judgement = read_judgement(options.model)
    tta = options.tta or (judgement.tta if judgement else "none")
    top_k = min(options.top_k or (judgement.top_k if judgement else TOP_K), len(info.classes))

    predicted = np.full(len(inputs), -1, np.int32)
    errors: dict[int, str] = {}
    height, width, _ = info.shape
    batch_size = options.batch_size or max(1, min(BATCH_SIZE, BATCH_PIXELS // (height * width)))
    batches = load(inputs, info.preprocess, batch_size)
    with (
        _output(options.output, top_k) as write,
        progress(len(inputs), "images", "classifying") as bar,
    ):
        for batch, probabilities in _classify(options.model, tta, batches):
            predicted[batch.positions] = probabilities.argmax(axis=1)
            errors |= batch.errors
            ranked = _ranked(probabilities, info.classes, top_k)
            answers = [
                Answer(inputs[at], best) for at, best in zip(batch.positions, ranked, strict=True)
            ]
            answers += [Answer(inputs[at], [], error) for at, error in batch.errors.items()]
            order = np.argsort([*batch.positions, *batch.errors])
            write([answers[k] for k in order])
            bar.update(len(answers))
    if not judgement and not options.tta:
        _print_unjudged(options.model)
    _print_score(inputs, predicted, info.classes)
    return _print_errors(inputs, errors)


class Answer(NamedTuple):
    """An image, its most probable classes and their probabilities, or what went wrong."""

    input: Input
    ranked: list[tuple[str, float]]
    error: str | None = None


def _options() -> argparse.Namespace:
    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise UserError(f"{message}; see {self.prog} --help")

    def count(value: str) -> int:
        if not value.isdecimal() or int(value) < 1:
            raise argparse.ArgumentTypeError(f"{value} is not a whole number of at least 1")
        return int(value)

    parser = Parser(
        prog="python -m stages.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="+", metavar="PATHS")
    parser.add_argument("--model", type=Path, default=MODEL, help="default: %(default)s")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write a .csv or .json file, not the terminal"
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
    if options.output and options.output.suffix not in (".csv", ".json"):
        raise UserError(f"--output {options.output}: the name must end in .csv or .json")
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


def _classify(path: Path, tta: str, batches: Iterator[Batch]) -> Iterator[tuple[Batch, np.ndarray]]:
    """Yield each batch with the probabilities float32 (n, classes) of its images."""
    import stages.quiet  # noqa: F401  TensorFlow takes seconds, hence after all else is checked

    model, _ = load_model(path)
    from stages.inference.probabilities import classifier

    classify = classifier(model, tta)
    size = max(1, BATCH_NUMBERS // largest_activation(model))
    for batch in batches:
        parts = range(0, max(1, len(batch.images)), size)
        probabilities = np.concatenate([classify(batch.images[at : at + size]) for at in parts])
        if not np.isfinite(probabilities).all():
            raise UserError(
                f"{path} gives no numbers (NaN): its training diverged; lower "
                "train.optimizer.learning_rate and train again"
            )
        yield batch, probabilities


def _ranked(
    probabilities: np.ndarray, classes: list[str], top_k: int
) -> Iterator[list[tuple[str, float]]]:
    """The `top_k` most probable classes of each row of `probabilities`, the most probable first."""
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    highest = np.take_along_axis(probabilities, order, 1)
    for row, values in zip(order.tolist(), highest.tolist(), strict=True):
        yield [(classes[k], value) for k, value in zip(row, values, strict=True)]


@contextmanager
def _output(path: Path | None, top_k: int) -> Iterator[Callable[[list[Answer]], None]]:
    """Yield a function that writes a batch to the file `path`, or the terminal if it is None.

    The file takes its place, whole, at the end of the block.
    """
    if path is None:
        yield _print
        return
    columns = ["file", "actual", "predicted", "confidence"]
    columns += [f"{name}_{k}" for k in range(2, top_k + 1) for name in ("predicted", "confidence")]
    columns.append("error")
    with ExitStack() as stack:
        try:
            if path.is_dir():
                raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
            new = stack.enter_context(replace_file(path))
            file = stack.enter_context(open(new, "w", encoding="utf-8", newline=""))
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from None
        if path.suffix == ".csv":
            table = csv.DictWriter(file, columns, lineterminator="\n")
            table.writeheader()
            yield lambda batch: table.writerows(
                _cells(_record(answer, columns)) for answer in batch
            )
        else:
            lines = 0

            def write(batch: list[Answer]) -> None:
                nonlocal lines
                for answer in batch:
                    line = json.dumps(_record(answer, columns), ensure_ascii=False)
                    file.write((",\n" if lines else "[\n") + line)
                    lines += 1

            yield write
            file.write("\n]\n")


def _record(answer: Answer, columns: list[str]) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "file": printable(answer.input.name),
        "actual": answer.input.label,
        "error": printable(answer.error) if answer.error else None,
    }
    for rank, (name, probability) in enumerate(answer.ranked, 1):
        suffix = f"_{rank}" if rank > 1 else ""
        fields[f"predicted{suffix}"] = name
        fields[f"confidence{suffix}"] = round(probability, 6)
    return {column: fields.get(column) for column in columns}


def _cells(record: dict[str, Any]) -> dict[str, Any]:
    """`record` as a spreadsheet may read it."""
    safe = {name: cell(value) for name, value in record.items() if isinstance(value, str)}
    return record | safe | {"file": path_cell(record["file"])}


def _print(batch: list[Answer]) -> None:
    lines = [
        f"{printable(answer.input.name)}: "
        + ", ".join(f"{printable(name)} {probability:.1%}" for name, probability in answer.ranked)
        for answer in batch
        if not answer.error
    ]
    if lines:
        tqdm.write("\n".join(lines))  # beside the progress bar, not into it


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
