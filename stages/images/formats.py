"""What files decoding takes, what they may claim and how much memory they may use."""

import ctypes
import fcntl
import struct
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache

from PIL import Image, ImageFile, TiffImagePlugin


class UnreadableImage(Exception):
    """Why a file cannot be used, in the form `kind: details` or just `kind`."""


# What decoding one file may take, whatever the file says: bounded memory, bounded time.


# A file may claim any size; more pixels than this are taken for a decompression bomb, ...
MAX_PIXELS = 180_000_000
MAX_SIDE = 2**17

# ... and fewer where the pixels of a format take more memory than this.
MOST_BYTES = 600 * 2**20

# Images that take more are decoded one at a time, those that take less by all workers at once.
SMALL_BYTES = 128 * 2**20

# What an image takes for each pixel while it is decoded, at most, with what comes out of it and
# the copy that resizing may need. Measured, as peak of a process, on 24 megapixels of each mode.
BYTES_A_PIXEL = {
    "AVIF": 12,
    "BMP": 8,
    "DDS": 8,
    "DIB": 8,
    "GIF": 8,
    "HEIF": 12.5,
    "JPEG": 8,
    "JPEG2000": 25,
    "PNG": 8,
    "PPM": 8,
    "PSD": 8,
    "TGA": 8,
    "TIFF": 8.5,
    "WEBP": 16.5,
}

# A JPEG in several scans keeps its coefficients, two bytes each, until the last has come; and
# takes the time of all of them.
JPEG_CHANNEL_BYTES = 2
SCAN = b"\xda"
MAX_SCANNED_PIXELS = 4_000_000_000

# Larger parts of a TIFF are decoded at once only if the image is large.
MAX_TILE_PIXELS = 2**22
TILE_WIDTH, TILE_LENGTH = 322, 323

# What Pillow decodes in Python: a microsecond or two a pixel, and each comment of a PPM costs
# the time of all that follows.
SLOW_DECODERS = {"bmp_rle", "dds_rgb", "ppm_plain"}
MAX_SLOW_PIXELS = 2**21
MAX_SLOW_BYTES = 2**24
MAX_COMMENTS = 100


def bounded(needed: float, width: int, height: int) -> AbstractContextManager[None]:
    """Allow a block that decodes `width` x `height` pixels to take `needed` bytes, about.

    Waits until no other thread or process of this machine decodes a large image. Raises
    `UnreadableImage` if it is too much.
    """
    if needed > MOST_BYTES:
        raise UnreadableImage(
            f"too large: {width} x {height} pixels of this format take more than "
            f"{MOST_BYTES // 2**20} MiB; save it smaller, or as JPEG"
        )
    return nullcontext() if needed <= SMALL_BYTES else _alone()


@contextmanager
def _alone() -> Iterator[None]:
    # This file serves as the lock that all workers can reach; closing it lets go.
    with open(__file__, "rb") as lock:
        with suppress(OSError):  # a file system that has none
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def jpeg_scans(data: bytes) -> tuple[int, int]:
    """How many scans the JPEG `data` has, 1 if it is decoded as it comes; where the first begins.

    Before that comes what describes the pixels, and metadata.
    """
    at, components, progressive = 2, 0, False
    while data[at : at + 1] == b"\xff":
        marker = data[at + 1 : at + 2]
        if marker == b"\xff":  # padding
            at += 1
            continue
        if marker in (b"\xc0", b"\xc1", b"\xc2"):
            progressive, components = marker == b"\xc2", data[at + 9]
        elif marker == SCAN:
            if not progressive and data[at + 4] == components:
                return 1, at
            return data.count(b"\xff" + SCAN, at), at
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data.count(b"\xff" + SCAN), len(data)  # not as it should be


def check_size(width: int, height: int) -> None:
    """Raise `UnreadableImage` if an image of `width` x `height` is none, or a bomb."""
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise UnreadableImage(f"decompression bomb: {width} x {height} pixels")
    if not width or not height:
        raise UnreadableImage("corrupt: no pixels")


def jpeg_memory(scans: int, width: int, height: int, channels: int, factor: int) -> float:
    """Bytes that decoding a JPEG of so many `scans` at 1 / `factor` of its size takes, about.

    Raises `UnreadableImage` if it would take far too long.
    """
    pixels = width * height
    if scans * pixels > MAX_SCANNED_PIXELS:
        raise UnreadableImage(f"decompression bomb: {width} x {height} pixels in {scans} scans")
    kept = JPEG_CHANNEL_BYTES * channels * pixels if scans > 1 else 0
    return BYTES_A_PIXEL["JPEG"] * pixels / factor**2 + kept


def memory(image: ImageFile.ImageFile, data: bytes) -> float:
    """Bytes that loading the opened `image` of the file `data` takes, about.

    Raises `UnreadableImage` if it would take far too long, or if its parts are larger than it.
    """
    width, height = image.size
    check_size(width, height)
    if image.format in ("JPEG", "MPO"):  # MPO: a JPEG with others behind it
        return jpeg_memory(jpeg_scans(data)[0], width, height, len(image.getbands()), 1)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        across, down = tags.get(TILE_WIDTH, 1), tags.get(TILE_LENGTH, 1)
        if across * down > max(MAX_TILE_PIXELS, 2 * width * height):
            raise UnreadableImage(f"decompression bomb: parts of {across} x {down} pixels")
    decoders = {tile[0] for tile in image.tile} & SLOW_DECODERS
    if decoders and (
        width * height > MAX_SLOW_PIXELS
        or len(data) > MAX_SLOW_BYTES
        or ("ppm_plain" in decoders and data.count(b"#") > MAX_COMMENTS)
    ):
        raise UnreadableImage(
            f"too large: {width} x {height} pixels, in a variant of {image.format} that takes very "
            "long; save it as PNG"
        )
    return BYTES_A_PIXEL[str(image.format)] * width * height


# What Pillow has to know before it opens a file: which formats, and who else must be asked.


# Those that are told by how the file begins.
FORMATS = (
    *("AVIF", "BMP", "DDS", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "PSD", "TIFF"),
    "WEBP",
)

# Major brands of the ISO media files that hold HEIF; mif1 and msf1 may also be AVIF.
HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}

# Length of the name, palette?, kind, first colour, colours, their bits, left, top, width, height,
# bits, flags.
TGA = "<BBBHHBHHHHBB"

# What Pillow calls a file in memory.
PILLOWS_NAME = "tempfile.tif"

TIFF = {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}


def formats(data: bytes) -> tuple[str, ...]:
    """Pillow's names of the formats that the file `data` may have."""
    if data[4:8] == b"ftyp" and data[8:12] in HEIF:
        _register_heif()
        return (*FORMATS, "HEIF")
    return (*FORMATS, "TGA") if _is_tga(data) else FORMATS


def claimed(data: bytes) -> str | None:
    """The format as which the file `data` begins, if any."""
    Image.init()  # else the formats are not known before an image was opened
    for name in formats(data):
        accept = Image.OPEN[name][1]
        if accept and accept(data[:16].ljust(16, b"\0")) is True:
            return name
    return None


def _is_tga(data: bytes) -> bool:
    """TGA begins with no mark, and Pillow takes much else for it: icons, or noise.

    So it must end with that of version 2, or have just the length that its header says.
    """
    if data[-18:] == b"TRUEVISION-XFILE.\0":
        return True
    header = data[:18]
    if len(header) < 18 or header[1] > 1 or header[2] not in (1, 2, 3) or header[17] & 0xC0:
        return False
    if (header[2] == 1) != (header[1] == 1):  # a palette, and only then
        return False
    _, _, _, _, colours, colour_bits, _, _, width, height, bits, _ = struct.unpack(TGA, header)
    palette = header[1] * colours * ((colour_bits + 7) // 8)
    return len(data) == len(header) + header[0] + palette + width * height * ((bits + 7) // 8)


@cache
def _register_heif() -> None:
    import pillow_heif  # late: few need it

    # One thread, as several images are decoded at a time already.
    pillow_heif.register_heif_opener(decode_threads=1, thumbnails=False)


def is_tiff(data: bytes) -> bool:
    return data[:4] in TIFF


@contextmanager
def heard_libtiff() -> Iterator[list[str]]:
    """What libtiff finds wrong within the block, which else it prints on standard error."""
    _listen_to_libtiff()
    _of_thread.said = []
    yield _of_thread.said


_of_thread = threading.local()


@cache
def _listen_to_libtiff() -> None:
    # Pillow has no way to it. The address of a va_list, or the list itself, comes as a pointer.
    handler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
    write = ctypes.CDLL(None).vsnprintf
    write.argtypes = ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p

    @handler
    def listen(module: bytes | None, message: bytes, arguments: int) -> None:
        text = ctypes.create_string_buffer(500)
        write(text, len(text), message, arguments)
        parts = [part.decode(errors="replace") for part in (module, text.value) if part]
        if hasattr(_of_thread, "said"):
            _of_thread.said.append(": ".join(parts).removeprefix(f"{PILLOWS_NAME}: "))

    try:
        libtiff = ctypes.CDLL(Image.core.__file__)  # finds what this is linked to
        libtiff.TIFFSetErrorHandler(listen)
        libtiff.TIFFSetWarningHandler(None)
    except (AttributeError, OSError):  # linked in another way: it will be heard on the terminal
        return
    _kept.append(listen)


# What libtiff may call as long as the process lives.
_kept: list[object] = []
