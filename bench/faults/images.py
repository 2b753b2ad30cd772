"""Mutated images: each becomes pixels or an `UnreadableImage` with a reason, and nothing else."""

import functools
import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np

from bench.faults.cases import (
    ACCEPTED,
    REJECTED,
    Outcome,
    Place,
    case_random,
    first,
)
from bench.faults.watched import judge, run_stage
from bench.measure import write_parameters
from stages.errors import standard_error_closed

SIZES = ([1, 1], [8, 8], [28, 28], [64, 48], [224, 224])
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F")

# Formats that Pillow writes in several ways.
VARIANTS: dict[str, list[tuple[str, dict]]] = {
    "JPEG": [
        ("RGB", {"progressive": True, "quality": 60}),
        ("RGB", {"subsampling": 0, "quality": 95}),
        ("L", {"progressive": True}),
        ("RGB", {"restart_marker_rows": 1}),
        ("CMYK", {"quality": 90}),
    ],
    "PNG": [("P", {"transparency": 3}), ("RGB", {"transparency": (1, 2, 3)}), ("P", {"bits": 2})],
    "GIF": [("P", {"interlace": 0}), ("P", {"transparency": 0})],
    "WEBP": [("RGB", {"lossless": True}), ("RGBA", {"lossless": True}), ("RGB", {"quality": 20})],
    "TIFF": [
        *(
            (mode, {"compression": compression})
            for compression in (
                *("tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits", "lzma", "zstd"),
                *("webp", "jpeg", "tiff_raw_16"),
            )
            for mode in ("L", "RGB", "RGBA", "I;16")
        ),
        *(("1", {"compression": fax}) for fax in ("group3", "group4", "tiff_ccitt")),
        ("RGB", {"big_tiff": True}),
    ],
    "AVIF": [("RGB", {"quality": 30}), ("RGBA", {})],
    "JPEG2000": [("RGB", {"irreversible": True}), ("RGB", {"tile_size": (16, 16)}), ("L", {})],
    "DDS": [("RGBA", {"pixel_format": name}) for name in ("DXT1", "DXT3", "DXT5", "BC5")],
    "TGA": [("RGB", {"compression": "tga_rle"}), ("P", {"compression": "tga_rle"})],
    "SGI": [("RGB", {"bpc": 2})],
}
# What people have photos in is drawn more often than the rest of what Pillow writes.
COMMON = ("AVIF", "GIF", "HEIC", "JPEG", "PNG", "PPM", "TIFF", "WEBP", "TGA", "PSD", "DDS", "BMP")
ANIMATED = ("GIF", "PNG", "WEBP", "TIFF", "AVIF")


@functools.cache
def seeds() -> dict[str, bytes]:
    """Sound images by name: every format and mode that Pillow writes here, and some more."""
    from PIL import Image

    Image.init()
    # libtiff says what it cannot write, Pillow which formats it will not write for long.
    with standard_error_closed(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _seeds()


def _seeds() -> dict[str, bytes]:
    from PIL import Image

    found: dict[str, bytes] = {}
    slow = {"ICNS": ("RGB",)}  # writes ten pictures
    plain = [(name, mode, {}) for name in sorted(Image.SAVE) for mode in slow.get(name, MODES)]
    special = [(name, *one) for name, variants in VARIANTS.items() for one in variants]
    animated = [
        (name, "RGB", {"save_all": True, "append_images": [picture("RGB", k) for k in (1, 2)]})
        for name in ANIMATED
    ]
    oriented = [("JPEG", "RGB", {"exif": _orientation(value)}) for value in range(1, 10)]
    for name, mode, options in [*plain, *special, *animated, *oriented]:
        buffer = io.BytesIO()
        try:
            picture(mode).save(buffer, name, **options)
        except Exception:  # not a mode, not an option, or not a library that this format has here
            continue
        found[f"{len(found):03} {name} {mode} {' '.join(options)}"] = buffer.getvalue()
    found["HEIC"] = _heic()
    found["PNG interlaced"] = _interlaced_png()
    found["PSD"] = _psd()
    found["PNG 16 bit RGB"] = _png(4, 4, 16, 2, bytes(4 * (1 + 4 * 6)))
    for number, text in enumerate(
        (b"P1 4 4 " + b"1 0 " * 8, b"P2 2 2 255 1 2 3 4", b"P3 1 1 9 1 2 3")
    ):
        found[f"PPM plain {number}"] = text
    found["large JPEG"] = _saved(picture("RGB", size=(900, 700)), "JPEG")
    return found


def picture(mode: str, seed: int = 0, size: tuple[int, int] = (61, 47)):
    """A Pillow image with shapes and grain, of any of `MODES`."""
    from PIL import Image

    width, height = size
    down, across = np.mgrid[0:height, 0:width]
    levels = np.stack([across * 4, down * 5, (across + down) * 2 + 40 * seed], axis=-1) % 256
    grain = np.random.default_rng(seed).integers(0, 30, levels.shape)
    image = Image.fromarray(np.clip(levels + grain, 0, 255).astype(np.uint8))
    if mode == "RGBA":
        image.putalpha(Image.fromarray((across * 4 % 256).astype(np.uint8)))
    elif mode == "I;16":
        image = Image.fromarray((levels[..., 0] * 257).astype(np.uint16))
    elif mode == "LA":
        image = picture("RGBA", seed, size).convert("LA")
    elif mode != "RGB":
        image = image.convert(mode)
    return image


def _saved(image, name: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def _orientation(value: int) -> bytes:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


def _heic() -> bytes:
    import pillow_heif

    buffer = io.BytesIO()
    pillow_heif.from_pillow(picture("RGB", size=(64, 48))).save(buffer, quality=50)
    return buffer.getvalue()


def _png(width: int, height: int, bits: int, color: int, rows: bytes, interlace: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, interlace)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _chunk(name: bytes, content: bytes) -> bytes:
    check = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


def _interlaced_png() -> bytes:
    """8 x 8 grey in Adam7: the passes have 1, 1, 2, 4, 8, 16 and 32 pixels."""
    passes = ((1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 4))
    rows = b"".join((b"\0" + bytes(range(across))) * down for across, down in passes)
    return _png(8, 8, 8, 0, rows, interlace=1)


def _psd() -> bytes:
    planes = np.asarray(picture("RGB")).transpose(2, 0, 1)
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, *planes.shape[1:], 8, 3)
    return header + bytes(12) + b"\0\0" + planes.tobytes()


# Ways to spoil a file: each takes its bytes and random numbers.


def flip_bytes(data: bytearray, random: Random) -> bytearray:
    for _ in range(random.choice((1, 1, 3, 10, 40))):
        data[random.randrange(len(data))] = random.randrange(256)
    return data


def flip_bits(data: bytearray, random: Random) -> bytearray:
    for _ in range(random.choice((1, 2, 5))):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return data


def flip_in_head(data: bytearray, random: Random) -> bytearray:
    for _ in range(random.choice((1, 2, 4))):
        data[random.randrange(min(len(data), 200))] = random.choice((0, 1, 0x7F, 0x80, 0xFF))
    return data


def truncate(data: bytearray, random: Random) -> bytearray:
    return data[: random.randrange(len(data))]


def insert(data: bytearray, random: Random) -> bytearray:
    at = random.randrange(len(data))
    return data[:at] + random.randbytes(random.choice((1, 4, 100, 5000))) + data[at:]


def repeat_block(data: bytearray, random: Random) -> bytearray:
    start = random.randrange(len(data))
    block = data[start : start + random.choice((8, 64, 1024))]
    return data[:start] + block * random.choice((2, 3, 50)) + data[start + len(block) :]


def remove_block(data: bytearray, random: Random) -> bytearray:
    start = random.randrange(len(data))
    return data[:start] + data[start + random.choice((1, 8, 200)) :]


def zero(data: bytearray, random: Random) -> bytearray:
    start = random.randrange(len(data))
    stop = min(len(data), start + random.choice((4, 32, 500, len(data))))
    data[start:stop] = bytes(stop - start)
    return data


def huge_field(data: bytearray, random: Random) -> bytearray:
    value = random.choice((2**32 - 1, 2**31 - 1, 2**31, 0x00FFFFFF, 100_000, 65_535, 20_000))
    form = random.choice(("<I", ">I", "<H", ">H"))
    if form.upper().endswith("H"):
        value &= 0xFFFF
    at = random.randrange(min(len(data), 400))
    data[at : at + struct.calcsize(form)] = struct.pack(form, value)
    return data


def splice(data: bytearray, random: Random) -> bytearray:
    other = random.choice(list(seeds().values()))
    return data[: random.randrange(len(data))] + other[random.randrange(len(other)) :]


def append_other(data: bytearray, random: Random) -> bytearray:
    return data + random.choice(list(seeds().values()))


def lie_of_size(data: bytearray, random: Random) -> bytearray:
    """Another width and height where the format keeps them, its checksum put right."""
    width, height = (random.choice((0, 1, 60, 62, 5000, 13_000, 30_000, 65_535)) for _ in "wh")
    if random.random() < 0.3:
        width = height = random.choice((6000, 10_000, 13_400))  # as much as a photo may have
    if data[:4] == b"\x89PNG":
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif data[:3] == b"GIF":
        data[6:10] = struct.pack("<HH", width, height)
        if (at := data.find(b"\x2c\0\0\0\0")) > 0 and random.random() < 0.8:
            data[at + 5 : at + 9] = struct.pack("<HH", width, height)
    elif data[:2] == b"\xff\xd8":
        frames = [
            at for at in (data.find(bytes((0xFF, kind, 0))) for kind in (0xC0, 0xC2)) if at > 0
        ]
        for at in frames:
            data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    elif data[:2] == b"BM":
        data[18:26] = struct.pack("<ii", width, random.choice((1, -1)) * height)
    elif data[:4] == b"RIFF" and (at := data.find(b"VP8")) > 0:
        data[at + 14 : at + 18] = struct.pack("<HH", width & 0x3FFF, height & 0x3FFF)
    elif data[:4] in (b"II*\0", b"MM\0*"):
        order = "<" if data[:1] == b"I" else ">"
        for tag, value in ((256, width), (257, height)):
            if (at := data.find(struct.pack(f"{order}H", tag), 8)) > 0:
                data[at + 2 : at + 12] = struct.pack(f"{order}HII", 4, 1, value)
    elif data[:1] == b"P":
        data[:] = data.replace(b"61 47", f"{width} {height}".encode(), 1)
    elif (at := data.find(b"ispe")) > 0:
        data[at + 8 : at + 16] = struct.pack(">II", width, height)
    elif (at := data.find(b"ihdr")) > 0:
        data[at + 4 : at + 12] = struct.pack(">II", height, width)
    else:
        return huge_field(data, random)
    return data


def noise(data: bytearray, random: Random) -> bytearray:
    return bytearray(data[:12]) + random.randbytes(random.choice((0, 30, 3000)))


MUTATIONS: tuple[Callable[[bytearray, Random], bytearray], ...] = (
    *(flip_bytes, flip_bits, flip_in_head, truncate, insert, repeat_block, remove_block),
    *(zero, huge_field, splice, append_other, lie_of_size, lie_of_size, noise),
)


def mutated(random: Random) -> tuple[str, bytes]:
    """What was done to which sound image, and the file that came out; one in fifty is sound."""
    names = list(seeds())
    common = [name for name in names if any(kind in name for kind in COMMON)]
    name = random.choice(common if random.random() < 0.8 else names)
    data, done = bytearray(seeds()[name]), [name]
    for _ in range(0 if random.random() < 0.02 else random.choice((1, 1, 1, 2, 3))):
        mutation = random.choice(MUTATIONS)
        if data:
            data = mutation(data, random)
            done.append(mutation.__name__)
    return ", ".join(done), bytes(data)


def sound(random: Random) -> tuple[str, bytes]:
    """A sound image of any size, which has to be read however it is resized."""
    size = random.randint(1, 600), random.randint(1, 600)
    kind = random.choice(("PPM", "BMP", "PNG", "JPEG", "WEBP", "TIFF"))
    image = picture(random.choice(("L", "RGB")), random.randrange(1000), size)
    return f"a sound {kind} of {size[0]} x {size[1]}", _saved(image, kind)


def case(seed: int, number: int) -> tuple[str, bytes, Random]:
    """Image `number`: what it is, its bytes, and the random numbers for the rest of the case."""
    random = case_random(seed, "images", number)
    make = sound if number % 8 == 0 else mutated
    return *make(random), random


def run_case(seed: int, number: int, decode: Callable | None = None) -> Outcome:
    """Decode image `number` as preprocess does, twice if it can be read.

    One in eight is sound and has to be read. `decode` is that of the stages, unless the harness
    itself is tested.
    """
    from stages.images.decode import UnreadableImage
    from stages.images.decode import decode as decode_image
    from stages.parameters.pixels import PixelSettings

    decode = decode or decode_image
    what, data, random = case(seed, number)
    settings = PixelSettings(
        size=list(random.choice(SIZES)),
        color=random.choice(("rgb", "grayscale")),
        resize=random.choice(("stretch", "pad", "crop")),
        interpolation=random.choice(("nearest", "bilinear", "bicubic", "area", "lanczos")),
    )
    what = f"{what}; {settings}"
    try:
        pixels = decode(data, settings)
    except UnreadableImage as error:
        reason = str(error)
        if number % 8 == 0:
            return Outcome("refused", f"{reason} ({what})")
        if reason.strip() and reason.isprintable():
            return Outcome(REJECTED, f"{reason} ({what})")
        return Outcome("no reason on one line", f"{reason!r} ({what})")
    if (pixels.dtype, pixels.shape) != (np.uint8, settings.shape):
        return Outcome("wrong shape", f"{pixels.dtype} {pixels.shape} ({what})")
    if not np.array_equal(pixels, decode(data, settings)):
        return Outcome("differs", f"decoded again, the pixels are others ({what})")
    return Outcome(ACCEPTED, what)


def run_stages(seed: int, batch: int, count: int, top: Path) -> Outcome:
    """Mutated images through the real download and preprocess, `count` of them in one folder.

    Every file has to end as an image or among the rejects, once.
    """
    from stages.store.tables import read_table

    place = Place(top)
    project = place.project
    inbox, names = project / "data/inbox", []
    for number in range(batch * count, (batch + 1) * count):
        _, data, _ = case(seed, number)
        names.append(f"{'ab'[number % 2]}/{number:05}.{('jpg', 'png', 'tif')[number % 3]}")
        (inbox / names[-1]).parent.mkdir(parents=True, exist_ok=True)
        (inbox / names[-1]).write_bytes(data)
    for label in "ab":  # a class has to have an image that can be read
        names.append(f"{label}/sound.png")
        (inbox / names[-1]).write_bytes(_saved(picture("RGB", ord(label)), "PNG"))
    settings = {"size": [28, 28], "color": "rgb", "max_rejects": 1.0}
    write_parameters(project, download={"source": "folder"}, preprocess=settings)
    for stage in ("download", "preprocess"):
        # Many images may take their time, but never more memory than one.
        outcome = judge(run_stage(stage, project, seconds=10 + count / 5))
        if outcome.verdict != ACCEPTED:
            verdict = outcome.verdict if outcome.is_fault else "refused"
            return Outcome(verdict, f"{stage}: {outcome.detail}")
    processed = project / "data/processed"
    found = read_table(processed / "index.csv", ["path"])["path"].to_pylist()
    rejects = read_table(processed / "rejects.csv", ["file", "reason"]).to_pylist()
    lines = [f"{line['file']} has no reason" for line in rejects if not line["reason"]]
    rejected = [line["file"] for line in rejects]
    lines += [f"{name} is lost" for name in sorted(set(names) - {*found, *rejected})]
    if lines or sorted([*found, *rejected]) != sorted(names):
        return Outcome("lost", first(lines) or "an image comes twice")
    if outside := place.written_outside():
        return Outcome("outside", first(outside))
    return Outcome(ACCEPTED, f"{len(found)} images, {len(rejects)} rejects")
