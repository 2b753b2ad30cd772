"""Whatever a file says of itself, decoding it takes bounded memory and time, or is refused."""

import io
import os
import struct
import subprocess
import sys
import threading
import time
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from factory import pixel_settings
from PIL import Image

from stages.images import formats
from stages.images.decode import decode, decode_with_facts
from stages.images.formats import UnreadableImage

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"
SMALL = pixel_settings((8, 8))


def encode(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def gif(width: int, height: int) -> bytes:
    """A canvas of any size, of which one pixel is drawn, in 43 bytes or less."""
    frame = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00;"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + frame


def png(width: int, height: int, depth: int, kind: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def tiff_of_tiles(side: int) -> bytes:
    tags = [(256, 9), (257, 9), (258, 8), (259, 5), (262, 1), (277, 1)]
    tags += [(322, side), (323, side), (324, 8), (325, 20)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(64)


def many_scans(count: int) -> bytes:
    data = encode(Image.new("L", (3000, 2000)), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * count + data[-2:]


def plain_ppm(width: int, height: int) -> bytes:
    return b"P3 %d %d 255\n" % (width, height) + b"1 " * 100


def dds(width: int, height: int) -> bytes:
    data = bytearray(encode(Image.new("RGB", (4, 4)), "DDS"))
    data[12:20] = struct.pack("<II", height, width)
    return bytes(data)


def webp(width: int, height: int) -> bytes:
    bits = struct.pack("<I", (width - 1) | (height - 1) << 14)
    body = b"VP8L" + struct.pack("<I", 6) + b"\x2f" + bits + b"\0"
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


HOSTILE = {
    "a GIF of 180 million pixels": (gif(65_535, 2_746), "too large: 65535 x 2746"),
    "a GIF of 4 billion": (gif(65_535, 65_535), "decompression bomb: 65535 x 65535"),
    "a PNG of 16 bits": (png(13_000, 13_000, 16, 6), "too large: 13000 x 13000"),
    "a PNG with a side of 70 million": (png(1, 70_000_000, 8, 0), "decompression bomb: 1 x 7"),
    "a WebP": (webp(16_000, 11_000), "too large: 16000 x 11000|corrupt"),
    "a TIFF of giant tiles": (tiff_of_tiles(60_000), "decompression bomb: parts of 60000"),
    "a JPEG of many scans": (many_scans(700), "decompression bomb: 3000 x 2000 pixels in 7"),
    "a plain PPM": (plain_ppm(9_000, 9_000), "too large|corrupt"),
    "a plain PPM of comments": (
        b"P2 9 9 255\n" + b"#\n" * 10**6 + b"1 " * 81,
        "too large: 9 x 9|corrupt|not an image",
    ),
    "an uncompressed DDS": (dds(9_000, 9_000), "too large: 9000 x 9000"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_file_that_would_take_too_much_is_refused_at_once(what):
    data, reason = HOSTILE[what]
    started = time.process_time()
    with pytest.raises(UnreadableImage, match=f"^({reason})"):
        decode(data, SMALL)
    assert time.process_time() - started < 3


def test_the_largest_image_that_is_accepted_takes_less_than_a_gibibyte():
    """The peak of a fresh process, which decodes the same in two threads at a time."""
    side = int((formats.MOST_BYTES / formats.BYTES_A_PIXEL["GIF"]) ** 0.5)
    code = (
        "import sys, threading\n"
        "from stages.images.decode import decode\n"
        "from stages.parameters.pixels import PixelSettings\n"
        "data = bytes.fromhex(sys.argv[1])\n"
        "settings = PixelSettings(size=[8, 8], color='rgb', interpolation='bilinear')\n"
        "work = lambda: decode(data, settings)\n"
        "threads = [threading.Thread(target=work) for _ in range(2)]\n"
        "[thread.start() for thread in threads], [thread.join() for thread in threads]\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if 'VmHWM' in line))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, gif(side, side).hex()],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    assert int(done.stdout) < 2**20 * 0.85


def test_large_images_wait_for_each_other_and_small_ones_do_not():
    large, at_once, order = formats.SMALL_BYTES + 1, threading.Event(), []

    def second():
        with formats.bounded(formats.SMALL_BYTES, 1, 1):
            order.append("small")
            at_once.set()
        with formats.bounded(large, 1, 1):
            order.append("large")

    with formats.bounded(large, 1, 1):
        thread = threading.Thread(target=second)
        thread.start()
        assert at_once.wait(10)
        time.sleep(0.05)
        order.append("first")
    thread.join(10)
    assert order == ["small", "first", "large"]


@pytest.mark.parametrize(("progressive", "scans"), [(False, 1), (True, 10)])
def test_scans_of_a_jpeg_are_counted(progressive, scans):
    photo = Image.effect_noise((64, 64), 50).convert("RGB")
    exif = Image.Exif()
    exif[0x010E] = "\xff\xda"
    data = encode(photo, "JPEG", progressive=progressive, exif=exif)
    assert formats.jpeg_scans(data)[0] == scans


# What the libraries say themselves


def compressed_as(number: int) -> bytes:
    data = bytearray(encode(Image.effect_noise((64, 64), 50), "TIFF", compression="tiff_lzw"))
    at = data.index(struct.pack("<HHIH", 259, 3, 1, 5))
    data[at + 8 : at + 10] = struct.pack("<H", number)
    return bytes(data)


def damaged_deflate() -> bytes:
    image = Image.linear_gradient("L")
    data = bytearray(encode(image, "TIFF", compression="tiff_adobe_deflate"))
    [start, *_] = Image.open(io.BytesIO(data)).tag_v2[273]  # of the first strip
    data[start : start + 2] = b"\xff\xff"  # no header that zlib knows
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (compressed_as(50001), "^corrupt: WEBP compression support is not configured"),
        (damaged_deflate(), "^corrupt: ZIPDecode: Decoding error"),
    ],
    ids=["WebP in TIFF", "damaged deflate"],
)
def test_what_libtiff_says_is_the_reason_and_not_on_the_terminal(capfd, data, reason):
    with pytest.raises(UnreadableImage, match=reason):
        decode(data, SMALL)
    assert capfd.readouterr().err == ""


def test_threads_do_not_mix_what_libtiff_says(capfd):
    good, bad = (
        encode(Image.new("RGB", (64, 64)), "TIFF", compression="tiff_lzw"),
        damaged_deflate(),
    )
    reasons = []

    def work(data):
        for _ in range(30):
            try:
                decode(data, SMALL)
            except UnreadableImage as error:
                reasons.append(str(error))

    threads = [threading.Thread(target=work, args=(data,)) for data in (good, bad, good, bad)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reasons) == 60
    assert len(set(reasons)) == 1
    assert capfd.readouterr().err == ""


def test_what_pillow_logs_of_a_file_is_not_on_the_terminal(caplog):
    data = bytearray(encode(Image.new("RGB", (9, 9)), "TIFF"))
    at = data.index(struct.pack("<HHIH", 277, 3, 1, 3))  # samples per pixel
    data[at + 8 : at + 10] = struct.pack("<H", 8192)
    with pytest.raises(UnreadableImage, match="corrupt"):
        decode(bytes(data), SMALL)
    assert caplog.text == ""


# Formats that others are mistaken for


def test_what_is_no_tga_is_not_taken_for_one():
    icon = encode(Image.new("RGBA", (16, 16)), "ICO", sizes=[(16, 16)], bitmap_format="bmp")
    random = np.random.default_rng(0)
    noise = bytes([0, 0, 2]) + bytes(9) + struct.pack("<HHBB", 9, 9, 24, 0) + random.bytes(999)
    for data in (icon, noise, bytes(1000)):
        with pytest.raises(UnreadableImage, match="not an image"):
            decode(data, SMALL)


def test_a_file_that_only_begins_as_an_image_is_called_so():
    data = (GOLDEN / "colour.heic").read_bytes()
    with pytest.raises(UnreadableImage, match="corrupt: begins as HEIF"):
        decode(data[:300], SMALL)


@pytest.mark.parametrize("compression", [None, "tga_rle"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_tga_of_both_versions_is_read(mode, compression):
    image = Image.effect_noise((13, 9), 90).convert("RGB").convert(mode)
    data = encode(image, "TGA", compression=compression)
    expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(decode(data, pixel_settings((9, 13))), expected)
    old = data[: data.rindex(b"TRUEVISION") - 8]
    if compression is None:
        assert np.array_equal(decode(old, pixel_settings((9, 13))), expected)


def test_a_jpeg_with_others_behind_it_is_read():
    frames = [Image.new("CMYK", (20, 10), (0, 255, 255, 0)), Image.new("CMYK", (20, 10))]
    data = encode(frames[0], "MPO", save_all=True, append_images=frames[1:])
    pixels, facts = decode_with_facts(data, SMALL)
    assert facts.mode == "CMYK"
    assert pixels[..., 0].min() > 200
    assert pixels[..., 1:].max() < 60


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.*")), ids=lambda path: path.name)
def test_a_damaged_file_is_decoded_or_refused_and_nothing_else(path, capfd):
    data, random = path.read_bytes(), np.random.default_rng(0)
    if path.suffix == ".json":
        data = data[:500]
    for number in range(150):
        damaged = bytearray(data)
        if number % 3 == 0:
            del damaged[int(random.integers(len(data))) :]
        else:
            for at in random.integers(0, len(data) if number % 3 == 1 else 64, 4).tolist():
                damaged[min(at, len(data) - 1)] = int(random.integers(256))
        with suppress(UnreadableImage):
            assert decode(bytes(damaged), SMALL).shape == (8, 8, 3)
    assert capfd.readouterr().err == ""


def test_importing_the_decoder_does_not_import_what_few_files_need():
    code = "import sys, stages.images.decode\nprint('pillow_heif' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "False"
