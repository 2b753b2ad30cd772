"""One look for all figures, and deterministic files of them."""

import io
import re
import warnings
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from PIL import Image

# Okabe and Ito 2008, Color Universal Design: distinguishable with any colour vision.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#cc79a7",
    "#56b4e9",
    "#f0e442",
)
SERIES = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)
DASHES = ("-", "--", ":")
INK = "#1b1b1c"  # text and axes; `to_svg` turns it into the colour of the page's text
DPI = 100
FONT = "DejaVu Sans"  # comes with matplotlib

matplotlib.rcParams.update(
    {
        "figure.dpi": DPI,
        "savefig.dpi": DPI,
        "font.family": FONT,
        "font.size": 9,
        "text.color": INK,
        "text.parse_math": False,  # a class may be called $
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": INK,
        "grid.alpha": 0.15,
        "xtick.color": INK,
        "ytick.color": INK,
        "legend.frameon": False,
        "legend.labelcolor": INK,
        "svg.fonttype": "none",
        "svg.hashsalt": "figures",
    }
)


def figure(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` inches whose axes are laid out without overlap."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def save_png(drawn: Figure, file: Path | io.BytesIO) -> None:
    """Write without the metadata (version of matplotlib) that would change the bytes."""
    _lay_out(drawn)
    # As usual (6) takes three times as long for files a tenth smaller.
    options = {"compress_level": 1}
    drawn.savefig(file, format="png", metadata={"Software": None}, pil_kwargs=options)


def _lay_out(drawn: Figure) -> None:
    """Lay out once: matplotlib does it for every file, and draws all twice for that."""
    if engine := drawn.get_layout_engine():
        engine.execute(drawn)
        drawn.set_layout_engine(None)  # not "none", which keeps a place for one, and draws twice


def to_image(drawn: Figure) -> Image.Image:
    """The pixels that `save_png` writes."""
    file = io.BytesIO()
    save_png(drawn, file)
    return Image.open(file).convert("RGB")


def to_svg(drawn: Figure) -> str:
    """An `<svg>` element to put into a page; takes the page's text colour."""
    file = io.StringIO()
    with warnings.catch_warnings():
        # The browser finds a font for letters that this one lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        _lay_out(drawn)
        drawn.savefig(
            file,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    width = round(96 * drawn.get_figwidth())  # CSS pixels an inch
    return re.sub(
        r'^<svg height="[^"]*"|^<svg', f'<svg style="width: {width}px; max-width: 100%"', text
    )


def written(names: list[str]) -> list[str]:
    """`names` of classes as the font of the PNG files can write them.

    Letters that it lacks are left out and the number of the class, its output of the model, added:
    boxes look all alike. Fonts of the system would help, but differ from machine to machine.
    """
    known = get_font(findfont(FONT)).get_charmap()

    def one(number: int, name: str) -> str:
        kept = "".join(letter for letter in name if ord(letter) in known or letter.isspace())
        return name if kept == name else f"{kept} (class {number})".strip()

    return [one(number, name) for number, name in enumerate(names)]


def shortened(name: str, length: int) -> str:
    """`name` in one line of at most `length` characters, its middle left out if need be."""
    name = " ".join(str(name).split())
    if len(name) <= length:
        return name
    head = (length - 1 + 1) // 2
    return name[:head] + "…" + name[len(name) - (length - 1 - head) :]


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 (h, w, c) to RGB uint8 (rows, columns, 3) whose longer side is `size`.

    Small images keep their hard pixels; large ones are averaged down.
    """
    pixels = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("RGB")
    scale = size / max(pixels.size)
    method = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
    box = (max(1, round(pixels.width * scale)), max(1, round(pixels.height * scale)))
    return np.asarray(pixels.resize(box, method))
