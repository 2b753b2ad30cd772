"""What Pillow has to know before it opens a file: which formats, and who else must be asked."""

import ctypes
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from PIL import Image

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
    _of_thread.said = said = []
    yield said


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
