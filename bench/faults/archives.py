"""Hostile and damaged archives: all images of the sound one, bit for bit, or one line of refusal.

Odd numbers are of `HOSTILE`, made on purpose; even ones damage a sound archive at random. What
cannot be told from a sound archive does not count: a flip within an image of a plain tar, which
has no check over contents, may change that image; it may never lose one.
"""

import bz2
import gzip
import hashlib
import io
import lzma
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

from bench.faults.cases import ACCEPTED, Outcome, Place, case_random, first
from bench.faults.images import _saved, picture
from bench.faults.watched import judge, run_stage
from bench.measure import write_parameters

BLOCK = tarfile.BLOCKSIZE
ZEROS = 6 * 2**30  # what a bomb unpacks to
COMPRESSORS = {
    "tar": bytes,
    "tar.gz": lambda data: gzip.compress(data, mtime=0),
    "tar.bz2": bz2.compress,
    "tar.xz": lzma.compress,
}
REFUSE = "refuse"  # a `must`: accepting it is a fault
ACCEPT = "accept"  # a `must`: there is nothing wrong with it


class Case(NamedTuple):
    """An archive and what may come of it.

    `must` is REFUSE, ACCEPT or empty for either. Accepted, all photos have to be there, and all
    but those in `changed` as they were; further images only if it was made with `more`.
    """

    what: str
    data: bytes
    must: str = ""
    changed: frozenset[str] = frozenset()
    more: bool = False


def photos(random: Random) -> dict[str, bytes]:
    """Content of twelve small photos of two classes, each some blocks of a tar long, by path."""
    found = {}
    for number in range(12):
        image = picture("RGB", random.randrange(10**6), size=(24, 20 + number))
        kind = ("PNG", "JPEG")[number % 2]
        content = _saved(image, kind)
        found[f"{'ab'[number % 2]}/{number:02}.{kind.lower()}"] = content
    return found


def make_zip(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return buffer.getvalue()


def make_tar(files: dict[str, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def headers(tar: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return archive.getmembers()


# Damage at random


def damaged(random: Random) -> Case:
    """A sound archive, spoilt in one way."""
    files = photos(random)
    kind = random.choice(("zip", "zip", "stored zip", *COMPRESSORS))
    if "zip" in kind:
        compression = zipfile.ZIP_STORED if kind == "stored zip" else zipfile.ZIP_DEFLATED
        data = make_zip(files, compression)
        way = random.choice((flip, flip, cut, zero_some, append, prepend, remove))
        return Case(f"{kind}, {way.__name__}", way(data, random, len(data)))
    form = random.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    tar = make_tar(files, form)
    if kind != "tar" and random.random() < 0.4:  # the file itself, whose checksum tells
        data = COMPRESSORS[kind](tar)
        way = random.choice((flip, cut, zero_some, append, prepend, remove))
        return Case(f"{kind}, {way.__name__}", way(data, random, len(data)))
    members = headers(tar)
    ways = (flip, flip, flip_in_header, flip_in_header, zero_header, wrong_size)
    way = random.choice((*ways, cut, zero_some, append, remove_block, repeat_block))
    # Zeros up to the last member's end would make a shorter archive that is sound.
    spoilt = way(tar, random, members[-1].offset_data)
    hit = set()
    for member in members:
        within = slice(member.offset_data, member.offset_data + member.size)
        if spoilt[within] != tar[within]:
            hit.add(member.name)
    if way is wrong_size:  # within its last block: what the header says is what it is
        hit = {m.name for m, n in zip(members, headers(spoilt), strict=False) if m.size != n.size}
    must = REFUSE if way is zero_header else ""
    if way is cut and len(spoilt) < members[-1].offset_data + members[-1].size:
        must = REFUSE  # more than padding was cut
    return Case(f"{kind}, {way.__name__} within", COMPRESSORS[kind](spoilt), must, frozenset(hit))


def flip(data: bytes, random: Random, end: int) -> bytes:
    at = random.randrange(end)
    return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]


def flip_in_header(tar: bytes, random: Random, end: int) -> bytes:
    # The first 500 bytes of a header hold the fields; all of it is in the checksum.
    at = random.choice(headers(tar)).offset_data - BLOCK + random.randrange(BLOCK)
    return tar[:at] + bytes([tar[at] ^ 1 << random.randrange(8)]) + tar[at + 1 :]


def zero_header(tar: bytes, random: Random, end: int) -> bytes:
    at = random.choice(headers(tar)).offset_data - BLOCK
    return tar[:at] + bytes(BLOCK) + tar[at + BLOCK :]


def wrong_size(tar: bytes, random: Random, end: int) -> bytes:
    """Another size in a header, its checksum put right: one that stays within the last block."""
    member = random.choice(headers(tar))
    last = member.size // BLOCK * BLOCK
    size = last + random.choice([n for n in range(1, BLOCK) if last + n != member.size])
    return with_size(tar, member, size)


def with_size(tar: bytes, member: tarfile.TarInfo, size: int) -> bytes:
    at = member.offset_data - BLOCK
    header = bytearray(tar[at : at + BLOCK])
    header[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    return tar[:at] + with_checksum(header) + tar[at + BLOCK :]


def with_checksum(header: bytes) -> bytes:
    header = bytearray(header)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def cut(data: bytes, random: Random, end: int) -> bytes:
    return data[: random.randrange(1, len(data))]


def zero_some(data: bytes, random: Random, end: int) -> bytes:
    start = random.randrange(end)
    stop = min(end, start + random.choice((1, 16, 100, 2000)))
    return data[:start] + bytes(stop - start) + data[stop:]


def append(data: bytes, random: Random, end: int) -> bytes:
    more = (
        random.randbytes(random.choice((1, 100, 5000))),
        bytes(3000),
        b"-- \nsent by mail\n" * 9,
    )
    return data + random.choice(more)


def prepend(data: bytes, random: Random, end: int) -> bytes:
    return random.choice((b"\0", b"PK", b"#!/bin/sh\nexit\n", random.randbytes(700))) + data


def remove(data: bytes, random: Random, end: int) -> bytes:
    start = random.randrange(end)
    return data[:start] + data[start + random.choice((1, 2, 30, 400)) :]


def remove_block(tar: bytes, random: Random, end: int) -> bytes:
    start = random.randrange(end // BLOCK) * BLOCK
    return tar[:start] + tar[start + BLOCK :]


def repeat_block(tar: bytes, random: Random, end: int) -> bytes:
    start = random.randrange(end // BLOCK) * BLOCK
    return tar[:start] + tar[start : start + BLOCK] + tar[start:]


# Made on purpose


def zip_with(name: str, content: bytes = b"no image", **fields) -> Callable[[dict], bytes]:
    """A zip of the photos and a last member `name`, the fields of whose ZipInfo are `fields`."""

    def make(files: dict[str, bytes]) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for each, data in files.items():
                archive.writestr(each, data)
            info = zipfile.ZipInfo("x")
            info.filename = name
            for field, value in fields.items():
                setattr(info, field, value)
            with warnings.catch_warnings(action="ignore"):  # that a name comes twice
                archive.writestr(info, content)
        return buffer.getvalue()

    return make


def tar_with(name: str, content: bytes = b"no image", compress=bytes, **fields) -> Callable:
    """A tar of the photos and a last member `name`, the fields of whose TarInfo are `fields`."""

    def make(files: dict[str, bytes]) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
            for each, data in [*files.items(), (name, content)]:
                info = tarfile.TarInfo(each)
                info.size = len(data)
                if each == name:
                    for field, value in fields.items():
                        setattr(info, field, value)
                archive.addfile(info, io.BytesIO(data) if info.isreg() else None)
        return compress(buffer.getvalue())

    return make


def patched_zip(at: Callable[[bytes], int], new: bytes) -> Callable[[dict], bytes]:
    """A zip of the photos in which `new` stands at `at(zip)`."""

    def make(files: dict[str, bytes]) -> bytes:
        data = make_zip(files)
        place = at(data)
        return data[:place] + new + data[place + len(new) :]

    return make


def central(field: int) -> Callable[[bytes], int]:
    """Where a field of the third member's entry in the central directory lies."""

    def find(data: bytes) -> int:
        place = -1
        for _ in range(3):
            place = data.index(b"PK\1\2", place + 1)
        return place + field

    return find


def end_record(field: int) -> Callable[[bytes], int]:
    return lambda data: data.rindex(b"PK\5\6") + field


def sized_tar(change: Callable[[int], int], compress=bytes) -> Callable[[dict], bytes]:
    """A tar whose sixth header gives another size, so that what follows is out of step."""

    def make(files: dict[str, bytes]) -> bytes:
        tar = make_tar(files)
        member = headers(tar)[5]
        return compress(with_size(tar, member, change(member.size)))

    return make


def deflate_bomb(files: dict[str, bytes]) -> bytes:
    """A member that claims 100 bytes and inflates to `ZEROS`: a block of zeros, many times."""
    step = 64 * 2**20
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = deflate.compress(bytes(step)) + deflate.flush(zlib.Z_FULL_FLUSH)
    stream = block * (ZEROS // step) + b"\x03\0"  # an empty last block
    data = zip_with("a/bomb.png", stream)(files)
    claim = struct.pack("<HHHIII", 8, 0, 0, 0, len(stream), 100)
    for mark, field in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        at = data.rindex(mark) + field
        data = data[:at] + claim + data[at + len(claim) :]
    return data


def honest_bomb(files: dict[str, bytes]) -> bytes:
    """The same, saying how large it is."""
    data = deflate_bomb(files)
    for mark, field in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        at = data.rindex(mark) + field
        data = data[:at] + struct.pack("<I", 2**32 - 2) + data[at + 4 :]
    return data


def gzipped_zeros() -> bytes:
    step = 64 * 2**20
    return gzip.compress(bytes(step), mtime=0) * (ZEROS // step)


def zeros_after_end(files: dict[str, bytes]) -> bytes:
    return gzip.compress(make_tar(files), mtime=0) + gzipped_zeros()


def zeros_as_image(files: dict[str, bytes]) -> bytes:
    tar = make_tar(files).rstrip(b"\0")
    tar += bytes(-len(tar) % BLOCK)
    info = tarfile.TarInfo("b/zeros.png")
    info.size = ZEROS
    return gzip.compress(tar + info.tobuf(tarfile.GNU_FORMAT), mtime=0) + gzipped_zeros()


def sparse(files: dict[str, bytes]) -> bytes:
    """A member of GNU's old sparse format that claims 6 GiB and stores nothing."""
    tar = make_tar(files)
    end = headers(tar)[-1]
    stop = end.offset_data + -(-end.size // BLOCK) * BLOCK
    header = bytearray(tarfile.TarInfo("b/sparse.png").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"S"
    header[483:495] = tarfile.itn(ZEROS, 12, tarfile.GNU_FORMAT)
    return tar[:stop] + with_checksum(header) + bytes(2 * BLOCK)


def long_name_without_end(files: dict[str, bytes]) -> bytes:
    tar = make_tar(files)
    at = headers(tar)[5].offset_data - BLOCK
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**33
    return tar[:at] + info.tobuf(tarfile.GNU_FORMAT) + tar[at:]


def pax(**values: str) -> Callable[[dict], bytes]:
    """A tar whose last member has a header of pax with `values`."""

    def make(files: dict[str, bytes]) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for name, data in [*files.items(), ("b/pax.png", b"no image")]:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                if name == "b/pax.png":
                    info.pax_headers = dict(values)
                archive.addfile(info, io.BytesIO(data))
        return buffer.getvalue()

    return make


def in_two_streams(compress: Callable[[bytes], bytes]) -> Callable[[dict], bytes]:
    """A compressed tar in two streams, one after the other, as parallel programs write."""

    def make(files: dict[str, bytes]) -> bytes:
        tar = make_tar(files)
        return compress(tar[:5000]) + compress(tar[5000:])

    return make


def twice(make: Callable, name: str) -> Callable[[dict], bytes]:
    return lambda files: make({**files, f"{name}?": b"another"}).replace(
        f"{name}?".encode(), f"{name}\0".encode()
    )


DOCX = make_zip({"word/document.xml": b"<w/>", "[Content_Types].xml": b"<t/>"})
PHOTO = _saved(picture("RGB"), "PNG")
GZ = COMPRESSORS["tar.gz"]
CHARACTERS = "b/\x1b[31m\u202ecod\u200b.png"
OUTSIDE = ("../../escaped.png", "/tmp/../escaped.png", "a/../../../../escaped.png")

# What it is, the function that makes it of the photos, and what must come of it.
HOSTILE: list[tuple[str, Callable[[dict], bytes], str]] = [
    *(
        (f"zip, {name}", zip_with(name), REFUSE)
        for name in (*OUTSIDE, "C:\\x.png", "..\\..\\x.png")
    ),
    *(
        (f"tar, {name}", tar_with(name), REFUSE)
        for name in (*OUTSIDE, "C:\\x.png", "..\\..\\x.png")
    ),
    *(
        (
            f"zip, {what}",
            zip_with("b/link.png", b"/etc/passwd", external_attr=mode << 16),
            REFUSE,
        )
        for what, mode in (("link", 0o120777), ("device", 0o020666), ("FIFO", 0o010644))
    ),
    *(
        (f"tar, {what}", tar_with("b/link.png", b"", type=kind, linkname="/etc/passwd"), REFUSE)
        for what, kind in (
            ("link", tarfile.SYMTYPE),
            ("hard link", tarfile.LNKTYPE),
            ("device", tarfile.CHRTYPE),
            ("FIFO", tarfile.FIFOTYPE),
        )
    ),
    ("zip, a name twice", zip_with("a/00.png"), REFUSE),
    ("tar, a name twice", tar_with("a/00.png"), REFUSE),
    ("tar, a name twice, written otherwise", tar_with("./a//00.png"), REFUSE),
    ("zip, 100 bytes that inflate to 6 GiB", deflate_bomb, REFUSE),
    ("zip, 4 GiB in a member", honest_bomb, REFUSE),
    ("tar.gz, 6 GiB of zeros after its end", zeros_after_end, ""),
    ("tar.gz, an image of 6 GiB of zeros", zeros_as_image, REFUSE),
    ("tar, a sparse image of 6 GiB", sparse, REFUSE),
    ("zip in a zip, called an image", zip_with("b/nested.png", DOCX * 20), ACCEPT),
    ("zip, .docx as last member", zip_with("b/report.docx", DOCX), ACCEPT),
    ("tar, .docx as last member", tar_with("b/report.docx", DOCX), ACCEPT),
    ("tar, zip as last image", tar_with("b/zip.png", DOCX), ACCEPT),
    ("tar.gz, .docx as last member", tar_with("b/report.docx", DOCX, GZ), ACCEPT),
    ("zip, encrypted", patched_zip(central(8), b"\1\0"), REFUSE),
    ("zip, wrong checksum", patched_zip(central(16), b"\0\1\2\3"), REFUSE),
    ("zip, smaller than it is", patched_zip(central(24), struct.pack("<I", 10)), REFUSE),
    ("zip, larger than it is", patched_zip(central(24), struct.pack("<I", 2**31)), ""),
    ("zip, stored in fewer bytes", patched_zip(central(20), struct.pack("<I", 10)), REFUSE),
    ("zip, stored in more bytes", patched_zip(central(20), struct.pack("<I", 2**31)), ""),
    ("zip, unknown method", patched_zip(central(10), b"\x63\0"), REFUSE),
    ("zip, member at another place", patched_zip(central(42), struct.pack("<I", 7)), REFUSE),
    ("zip, two members in one place", patched_zip(central(42), bytes(4)), REFUSE),
    ("zip, member beyond the end", patched_zip(central(42), b"\xf0\xff\xff\xff"), REFUSE),
    ("zip, zip64 without its record", patched_zip(central(20), b"\xff" * 8), REFUSE),
    ("zip, fewer members claimed", patched_zip(end_record(8), b"\2\0\2\0"), ""),
    ("zip, more members claimed", patched_zip(end_record(8), b"\xff\xff\xff\xff"), ""),
    ("zip, directory elsewhere", patched_zip(end_record(16), b"\xff\xff\xff\x7f"), REFUSE),
    ("zip, directory of another size", patched_zip(end_record(12), b"\xff\xff\xff\xff"), REFUSE),
    ("zip, comment longer than the file", patched_zip(end_record(20), b"\xff\xff"), ""),
    *(
        (f"{kind}, {what}", make(name), "")
        for kind, make in (("zip", zip_with), ("tar", tar_with))
        for what, name in (
            ("NUL in a name", "b/nul\0.png"),
            ("a name of 300 characters", f"b/{'n' * 300}.png"),
            ("control and bidi characters", CHARACTERS),
            ("a name like a folder's", "b/.png"),
            ("an image below an image", "a/00.png/1.png"),
        )
    ),
    ("zip, an empty name", zip_with(""), ""),
    ("tar, an empty name", tar_with(""), ""),
    ("tar, an empty name, a folder", tar_with("", b"", type=tarfile.DIRTYPE), ""),
    ("tar, a name that is not UTF-8", tar_with("b/\udcff\udcfe.png"), ""),
    # A class needs an image that can be read.
    ("tar, a class that is not UTF-8", tar_with("\udcff\udcfe/1.png", PHOTO), ""),
    ("tar, a class of 300 characters", tar_with(f"{'n' * 300}/1.png", PHOTO), ""),
    ("zip, a class of 300 characters", zip_with(f"{'n' * 300}/1.png", PHOTO), ""),
    ("zip, a name that is no UTF-8 but says so", patched_zip(central(8), b"\0\x08"), ""),
    ("tar, a block more", sized_tar(lambda size: size + BLOCK), REFUSE),
    ("tar, a block less", sized_tar(lambda size: size - BLOCK), REFUSE),
    ("tar, size 0", sized_tar(lambda size: 0), REFUSE),
    ("tar, size 2**40", sized_tar(lambda size: 2**40), REFUSE),
    ("tar, size -512", sized_tar(lambda size: -512), REFUSE),
    ("tar.gz, a block more", sized_tar(lambda size: size + BLOCK, GZ), REFUSE),
    ("tar.gz, size 2**40", sized_tar(lambda size: 2**40, GZ), REFUSE),
    ("tar, long name without end", long_name_without_end, REFUSE),
    ("tar, pax path outside", pax(path="../../escaped.png"), REFUSE),
    ("tar, pax absolute path", pax(path="/escaped.png"), REFUSE),
    ("tar, pax size", pax(size="99999999999999"), REFUSE),
    ("tar, pax size is no number", pax(size="many"), ""),
    ("tar, pax negative size", pax(size="-1"), REFUSE),
    ("tar.gz in two streams", in_two_streams(GZ), ACCEPT),
    ("tar.bz2 in two streams", in_two_streams(bz2.compress), ACCEPT),
    ("tar.xz in two streams", in_two_streams(lzma.compress), ACCEPT),
    ("tar of no files", lambda files: make_tar({}), REFUSE),
    ("zip of no files", lambda files: make_zip({}), REFUSE),
    ("an empty file", lambda files: b"", REFUSE),
    ("the start of a zip", lambda files: b"PK\3\4", REFUSE),
    ("the start of a tar.gz", lambda files: b"\x1f\x8b", REFUSE),
    ("the start of a tar.xz", lambda files: b"\xfd7zXZ\0", REFUSE),
    ("a photo", lambda files: files["a/00.png"], REFUSE),
    *(
        (f"sound {kind}", lambda files, c=c: c(make_tar(files)), ACCEPT)
        for kind, c in COMPRESSORS.items()
    ),
    ("sound zip", make_zip, ACCEPT),
]


def case(seed: int, number: int) -> Case:
    """Archive `number`: see the module."""
    random = case_random(seed, "archives", number)
    if number % 2 == 0:
        return damaged(random)
    what, make, must = HOSTILE[(number // 2 * 7 + seed) % len(HOSTILE)]
    return Case(what, make(photos(random)), must, more=True)


def run_case(seed: int, top: Path, number: int) -> Outcome:
    """Archive `number` through the real download and, if it is accepted, preprocess."""
    one = case(seed, number)
    place = Place(top / str(number))
    (place.project / "archive").write_bytes(one.data)
    settings = {"source": "archive", "path": "archive"}
    write_parameters(
        place.project,
        download=settings,
        preprocess={"size": [8, 8], "color": "rgb", "max_rejects": 1.0},
    )
    expected = photos(case_random(seed, "archives", number))
    outcome = judge(run_stage("download", place.project))
    if not outcome.is_fault:
        outcome = judge_archive(one, expected, place.project, outcome)
    if outside := place.written_outside():
        outcome = Outcome("outside", first(outside))
    return outcome._replace(detail=f"{one.what}: {outcome.detail}")


def judge_archive(
    one: Case, expected: dict[str, bytes], project: Path, outcome: Outcome
) -> Outcome:
    """What the outcome of download is worth, by the manifest and by what preprocess reads."""
    from stages.store.tables import read_table

    if outcome.verdict != ACCEPTED:
        return outcome if one.must != ACCEPT else Outcome("refused", outcome.detail)
    manifest = read_table(project / "data/raw/manifest.csv", ["path", "sha256"]).to_pylist()
    lines = compare(one, expected, {line["path"]: line["sha256"] for line in manifest})
    if lines:
        return Outcome("lost", f"exit code 0, but {first(lines)}")
    if one.must == REFUSE:
        return Outcome("accepted what is damaged", outcome.detail)
    outcome = judge(run_stage("preprocess", project))
    if outcome.verdict != ACCEPTED:
        return outcome if outcome.is_fault else Outcome("preprocess refused", outcome.detail)
    processed = project / "data/processed"
    found = read_table(processed / "index.csv", ["path"])["path"].to_pylist()
    rejects = read_table(processed / "rejects.csv", ["file"])["file"].to_pylist()
    if sorted([*found, *rejects]) != sorted(line["path"] for line in manifest):
        return Outcome("lost", "index.csv and rejects.csv are not what manifest.csv names")
    if missing := expected.keys() - one.changed - set(found):
        return Outcome("lost", f"sound photos among the rejects: {first(sorted(missing))}")
    return outcome


def compare(one: Case, expected: dict[str, bytes], found: dict[str, str]) -> list[str]:
    """What a manifest, `found` (sha256 by path), lacks of the `expected` photos or has too many."""
    lines = [f"{path} is lost" for path in sorted(expected.keys() - found.keys())]
    for path in sorted(expected.keys() & found.keys() - one.changed):
        if hashlib.sha256(expected[path]).hexdigest() != found[path]:
            lines.append(f"{path} has other bytes")
    if not one.more:
        lines += [f"{path} was never in it" for path in sorted(found.keys() - expected.keys())]
    return lines
