"""Pictures made of images: grids of samples and mistakes, the confusion matrix, the overview."""

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.backend_bases import RendererBase
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from PIL import Image

from stages.figures.style import DPI, INK, RED, figure, resized, shortened

TILE = 128  # pixels of an image's longer side
GAP = 10
LINE = 18  # height of a line of caption
Shown = tuple[np.ndarray, float]  # an image and a probability
FONT_SIZE = 10  # of captions
LETTER = 7.8  # mean width of a letter of a caption
HEADER = 38


class _Pixels(Artist):
    """`canvas` uint8 (h, w, 3), pixel by pixel, behind all else on a figure of its size.

    `imshow` resamples it to the same pixels, and takes most of a second for a large grid.
    """

    def __init__(self, canvas: np.ndarray):
        super().__init__()
        self._pixels = np.dstack([canvas, np.full(canvas.shape[:2], 255, np.uint8)])
        self.set_zorder(-1)

    def draw(self, renderer: RendererBase) -> None:
        renderer.draw_image(renderer.new_gc(), 0, 0, self._pixels[::-1])  # first row below


def image_grid(
    images: list[np.ndarray],
    captions: list[list[str]],
    columns: int,
    title: str,
    highlight: int | None = None,
    row_titles: list[str] | None = None,
) -> Figure:
    """`images` uint8 (h, w, c), row by row, each above its `captions` (lines of text).

    Line number `highlight` of the captions is drawn in red. `row_titles` stand above the
    rows. An empty grid says so.
    """
    if not images:
        return _nothing(title)
    tiles = [resized(image, TILE) for image in images]
    width, height = max(t.shape[1] for t in tiles), max(t.shape[0] for t in tiles)
    cell = max(width, TILE) + GAP, height + LINE * max(map(len, captions)) + GAP
    above = LINE + 4 if row_titles else 0
    rows = -(-len(tiles) // columns)
    across = columns * cell[0] + GAP
    down = HEADER + rows * (cell[1] + above) + GAP // 2
    canvas = np.full(
        (down, max(across, round(len(title) * LETTER * 1.2) + 2 * GAP), 3), 255, np.uint8
    )
    drawn = Figure(figsize=(canvas.shape[1] / DPI, canvas.shape[0] / DPI), facecolor="white")
    style: dict[str, Any] = {"verticalalignment": "top", "fontsize": FONT_SIZE}
    corners = []
    for at, tile in enumerate(tiles):
        x = GAP + at % columns * cell[0]
        y = HEADER + above + at // columns * (cell[1] + above)
        canvas[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
        corners.append((x, y))
    axes = drawn.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(-0.5, canvas.shape[1] - 0.5), ylim=(canvas.shape[0] - 0.5, -0.5))
    drawn.add_artist(_Pixels(canvas))
    axes.text(GAP, 9, title, fontsize=12, verticalalignment="top")
    for (x, y), lines in zip(corners, captions, strict=True):
        for number, line in enumerate(lines):
            axes.text(
                x,
                y + height + 3 + LINE * number,
                shortened(line, int((cell[0] - GAP) / LETTER)),
                color=RED if number == highlight else INK,
                **style,
            )
    for row, name in enumerate(row_titles or []):
        y = HEADER + row * (cell[1] + above)
        axes.text(GAP, y, shortened(name, int(across / LETTER / 1.2)), fontweight="bold", **style)
    return drawn


def samples(images: list[np.ndarray], names: list[str]) -> Figure:
    """Images with their classes, as wide as high."""
    columns = min(10, max(1, round(len(images) ** 0.5)))
    return image_grid(images, [[name] for name in names], columns, "Training images")


def augmented(images: np.ndarray) -> Figure:
    """Variants of one image, as training sees them."""
    title = f"Augmentation: {len(images)} variants of one image"
    return image_grid(list(images), [[]] * len(images), 5, title)


def mistakes(
    images: list[np.ndarray], actual: list[str], predicted: list[str], confidence: np.ndarray
) -> Figure:
    """Wrongly classified images, most confident first."""
    captions = [
        [f"is {a}", f"said {p}", f"{100 * c:.1f} % sure"]
        for a, p, c in zip(actual, predicted, confidence, strict=True)
    ]
    title = "Most confident mistakes" if images else "No mistakes on the test images"
    columns = min(5, max(1, len(images)))
    return image_grid(images, captions, columns, title, highlight=1)


def extremes(names: list[str], rows: list[tuple[list[Shown], list[Shown]]], columns: int) -> Figure:
    """One row a class: its hardest images, an empty place, its easiest; each with the
    probability that the model gave to what it is."""
    images, captions = [], []
    blank = np.full_like(next(image for hardest, _ in rows for image, _ in hardest), 255)
    for hardest, easiest in rows:
        padded = hardest + [(blank, None)] * (columns - len(hardest) - len(easiest)) + easiest
        images += [image for image, _ in padded]
        captions += [["" if p is None else f"{100 * p:.1f} %"] for _, p in padded]
    title = "Hardest images (left) and easiest (right), with the probability of the actual class"
    return image_grid(images, captions, columns, title, row_titles=names)


def grad_cam(
    images: list[np.ndarray], maps: np.ndarray, actual: list[str], predicted: list[str]
) -> Figure:
    """Mistakes, with what spoke for the predicted class and what for the actual one."""
    tiles, captions = [], []
    for image, (wrong, right), a, p in zip(images, maps, actual, predicted, strict=True):
        tiles += [image, overlay(image, wrong), overlay(image, right)]
        captions += [["image"], ["for (wrong):", p], ["for (right):", a]]
    title = "Grad-CAM of mistakes: what spoke for a class" if tiles else "No mistakes to explain"
    columns = 6 if len(images) > 1 else 3
    return image_grid(tiles, captions, columns, title)


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """`image` uint8 (h, w, c) in grey under `heat` uint8 (rows, columns); RGB uint8."""
    size = max(TILE, *image.shape[:2])
    small = resized(image, TILE if size <= TILE else max(image.shape[:2]))
    grey = small.mean(axis=-1, keepdims=True)
    box = small.shape[1], small.shape[0]
    heat = np.asarray(Image.fromarray(heat).resize(box, Image.Resampling.BILINEAR)) / 255
    colour = colormaps["viridis"](heat)[..., :3] * 255
    opacity = 0.25 + 0.4 * heat[..., None]
    return np.round(grey * (1 - opacity) + colour * opacity).astype(np.uint8)


def _nothing(title: str) -> Figure:
    drawn = Figure(figsize=(4, 0.6), facecolor="white")
    drawn.text(0.03, 0.5, title, verticalalignment="center", fontsize=11)
    return drawn


TITLES = {
    "actual": "Confusion, % of the actual class",
    "predicted": "Confusion, % of the predicted class",
    "counts": "Confusion, numbers of images",
}
ANNOTATED = 20  # with more classes, numbers in the cells would not be legible
LABELLED = 120


def confusion_matrix(counts: np.ndarray, classes: list[str], normalise: str = "actual") -> Figure:
    """`counts` int (classes, classes), rows are actual; `normalise` is one of `TITLES`."""
    if normalise == "counts":
        values = counts.astype(float)
    else:
        total = counts.sum(axis=1 if normalise == "actual" else 0, keepdims=True)
        values = counts / np.maximum(total, 1)
    many = len(classes)
    side = float(np.clip(0.46 * many, 2.6, 8 if many <= ANNOTATED else 11))
    font = 9 if many <= ANNOTATED else float(np.clip(side * 72 / many * 0.72, 3.5, 8))
    length = 24 if many <= 40 else 20
    margin = 0.6 + min(length, max(map(len, classes))) * font * 0.6 / 72
    drawn = figure(side + margin + 0.9, side + margin + 0.5)
    axes = drawn.subplots()
    top = values.max() if normalise == "counts" else 1
    # Among many classes single confusions are rare: the root keeps them visible.
    scale = PowerNorm(1 if many <= ANNOTATED else 0.5, vmin=0, vmax=max(top, 1e-9))
    picture = axes.imshow(values, cmap="Blues", norm=scale)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(TITLES[normalise], loc="left")
    axes.set(xlabel="predicted", ylabel="actual")
    step = -(-many // LABELLED)
    ticks = np.arange(0, many, step)
    names = [shortened(classes[k], length) for k in ticks]
    straight = many * max(map(len, names)) * font * 0.62 / 72 < side
    axes.set_xticks(ticks, names, fontsize=font, rotation=0 if straight else 90)
    axes.set_yticks(ticks, names, fontsize=font)
    axes.tick_params(length=0)
    if many <= ANNOTATED:
        for i, j in zip(*np.nonzero(counts), strict=True):
            value = (
                f"{counts[i, j]}"
                if normalise == "counts"
                else f"{100 * values[i, j]:.1f}".removesuffix(".0")
            )
            colour = "white" if values[i, j] > 0.55 * top else "black"
            axes.text(j, i, value, ha="center", va="center", color=colour, fontsize=font)
    bar = drawn.colorbar(picture, ax=axes, shrink=0.7)
    bar.outline.set_visible(False)
    if normalise != "counts":
        bar.ax.yaxis.set_major_formatter(PercentFormatter(1))
    return drawn


WIDTH = 1000  # pixels of the overview, hardly more than a README gives it: texts stay legible


def overview(rows: list[list[Image.Image]]) -> Image.Image:
    """The pictures in rows; those of a row are reduced alike if they are too wide together."""
    strips = [_strip(row) for row in rows if row]
    canvas = Image.new("RGB", (WIDTH, sum(strip.height + GAP for strip in strips) - GAP), "white")
    top = 0
    for strip in strips:
        canvas.paste(strip, ((WIDTH - strip.width) // 2, top))
        top += strip.height + GAP
    return canvas


def _strip(pictures: list[Image.Image]) -> Image.Image:
    gaps = GAP * (len(pictures) - 1)
    scale = min(1, (WIDTH - gaps) / sum(picture.width for picture in pictures))
    sizes = [(int(picture.width * scale), int(picture.height * scale)) for picture in pictures]
    widths, heights = zip(*sizes, strict=True)
    strip = Image.new("RGB", (sum(widths) + gaps, max(heights)), "white")
    left = 0
    for picture, size in zip(pictures, sizes, strict=True):
        strip.paste(picture.resize(size, Image.Resampling.LANCZOS), (left, 0))
        left += size[0] + GAP
    return strip
