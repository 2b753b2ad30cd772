"""plot: pictures of the results, one page to open or send, and a headline."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages.errors import run
from stages.files import AUGMENTED, OVERVIEW, PAGE, PLOTS, TIMES
from stages.imports import without_collecting
from stages.metrics.scores import hardest_and_easiest, most_confident_mistakes
from stages.parameters.whole import Parameters, read_parameters
from stages.store.names import printable
from stages.store.outputs import Outputs, made_by, outputs_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

    from stages.report.results import Results
    from stages.store.image_set import ImageSet

GLANCE = 16  # training images in the overview
NAMED = 10  # class names in the warning on letters that the font lacks


def main() -> None:
    with outputs_of("plot") as outputs:
        summary = plot(outputs)
    print(summary)


def plot(outputs: Outputs) -> str:
    """Draw the pictures and the page; the results in a few lines."""
    parameters = read_parameters()
    settings = parameters.plot
    # Arrow, matplotlib and Jinja2 take a second to import, a mistake in params.yaml none.
    with without_collecting():
        from stages.figures.charts import CHARTS
        from stages.processes import at_once
        from stages.report.page import render_page
        from stages.report.results import read_results
        from stages.report.summary import console_summary
        from stages.store.model import read_times

    results = read_results(
        corrections=parameters.download.corrections,
        softened=parameters.softened,
        hardest=parameters.train.hardest,
    )
    with made_by("train", AUGMENTED):
        augmented = np.load(AUGMENTED)
    mistakes = most_confident_mistakes(results.labels, results.probabilities)
    samples = _in_turn(results.train.labels, len(results.classes), settings.samples)
    overlays = _overlays(results)

    folder = outputs.directory(PLOTS)
    written = _written(results)
    pictures = _pictures(written, augmented, samples, mistakes[: settings.mistakes])
    drawn = at_once(
        {name: partial(_picture, draw, folder / f"{name}.png") for name, draw in pictures.items()}
        | {
            name: partial(_chart, draw, results, written, folder / f"{name}.png")
            for name, draw in CHARTS.items()
        }
    )
    charts = {name: chart for name, chart in drawn.items() if chart}
    _overview(written, folder).save(outputs.file(OVERVIEW), "PNG")
    page = render_page(
        results,
        parameters.model_dump(),
        Parameters().model_dump(),
        charts,
        overlays,
        round(1e6 * settings.page_megabytes),
    )
    with open(outputs.file(PAGE), "w", encoding="utf-8") as file:
        file.writelines(page)
    times = read_times(TIMES, results.sha256)
    return console_summary(results, times, str(PAGE))


def _written(results: "Results") -> "Results":
    """`results` with the names of classes as the font of the pictures can write them."""
    from stages.figures.style import FONT, written

    names = dict(zip(results.classes, written(results.classes), strict=True))
    changed = [f"{printable(new)} is {printable(old)}" for old, new in names.items() if new != old]
    if not changed:
        return results
    more = f" and {len(changed) - NAMED:,} more" if len(changed) > NAMED else ""
    print(
        f"warning: the font of reports/plots, {FONT}, lacks letters of some class names; there "
        f"{'; '.join(changed[:NAMED])}{more}. {PAGE} shows them as they are"
    )

    def renamed(table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if "class" not in table:
            return table
        return table | {"class": np.array([names.get(name, name) for name in table["class"]])}

    return replace(
        results,
        classes=list(names.values()),
        class_scores=[score._replace(name=names[score.name]) for score in results.class_scores],
        curves={name: renamed(table) for name, table in results.curves.items()},
    )


def _overview(results: "Results", plots: Path) -> "Image":
    """How it learned, what the images are, and what was confused: for the top of a README."""
    from PIL import Image

    from stages.figures.pictures import overview, samples
    from stages.figures.style import to_image

    train = results.train
    chosen = _in_turn(train.labels, len(results.classes), GLANCE)
    names = [results.classes[k] for k in train.labels[chosen]]
    few = samples(list(train.pixels.take(train.rows[chosen])), names)
    # A model without epochs has no learning curves.
    learned = [plots / f"{name}.png" for name in ("learning_curves", "accuracy_by_photos")]
    confused = Image.open(plots / "confusion_actual.png").convert("RGB")
    return overview(
        [
            [Image.open(path).convert("RGB") for path in learned if path.exists()],
            [to_image(few), confused],
        ]
    )


def _picture(draw: Callable[[], "Figure"], file: Path) -> None:
    from stages.figures.style import save_png

    save_png(draw(), file)


def _chart(
    draw: Callable[["Results"], "Figure | None"],
    results: "Results",
    written: "Results",
    file: Path,
) -> str | None:
    """Write the picture of a chart; its SVG element for the page, if there is something to draw."""
    from stages.figures.style import save_png, to_svg

    chart = draw(results)
    shown = to_svg(chart) if chart else None
    if drawn := chart if written is results else draw(written):
        save_png(drawn, file)
    return shown


def _pictures(
    results: "Results", augmented: np.ndarray, samples: np.ndarray, mistakes: np.ndarray
) -> dict[str, Callable[[], "Figure"]]:
    """What draws each picture that shows images or the confusion matrix, by name."""
    from stages.figures import pictures
    from stages.figures.pictures import TITLES, confusion_matrix

    names, train, test = results.classes, results.train, results.test
    explained = results.explained

    def pixels(images: "ImageSet", positions: np.ndarray) -> list[np.ndarray]:
        return list(images.pixels.take(images.rows[positions]))

    def named(labels: np.ndarray) -> list[str]:
        return [names[k] for k in labels]

    return {
        f"confusion_{kind}": partial(confusion_matrix, results.confusion, names, kind)
        for kind in TITLES
    } | {
        "samples": lambda: pictures.samples(pixels(train, samples), named(train.labels[samples])),
        "augmented": lambda: pictures.augmented(augmented),
        "mistakes": lambda: pictures.mistakes(
            pixels(test, mistakes),
            named(results.labels[mistakes]),
            named(results.predicted[mistakes]),
            results.confidence[mistakes],
        ),
        "extremes": lambda: _extremes(results),
        # Also where there is nothing to explain: dvc.yaml lists the picture.
        "grad_cam": lambda: pictures.grad_cam(
            pixels(test, explained),
            results.maps,
            named(results.labels[explained]),
            named(results.predicted[explained]),
        ),
    }


def _extremes(results: "Results", classes: int = 15, count: int = 4) -> "Figure":
    """The hardest and the easiest images of the `classes` with the lowest recall."""
    from stages.figures.pictures import extremes

    by_class = hardest_and_easiest(
        results.labels, results.probabilities, len(results.classes), count
    )
    support = results.confusion.sum(axis=1)
    recall = np.diag(results.confusion) / np.maximum(support, 1)
    chosen = [k for k in np.argsort(recall, kind="stable") if support[k]][:classes]

    def shown(positions: np.ndarray, k: int) -> list[tuple[np.ndarray, float]]:
        images = results.test.pixels.take(results.test.rows[positions])
        return list(zip(images, results.probabilities[positions, k], strict=True))

    rows = [(shown(by_class[k][0], k), shown(by_class[k][1][::-1], k)) for k in chosen]
    return extremes([results.classes[k] for k in chosen], rows, 2 * count + 1)


def _overlays(results: "Results") -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Explained test images: position, and a picture for the predicted and the actual class."""
    from stages.figures.pictures import overlay

    return [
        (int(at), overlay(image, predicted), overlay(image, actual))
        for at, (predicted, actual) in zip(results.explained, results.maps, strict=True)
        for image in [results.test.images(at, at + 1)[0]]
    ]


def _in_turn(labels: np.ndarray, classes: int, count: int) -> np.ndarray:
    """Positions of `count` images, as many of each class as of any other, grouped by class.

    With more classes than `count`, one image of each of `count` classes spread evenly.
    """
    ends = np.cumsum(np.bincount(labels, minlength=classes))
    by_class = np.split(np.argsort(labels, kind="stable"), ends[:-1])
    by_class = [part for part in by_class if len(part)]
    if len(by_class) > count:
        by_class = [by_class[k] for k in np.linspace(0, len(by_class) - 1, count).astype(int)]
    shares = [len(part) for part in np.array_split(np.arange(count), len(by_class))]
    return np.concatenate([part[:n] for part, n in zip(by_class, shares, strict=True)])


if __name__ == "__main__":
    run(main)
