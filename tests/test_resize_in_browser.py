"""The decoding and resizing of the demo page, in a browser, beside that of the pipeline."""

import base64
import io
import json
from itertools import product
from typing import get_args

import numpy as np
import pytest
from factory import ROOT, pixel_settings
from PIL import Image

from stages.images.decode import _fit, _place, decode
from stages.images.resize import CUT_BY_PILLOW
from stages.parameters.pixels import PixelSettings

SERVING = ROOT / "stages/serving"
RESIZE, INTERPOLATION, COLOR = (
    get_args(PixelSettings.model_fields[name].annotation)
    for name in ("resize", "interpolation", "color")
)
FIT = """
return arguments[0].map(({ height, width, factor, settings, image, rows, columns }) => {
  const channels = settings.color === "rgb" ? 3 : 1;
  const pixels = { data: bytes(image), height: rows, width: columns, channels };
  const placement = place(height, width, settings.size, settings.resize);
  return btoa(String.fromCharCode(...fit(pixels, placement, factor, settings).data));
});
"""
DECODE = """
const [data, settings, done] = arguments;
decode(new Blob([bytes(data)]), settings).then(
  (image) => done({ pixels: btoa(String.fromCharCode(...image.data)) }),
  (error) => done({ error: error.message }),
);
"""


@pytest.fixture
def page(browser, tmp_path):
    """A page that has nothing but the functions that are tested."""
    scripts = [(SERVING / name).read_text(encoding="utf-8") for name in ("resize.js", "browser.js")]
    html = "".join(f"<script>{script}</script>" for script in scripts)
    (tmp_path / "page.html").write_text(f"<meta charset=utf-8>{html}", encoding="utf-8")
    browser.get((tmp_path / "page.html").as_uri())
    return browser


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def decoded(page, data: bytes, settings: PixelSettings) -> np.ndarray:
    done = page.execute_async_script(DECODE, text(data), settings.model_dump())
    assert "error" not in done, done
    return np.frombuffer(base64.b64decode(done["pixels"]), np.uint8).reshape(settings.shape)


def differences(page, data: bytes, settings: PixelSettings) -> np.ndarray:
    return np.abs(decoded(page, data, settings).astype(int) - decode(data, settings))


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Slopes and noise, uint8 (height, width, channels)."""
    rng = np.random.default_rng(height * width)
    slopes = np.add.outer(np.arange(height) * 3, np.arange(width) * 2)[..., None]
    noise = rng.integers(0, 60, (height, width, channels))
    return ((slopes * np.arange(1, channels + 1) + noise) % 256).astype(np.uint8)


def smooth(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Slopes alone, that reach neither 0 nor 255."""
    slopes = np.add.outer(np.linspace(20, 120, height), np.linspace(20, 100, width))
    return np.repeat(slopes[..., None], channels, axis=2).astype(np.uint8)


def saved(pixels: np.ndarray, format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


def photo(height: int, width: int) -> np.ndarray:
    """Smooth, as photos are."""
    small = np.random.default_rng(0).integers(0, 256, (height // 16, width // 16, 3))
    image = Image.fromarray(small.astype(np.uint8))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("interpolation", INTERPOLATION)
def test_every_way_of_resizing_gives_the_pixels_of_the_pipeline(page, interpolation):
    sources = [(40, 60), (61, 33), (8, 8), (5, 90), (29, 28), (700, 300)]  # the last: in two parts
    cases, expected = [], []
    for (rows, columns), size, resize, color, factor in product(
        sources, [(28, 28), (31, 7)], RESIZE, COLOR, [1, 2]
    ):
        background = (10, 200, 90)
        settings = pixel_settings(size, color, resize, interpolation, background)
        # Reduced while it was decoded, the image may end within its last pixel.
        height, width = (rows, columns) if factor == 1 else (2 * rows - 1, 2 * columns - 1)
        placement = _place(height, width, 1, settings)
        # In these cases Pillow resizes, and begins with rows or columns; where values that leave
        # the range of bytes are cut between the two, that makes a difference.
        cut = interpolation in CUT_BY_PILLOW and placement.box[::2] != (0, columns * factor)
        pixels = (smooth if cut else picture)(rows, columns, settings.shape[2])
        expected.append(_fit(pixels, placement, factor, 1, settings))
        case = {"height": height, "width": width, "rows": rows, "columns": columns}
        case |= {"factor": factor, "settings": settings.model_dump()}
        cases.append(case | {"image": text(pixels.tobytes())})
    for case, want, got in zip(cases, expected, page.execute_script(FIT, cases), strict=True):
        found = np.frombuffer(base64.b64decode(got), np.uint8).reshape(want.shape)
        # One level: what resizes where there is no fast_image_resize rounds otherwise.
        difference = np.abs(found.astype(int) - want)
        assert difference.max() <= 1, json.dumps(case["settings"])
        assert difference.mean() <= 0.1, json.dumps(case["settings"])


@pytest.mark.parametrize("color", COLOR)
@pytest.mark.parametrize(
    "name",
    [
        *("colour.png", "palette.png", "one bit.png", "alpha.png", "grey with alpha.png"),
        *("16 bits.png", "16 bits with transparency.png", "colour.bmp", "animation.gif"),
        "lossless.webp",
    ],
)
def test_a_lossless_file_gives_the_pixels_of_the_pipeline(page, name, color):
    data = (ROOT / "tests/golden" / name).read_bytes()
    settings = pixel_settings((24, 20), color, background=(10, 200, 90))
    assert differences(page, data, settings).max() <= 2


def test_a_png_of_any_transparency_shows_the_background(page):
    data = saved(np.random.default_rng(0).integers(0, 256, (40, 60, 4)).astype(np.uint8))
    settings = pixel_settings((40, 60), background=(10, 200, 90))
    assert differences(page, data, settings).max() <= 1


def test_the_colours_of_a_png_are_taken_as_stored(page):
    from PIL.PngImagePlugin import PngInfo

    gamma = PngInfo()
    gamma.add(b"gAMA", (100_000).to_bytes(4, "big"))
    data = saved(picture(40, 60), pnginfo=gamma)
    assert not differences(page, data, pixel_settings((30, 20))).any()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_an_image_is_turned_as_its_exif_says(page, format, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    data = saved(photo(48, 64), format, exif=exif)
    difference = differences(page, data, pixel_settings((20, 15)))
    assert difference.max() <= 8
    assert difference.mean() < 1


@pytest.mark.parametrize("color", COLOR)
@pytest.mark.parametrize("side", [200, 120, 60, 30])  # which the pipeline decodes at 1/1 to 1/8
def test_a_photo_differs_by_less_than_a_level_on_average(page, side, color):
    data = saved(photo(512, 320), "JPEG", quality=90)
    difference = differences(page, data, pixel_settings((side, side), color, "crop"))
    assert difference.mean() < 1
    assert np.quantile(difference, 0.99) <= 3


def test_what_the_browser_cannot_read_is_said_in_a_line(page):
    data = text((ROOT / "tests/golden/lzw.tif").read_bytes())
    done = page.execute_async_script(DECODE, data, pixel_settings((8, 8)).model_dump())
    assert done["error"].startswith("this browser cannot read the file as an image; save it as PNG")


def test_16_bits_whose_range_an_image_chooses_are_refused(page):
    data = text((ROOT / "tests/golden/16 bits.png").read_bytes())
    settings = pixel_settings((8, 8), sixteen_bit="image").model_dump()
    assert "16 bits" in page.execute_async_script(DECODE, data, settings)["error"]
