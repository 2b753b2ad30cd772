"""Any image file becomes the pixels a slow and simple reference gives, or is refused."""

import io
import struct
import subprocess
import sys
import zlib
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from factory import pixel_settings
from PIL import Image, ImageOps

from stages.images import decode as decoding
from stages.images.decode import decode, decode_with_facts
from stages.images.formats import UnreadableImage
from stages.parameters.pixels import PixelSettings

ROOT = Path(__file__).parent.parent
PHOTO = (files("sklearn") / "datasets/images/china.jpg").read_bytes()  # 640 x 427
FILTERS = {
    "area": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def photo(width=640, height=427) -> Image.Image:
    return Image.open(io.BytesIO(PHOTO)).resize((width, height))


def encode(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def covered(source: int, target: int) -> np.ndarray:
    """(target, source): the share that each source pixel has in each output pixel."""
    edges = np.linspace(0, source, target + 1)[:, None]
    pixel = np.arange(source)
    overlap = np.minimum(edges[1:], pixel + 1) - np.maximum(edges[:-1], pixel)
    return np.maximum(overlap, 0) * target / source


def area_mean(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Exact means of (h, w, c) over the areas that the pixels of `size` (height, width) cover."""
    down, across = (covered(*sides) for sides in zip(pixels.shape, size, strict=False))
    return np.einsum("yh,hwc,xw->yxc", down, pixels, across, optimize=True)


def reference(data: bytes, settings: PixelSettings) -> np.ndarray:
    """What Pillow alone makes of an opaque image, at full scale, for `resize: stretch`."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)).convert("RGB"))
    image = image.convert("L" if settings.color == "grayscale" else "RGB")
    image = image.resize(settings.size[::-1], FILTERS[settings.interpolation])
    return np.asarray(image).reshape(settings.shape)


def assert_close(pixels, expected, mean=0.0, worst=0):
    """Equal within levels (of 255): `mean` on average, `worst` at 99.9 % of the values."""
    difference = np.abs(pixels.astype(int) - expected)
    assert pixels.shape == expected.shape
    assert pixels.dtype == np.uint8
    assert difference.mean() <= mean
    assert np.quantile(difference, 0.999) <= worst


# Ordinary JPEGs, through the fast decoder


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("size", [(427, 640), (224, 224), (100, 150), (64, 64), (32, 32)])
def test_a_photo_decoded_at_reduced_scale_looks_as_at_full_scale(size, interpolation):
    settings = pixel_settings(size, interpolation=interpolation)
    mean, worst = (2.4, 25) if interpolation == "area" else (1.2, 10)
    assert_close(decode(PHOTO, settings), reference(PHOTO, settings), mean, worst)


@pytest.mark.parametrize("size", [(427, 640), (224, 224), (32, 32)])
def test_grey_of_a_colour_photo_is_its_luma(size):
    settings = pixel_settings(size, "grayscale", interpolation="bilinear")
    assert_close(decode(PHOTO, settings), reference(PHOTO, settings), mean=1.2, worst=12)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
def test_every_kind_of_jpeg_at_full_scale_is_what_pillow_gives(subsampling, progressive):
    data = encode(photo(), "JPEG", subsampling=subsampling, progressive=progressive)
    settings = pixel_settings((427, 640))
    assert_close(decode(data, settings), reference(data, settings), mean=0.1, worst=3)


@pytest.mark.parametrize("orientation", [1, 3])
def test_what_a_thread_decodes_later_does_not_alter_what_it_decoded(orientation):
    size, exif = (300, 400), Image.Exif()
    exif[0x0112] = orientation
    red, blue = (
        encode(Image.new("RGB", size[::-1], color), "JPEG", exif=exif) for color in ("red", "blue")
    )
    first = decode(red, pixel_settings(size))
    before = first.copy()
    decode(blue, pixel_settings(size))
    assert np.array_equal(first, before)


# By area


NOISE = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)


def by_area(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return decode(encode(Image.fromarray(pixels), "PNG"), pixel_settings(size))


@pytest.mark.parametrize("size", [(60, 90), (30, 45), (20, 30), (15, 10), (3, 3), (1, 1)])
def test_reducing_by_area_takes_the_mean_of_what_is_covered(size):
    assert_close(by_area(NOISE, size), area_mean(NOISE, size), mean=0.6, worst=1)


def test_enlarging_by_area_repeats_pixels_and_blends_them_only_across_their_edges():
    assert_close(by_area(NOISE, (180, 270)), NOISE.repeat(3, 0).repeat(3, 1))
    digit = NOISE[:8, :8]
    assert_close(by_area(digit, (28, 28)), area_mean(digit, (28, 28)), mean=0.6, worst=1)


def test_by_area_one_side_may_shrink_while_the_other_grows():
    for size in ((20, 180), (120, 30)):
        assert_close(by_area(NOISE, size), area_mean(NOISE, size), mean=0.6, worst=1)


def test_fine_stripes_become_grey_and_no_other_stripes():
    stripes = np.zeros((200, 300, 3), np.uint8)
    stripes[:, ::2] = 255
    # By area, two and three of them take turns: grey of two levels, a third and a half of white.
    for interpolation, levels in {"area": 86, "bilinear": 20, "bicubic": 3, "lanczos": 3}.items():
        for side in (64, 128):
            settings = pixel_settings((side, side), interpolation=interpolation)
            pixels = decode(encode(Image.fromarray(stripes), "PNG"), settings)
            assert np.ptp(pixels[:, 4:-4].astype(int)) <= levels


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("resize", ["stretch", "pad", "crop"])
def test_the_same_pixels_give_the_same_result_whatever_the_format(interpolation, resize):
    jpeg = encode(photo(160, 100), "JPEG")
    pixels = decode(jpeg, pixel_settings((100, 160)))
    png = encode(Image.fromarray(pixels), "PNG")
    for size in ((90, 120), (120, 200)):  # such that the JPEG is decoded at full scale
        settings = pixel_settings(size, resize=resize, interpolation=interpolation)
        assert_close(decode(jpeg, settings), decode(png, settings))


def test_crop_takes_the_centre_and_keeps_the_aspect():
    centre = ImageOps.fit(photo(), (96, 96), Image.Resampling.BILINEAR)
    settings = pixel_settings((96, 96), resize="crop", interpolation="bilinear")
    assert_close(decode(PHOTO, settings), np.asarray(centre), mean=1.2, worst=12)


def test_pad_keeps_all_of_the_image_and_fills_the_bars():
    settings = pixel_settings((96, 96), "rgb", "pad", "bilinear", background=(255, 0, 9))
    pixels = decode(PHOTO, settings)
    assert (pixels[:16] == (255, 0, 9)).all()
    assert (pixels[80:] == (255, 0, 9)).all()
    whole = photo().resize((96, 64), Image.Resampling.BILINEAR)
    assert_close(pixels[16:80], np.asarray(whole), mean=1.2, worst=12)


# Turned photos


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_image_is_turned_upright_as_its_exif_says(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(photo(160, 100), format, exif=exif, **options)
    for size in ((100, 160), (20, 30)):
        settings = pixel_settings(size, interpolation="bilinear")
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        upright = upright.resize(size[::-1], Image.Resampling.BILINEAR)
        assert_close(decode(data, settings), np.asarray(upright), mean=2, worst=16)


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0nonsense that is no TIFF header",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 20,
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0\0\0\0\0",
    ],
    ids=["empty", "text", "endless directory", "orientation 99"],
)
def test_a_photo_with_corrupt_exif_is_taken_as_it_lies(exif):
    data = encode(photo(160, 100), "JPEG", exif=exif)
    assert exif in data
    settings = pixel_settings((100, 160))
    assert_close(
        decode(data, settings), reference(encode(photo(160, 100), "JPEG"), settings), 0.1, 3
    )


# Modes and formats


@pytest.mark.parametrize(
    ("format", "mode"),
    [(f, m) for f in ("PNG", "BMP", "TIFF", "GIF", "WEBP") for m in ("1", "L", "P", "RGB")]
    + [("PPM", "1"), ("PPM", "L"), ("PPM", "RGB"), ("JPEG2000", "L"), ("JPEG2000", "RGB")],
)
def test_lossless_files_of_any_format_and_mode_are_exact(format, mode):
    image = photo(64, 40).convert(mode)
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(image, format, **options)
    settings = pixel_settings((40, 64))
    assert_close(decode(data, settings), reference(data, settings))
    reduced = pixel_settings((20, 30))
    assert_close(decode(data, reduced), reference(data, reduced), mean=1, worst=5)


@pytest.mark.parametrize("color", ["rgb", "grayscale"])
def test_transparent_pixels_show_the_background(color):
    image = photo(64, 40).convert("RGBA")
    alpha = np.linspace(0, 255, 64).astype(np.uint8)[None].repeat(40, 0)
    image.putalpha(Image.fromarray(alpha))
    background = (10, 200, 60)
    share = alpha[..., None] / 255
    expected = np.asarray(photo(64, 40)) * share + np.array(background) * (1 - share)
    if color == "grayscale":
        expected = (expected @ [0.299, 0.587, 0.114])[..., None]
    pixels = decode(encode(image, "PNG"), pixel_settings((40, 64), color, background=background))
    assert_close(pixels, expected, mean=1, worst=2)


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_a_palette_may_have_a_transparent_colour(format):
    image = Image.new("P", (4, 2))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 0, 1, 1] * 2)
    pixels = decode(
        encode(image, format, transparency=1), pixel_settings((2, 4), background=(1, 2, 3))
    )
    assert pixels[0].tolist() == [[255, 0, 0]] * 2 + [[1, 2, 3]] * 2


def test_a_palette_may_have_an_alpha_for_every_colour():
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.putdata([0, 1])
    data = encode(image, "PNG", transparency=bytes([255, 128]))
    pixels = decode(data, pixel_settings((1, 2), background=(0, 100, 0)))
    assert pixels[0, 0].tolist() == [200, 0, 0]
    assert_close(pixels[0, 1], np.array([0, 50, 100]), mean=1, worst=1)


@pytest.mark.parametrize(("format", "order"), [("PNG", "<u2"), ("TIFF", "<u2"), ("TIFF", ">u2")])
@pytest.mark.parametrize("color", ["rgb", "grayscale"])
def test_16_bit_grey_keeps_its_range(format, order, color):
    values = np.linspace(0, 65535, 64 * 40).reshape(40, 64).astype(order)
    mode = "I;16B" if order == ">u2" else "I;16"
    data = encode(Image.frombytes(mode, (64, 40), values.tobytes()), format)
    settings = pixel_settings((40, 64), color)
    expected = np.round(values / 257)[..., None].repeat(settings.shape[2], 2)
    assert_close(decode(data, settings), expected)


def grey16(values: np.ndarray, mode: str, format: str, transparent: int | None = None) -> bytes:
    order = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
    image = Image.frombytes(mode, values.shape[::-1], values.astype(order).tobytes())
    data = encode(image, format)
    if transparent is not None:
        content = b"tRNS" + struct.pack(">H", transparent)
        chunk = struct.pack(">I", 2) + content + struct.pack(">I", zlib.crc32(content))
        at = data.index(b"IDAT") - 4
        data = data[:at] + chunk + data[at:]
    return data


NARROW = np.linspace(7301, 8206, 64 * 40).round().astype(int).reshape(40, 64)
WIDE = [("PNG", "I;16"), ("TIFF", "I;16"), ("TIFF", "I;16B"), ("TIFF", "I")]


@pytest.mark.parametrize(("format", "mode"), WIDE)
@pytest.mark.parametrize("color", ["rgb", "grayscale"])
def test_16_bit_grey_of_a_narrow_range_can_be_spread_from_black_to_white(format, mode, color):
    data = grey16(NARROW, mode, format)
    pixels, facts = decode_with_facts(data, pixel_settings((40, 64), color, sixteen_bit="image"))
    expected = np.round((NARROW - 7301) * 255 / 905)
    assert_close(pixels, expected[..., None].repeat(pixels.shape[2], 2), mean=0.01, worst=1)
    assert facts.levels == 905
    flat = decode(data, pixel_settings((40, 64), color))
    assert (flat.min(), flat.max()) == (28, 32)


@pytest.mark.parametrize("scale", ["full", "image"])
def test_16_bit_grey_of_one_level_stays_what_it_is(scale):
    data = grey16(np.full((4, 4), 25_700), "I;16", "PNG")
    pixels, facts = decode_with_facts(data, pixel_settings((4, 4), sixteen_bit=scale))
    assert (pixels == 100).all()
    assert facts.levels == 0


@pytest.mark.parametrize("values", [(-1000, 1000), (70_000, 90_000), (-(2**31), 2**31 - 1)])
def test_more_than_16_bits_are_spread_or_refused(values):
    data = grey16(np.array([values] * 2), "I", "TIFF")
    assert decode(data, pixel_settings((2, 2), "grayscale", sixteen_bit="image"))[
        0, :, 0
    ].tolist() == [
        0,
        255,
    ]
    with pytest.raises(UnreadableImage, match=r"^unsupported: 32 bits.*preprocess\.sixteen_bit"):
        decode(data, pixel_settings((2, 2)))


@pytest.mark.parametrize("color", ["rgb", "grayscale"])
@pytest.mark.parametrize("transparent", [0, 40_000, 40_001])
def test_16_bit_grey_may_have_a_transparent_level(color, transparent):
    values = np.array([[0, 40_000, 40_001, 65_535]])
    settings = pixel_settings((1, 4), color, background=(9, 9, 9))
    pixels = decode(grey16(values, "I;16", "PNG", transparent), settings)
    expected = [9 if value == transparent else round(value / 257) for value in values[0]]
    assert pixels[0, :, 0].tolist() == expected


def test_what_is_transparent_does_not_narrow_the_range_of_the_rest():
    values = np.array([[0, 7301, 8206]])
    data = grey16(values, "I;16", "PNG", 0)
    settings = pixel_settings((1, 3), "grayscale", background=(9, 9, 9), sixteen_bit="image")
    pixels, facts = decode_with_facts(data, settings)
    assert pixels[0, :, 0].tolist() == [9, 0, 255]
    assert facts.levels == 905
    assert decode(grey16(values[:, :1], "I;16", "PNG", 0), settings).max() == 9


def test_an_image_larger_than_what_is_converted_at_a_time_comes_out_whole(monkeypatch):
    monkeypatch.setattr(decoding, "PART_PIXELS", 50)
    for mode in ("RGBA", "P", "1", "CMYK"):
        image = Image.effect_noise((64, 40), 90).convert("RGB").convert(mode)
        image.putalpha(77) if mode == "RGBA" else None
        data = encode(image, "TIFF")
        cut = decode(data, pixel_settings((40, 64)))
        monkeypatch.setattr(decoding, "PART_PIXELS", 2**20)
        assert np.array_equal(cut, decode(data, pixel_settings((40, 64))))
        monkeypatch.setattr(decoding, "PART_PIXELS", 50)


def test_cmyk_with_an_adobe_marker_has_the_right_colours():
    data = encode(photo(64, 40).convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in data
    pixels = decode(data, pixel_settings((40, 64)))
    assert_close(pixels, reference(data, pixel_settings((40, 64))))
    assert_close(pixels, np.asarray(photo(64, 40)), mean=4, worst=60)


@pytest.mark.parametrize("format", ["GIF", "WEBP"])
def test_the_first_frame_of_an_animation_is_the_image(format):
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "blue", "lime")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert (decode(data, pixel_settings((6, 8))) == (255, 0, 0)).all()


# Extreme sizes


@pytest.mark.parametrize("resize", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (30_000, 40)])
def test_an_image_of_extreme_shape_keeps_its_colour(size, format, resize):
    data = encode(Image.new("RGB", size, (200, 100, 50)), format)
    pixels = decode(data, pixel_settings((32, 48), resize=resize, background=(200, 100, 50)))
    assert_close(pixels, np.broadcast_to([200, 100, 50], (32, 48, 3)), mean=2, worst=2)


def test_a_very_wide_photo_matches_pillow():
    data = encode(photo(30_000, 60), "JPEG")
    settings = pixel_settings((28, 28), interpolation="bilinear")
    assert_close(decode(data, settings), reference(data, settings), mean=1.2, worst=12)


# Files that are no images


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10**6)))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def jpeg_claiming(width: int, height: int) -> bytes:
    start = PHOTO.index(b"\xff\xc0") + 5
    return PHOTO[:start] + struct.pack(">HH", height, width) + PHOTO[start + 4 :]


PROGRESSIVE = encode(photo(), "JPEG", progressive=True)
PNG = encode(photo(), "PNG")
BAD = {
    "zero bytes": (b"", "empty file"),
    "text named .jpg": (b"This is not a picture.\n" * 40, "not an image"),
    "truncated JPEG": (PHOTO[: len(PHOTO) // 2], "truncated"),
    "JPEG without its last bytes": (PHOTO[:-300], "truncated"),
    "JPEG cut in its header": (PHOTO[:100], "truncated|corrupt|not an image"),
    "progressive JPEG cut half way": (PROGRESSIVE[: len(PROGRESSIVE) // 2], "truncated"),
    "truncated PNG": (PNG[: len(PNG) // 2], "truncated"),
    "damaged PNG": (PNG[:5000] + bytes(99) + PNG[5099:], "corrupt|truncated"),
    "damaged JPEG": (PHOTO[:50_000] + bytes(999) + PHOTO[50_999:], "corrupt"),
    "truncated GIF": (encode(photo(), "GIF")[:9000], "truncated"),
    "truncated WebP": (encode(photo(), "WEBP")[:9000], "corrupt|truncated|not an image"),
    "truncated TIFF": (encode(photo(), "TIFF")[:9000], "corrupt|truncated|not an image"),
    "decompression bomb, PNG": (png_claiming(60_000, 60_000), "decompression bomb: 60000 x"),
    "decompression bomb, JPEG": (jpeg_claiming(65_000, 65_000), "decompression bomb: 65000 x"),
    "no pixels": (png_claiming(0, 10), "corrupt|not an image"),
    "32-bit grey": (
        encode(Image.fromarray(np.full((4, 4), 70_000, np.int32)), "TIFF"),
        "unsupported: 32 bits",
    ),
    "floating point": (
        encode(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF"),
        "unsupported: floating-point",
    ),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "not an image"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_with_the_reason(name):
    data, reason = BAD[name]
    with pytest.raises(UnreadableImage, match=f"^({reason})"):
        decode(data, pixel_settings((64, 64)))


def test_junk_after_or_between_the_parts_of_a_jpeg_does_no_harm():
    settings = pixel_settings((64, 64), interpolation="bilinear")
    expected = decode(PHOTO, settings)
    assert_close(decode(PHOTO + b"trailing junk" * 9, settings), expected)
    at = PHOTO.index(b"\xff\xdb")
    assert_close(decode(PHOTO[:at] + b"\0" * 9 + PHOTO[at:], settings), expected, 1.2, 12)


@pytest.mark.parametrize(
    ("data", "facts"),
    [
        (PHOTO, (640, 427, "RGB", "JPEG")),
        (encode(photo(9, 5).convert("L"), "JPEG"), (9, 5, "L", "JPEG")),
        (encode(photo(9, 5).convert("CMYK"), "JPEG"), (9, 5, "CMYK", "JPEG")),
        (encode(photo(9, 5).convert("P"), "PNG"), (9, 5, "P", "PNG")),
        (encode(photo(9, 5), "WEBP"), (9, 5, "RGB", "WEBP")),
    ],
)
def test_facts_of_the_file_come_along(data, facts):
    assert decode_with_facts(data, pixel_settings((4, 4)))[1] == (*facts, 0)


def test_the_format_of_a_file_is_known_before_any_other_was_opened():
    code = "from stages.images.formats import claimed; print(claimed(bytes.fromhex('ffd8ffe0')))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout == "JPEG\n"
