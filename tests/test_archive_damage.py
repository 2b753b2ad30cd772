"""An archive is read to its proper end, or refused with the place: damage never loses an image."""

import bz2
import gzip
import io
import lzma
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib

import pytest
from factory import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.errors import UserError
from stages.sources.archive import read_members
from stages.store.archives import read_archive

IMAGES = {f"{label}/{n}.jpg": bytes([65 + n]) * (300 * n) for label in "ab" for n in range(10)}


def tar(files=IMAGES, format=tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zipped(files=IMAGES, method=zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


def images(path, content: bytes) -> dict[str, bytes]:
    """What the archive of these bytes holds, read as download does and then as preprocess does."""
    path.write_bytes(content)
    members = read_members(path)
    read = dict(read_archive(path, [member.name for member in members]))
    return {member.path: read[member.name] for member in members}


def header(content: bytes, name: str) -> int:
    return content.index(name.encode() + b"\0")


PACK = {"tar": bytes, "tar.gz": gzip.compress, "tar.bz2": bz2.compress, "tar.xz": lzma.compress}


@pytest.mark.parametrize("pack", PACK.values(), ids=PACK)
@pytest.mark.parametrize("damage", ["flip", "blank", "size"])
@pytest.mark.parametrize("member", ["a/5.jpg", "a/6.jpg", "b/9.jpg"])
def test_a_damaged_header_of_a_tar_is_named(tmp_path, pack, damage, member):
    content = bytearray(tar())
    at = header(content, member)
    if damage == "flip":
        content[at + 100] ^= 4
    elif damage == "blank":
        content[at : at + 512] = bytes(512)
    else:  # a size that is a block less, with a checksum that fits
        info = tarfile.TarInfo.frombuf(content[at : at + 512], "utf-8", "strict")
        info.size -= 512
        content[at : at + 512] = info.tobuf()
    before = list(IMAGES)[list(IMAGES).index(member) - (damage != "size")]
    with pytest.raises(UserError, match=rf"x is damaged.*\(after {before}, byte [\d,]+\)"):
        images(tmp_path / "x", pack(bytes(content)))


@pytest.mark.parametrize("pack", PACK.values(), ids=PACK)
def test_what_follows_the_end_of_a_tar(tmp_path, pack):
    whole, path = tar(), tmp_path / "x"
    assert images(path, pack(whole)) == IMAGES
    assert images(path, pack(whole + bytes(100_000))) == IMAGES
    assert images(path, pack(whole) + bytes(100_000)) == IMAGES
    for more in (b"x", bytes(5000) + b"garbage", tar({"c/1.jpg": b"lost"})):
        with pytest.raises(UserError, match=r"at byte [\d,]+ something else follows its end"):
            images(path, pack(whole + more))
        with pytest.raises(UserError, match=r"at byte [\d,]+ something else follows its end"):
            images(path, pack(whole) + more)
    with pytest.raises(UserError, match="cut short"):
        images(path, pack(whole[: header(whole, "b/9.jpg") + 512 + 3072 + 512]))


def test_streams_in_a_row_are_one_tar(tmp_path):
    whole = tar()
    for pack in (gzip.compress, bz2.compress, lzma.compress):
        assert images(tmp_path / "x", pack(whole[:3000]) + pack(whole[3000:])) == IMAGES


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_each_format_with_long_names(tmp_path, format):
    files = {f"cat/{'n' * 90}/1.jpg": b"1", f"dog/{'m' * 80}/{'o' * 60}.jpg": b"2"}
    if format != tarfile.USTAR_FORMAT:
        files |= {f"dog/{'ü' * 120}.jpg": b"3"}
    assert images(tmp_path / "x", tar(files, format)) == files


def test_a_tar_with_a_sparse_member(tmp_path):
    content = bytearray(tar({"a/1.jpg": bytes(512) + b"x" * 512, "b/1.jpg": b"2"}))
    info = tarfile.TarInfo("a/1.jpg")
    info.size = 512
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[156:157] = tarfile.GNUTYPE_SPARSE
    block[386 : 386 + 24] = b"00000001000\0" + b"00000001000\0"  # 512 bytes at 512
    block[483 : 483 + 12] = b"00000002000\0"  # of 1,024
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    whole = bytes(block) + b"x" * 512 + bytes(content[1536:])
    expected = {"a/1.jpg": bytes(512) + b"x" * 512, "b/1.jpg": b"2"}
    assert images(tmp_path / "x", whole) == expected


def test_an_office_document_at_the_end_of_a_tar(tmp_path):
    document = zipped({"word/document.xml": b"x"}, zipfile.ZIP_STORED)
    assert images(tmp_path / "x", tar(IMAGES | {"b/notes.docx": document})) == IMAGES


def test_two_zips_in_a_row_are_refused(tmp_path):
    with pytest.raises(UserError, match="at byte 0 lies no member that its directory names"):
        images(tmp_path / "x", zipped() + zipped({"c/1.jpg": b"1", "d/1.jpg": b"2"}))
    with pytest.raises(UserError, match=r"at byte [\d,]+ something else follows its end"):
        images(tmp_path / "x", zipped() + b"garbage")
    assert images(tmp_path / "x", zipped() + bytes(1000)) == IMAGES


def test_a_member_that_the_directory_of_a_zip_lost(tmp_path):
    content = bytearray(zipped())
    first = content.index(b"PK\1\2")
    second = content.index(b"PK\1\2", first + 1)
    del content[first:second]
    for at, change in ((-14, -1), (-12, -1), (-10, first - second)):
        size = 4 if at == -10 else 2
        number = int.from_bytes(content[at : at + size or None], "little") + change
        content[at : at + size] = number.to_bytes(size, "little")
    with pytest.raises(UserError, match="lies no member that its directory names"):
        images(tmp_path / "x", bytes(content))


@pytest.mark.parametrize("field", [6, 8, 14, 18, 22, 26, 30], ids=str)
def test_a_zip_whose_header_and_directory_disagree(tmp_path, field):
    content = bytearray(zipped())
    content[content.rindex(b"PK\3\4") + field] ^= 1
    with pytest.raises(UserError, match=r"the header of b/9.jpg at byte [\d,]+ and the directory"):
        images(tmp_path / "x", bytes(content))


def test_zips_of_each_compression(tmp_path):
    for method in (
        zipfile.ZIP_STORED,
        zipfile.ZIP_DEFLATED,
        zipfile.ZIP_BZIP2,
        zipfile.ZIP_LZMA,
    ):
        assert images(tmp_path / "x", zipped(method=method)) == IMAGES


def test_a_zip_written_as_a_stream(tmp_path):
    class Pipe(io.RawIOBase):
        written = b""

        def writable(self):
            return True

        def write(self, data):
            self.written += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in IMAGES.items():
            archive.writestr(name, content)
        with archive.open("c/large.jpg", "w", force_zip64=True) as member:
            member.write(b"x" * 1000)
    assert images(tmp_path / "x", pipe.written) == IMAGES | {"c/large.jpg": b"x" * 1000}


def test_a_zip_with_odd_names(tmp_path):
    content = zipped({"": b"x", "cat/a.jpg": b"1", "dog\\b.jpg": b"2", "dog/\x1b.jpg": b"3"})
    assert images(tmp_path / "x", content) == {
        "cat/a.jpg": b"1",
        "dog/b.jpg": b"2",
        r"dog/\x1b.jpg": b"3",
    }
    with pytest.raises(UserError, match="disagree"):
        images(tmp_path / "x", content.replace(b"cat/a.jpg", b"cat/a\0jpg"))


# Any damage: the same images, or one line.

SMALL = {"a/1.jpg": b"one" * 30, "b/2.jpg": b"two" * 40, "b/3.jpg": b"", "b/4.jpg": b"four"}
WHOLE = {
    "tar": tar(SMALL, tarfile.USTAR_FORMAT),
    "tar.gz": gzip.compress(tar(SMALL, tarfile.USTAR_FORMAT), mtime=0),
    "tar.xz": lzma.compress(tar(SMALL, tarfile.USTAR_FORMAT)),
    "zip": zipped(SMALL),
    "stored zip": zipped(SMALL, zipfile.ZIP_STORED),
}


def survives(path, content: bytes, exact: bool) -> None:
    try:
        found = images(path, content)
    except UserError:
        return
    if exact:
        assert found == SMALL
    else:  # a plain tar has no checksum of its contents
        assert {name: len(data) for name, data in found.items()} == {
            name: len(data) for name, data in SMALL.items()
        }


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
@pytest.mark.parametrize("kind", WHOLE)
def test_one_flipped_byte_never_loses_an_image(tmp_path, kind, data):
    content = bytearray(WHOLE[kind])
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    survives(tmp_path / "x", bytes(content), exact=kind != "tar")


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
@pytest.mark.parametrize("kind", WHOLE)
def test_a_lost_or_repeated_part_never_loses_an_image(tmp_path, kind, data):
    content = WHOLE[kind]
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(content))] * 2)))
    part = data.draw(st.sampled_from([b"", content[start:end] * 2, bytes(end - start)]))
    if kind == "tar" and not part.strip(b"\0") and not content[end:].strip(b"\0"):
        return  # blank headers at the very end look like the end, and no tar counts its members
    survives(tmp_path / "x", content[:start] + part + content[end:], exact=kind != "tar")


# Attacks on memory and time.

ATTACK = """
import sys
from pathlib import Path
from stages.errors import UserError
from stages.sources.archive import read_members
try:
    read_members(Path(sys.argv[1]))
except UserError as error:
    print(error)
# Not ru_maxrss, which begins with the peak of the process that started this one.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def attack(path) -> str:
    """What download says of the hostile `path`, in a process that may not take much."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", ATTACK, path],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    message, kibibytes = done.stdout.splitlines()
    assert int(kibibytes) < 200 * 2**10
    assert time.monotonic() - start < 10
    return message


def test_a_zip_member_that_inflates_beyond_what_it_declares(tmp_path):
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = b"".join(bomb.compress(bytes(2**20)) for _ in range(2**8)) + bomb.flush()
    for declared in (100, 2**20):
        with zipfile.ZipFile(tmp_path / "x", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/1.jpg", b"1")
            archive.writestr("b/1.jpg", b"2" * 50)
            # A member of ours with the bomb for its content.
            info = zipfile.ZipInfo("b/2.jpg")
            info.compress_type, info.header_offset = zipfile.ZIP_DEFLATED, archive.fp.tell()
            info.file_size, info.compress_size = declared, len(packed)
            info.CRC = zlib.crc32(bytes(declared))
            archive.fp.write(info.FileHeader() + packed)
            archive.start_dir = archive.fp.tell()
            archive.filelist.append(info)
            archive.NameToInfo[info.filename] = info
            archive._didModify = True
        assert "b/2.jpg holds more than" in attack(tmp_path / "x")
        with pytest.raises(UserError, match="holds more than"):
            dict(read_archive(tmp_path / "x", ["b/2.jpg"]))


def test_zeros_without_end_behind_a_tar(tmp_path):
    path = tmp_path / "x"
    with gzip.open(path, "wb", 9) as file:
        file.write(tar(SMALL))
        for _ in range(2**6):
            file.write(bytes(2**20))
    assert "more than 16,777,216 zeros follow its end" in attack(path)
    path.write_bytes(gzip.compress(tar(SMALL)))
    with open(path, "r+b") as file:
        file.truncate(6 * 2**30)
    assert "more than 16,777,216 zeros follow its end" in attack(path)
    path.write_bytes(tar(SMALL))
    with open(path, "r+b") as file:
        file.truncate(6 * 2**30)
    assert "more than 16,777,216 zeros follow its end" in attack(path)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_name_of_gigabytes_in_a_tar(tmp_path, kind):
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, 6 * 2**30
    with open(tmp_path / "x", "wb") as file:
        file.write(tar(SMALL).rstrip(b"\0").ljust(512 * 20, b"\0")[: 512 * 2])
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(6 * 2**30 + 2048)
    assert "the next header claims 6,442,450,944 bytes" in attack(tmp_path / "x")


def test_a_directory_of_gigabytes_in_a_zip(tmp_path):
    content = bytearray(zipped(SMALL))
    content[-10:-6] = (3 * 2**30).to_bytes(4, "little")
    with open(tmp_path / "x", "wb") as file:
        file.write(content)
        file.truncate(4 * 2**30)
        file.seek(4 * 2**30)
        file.write(content[-22:])
    assert "its directory claims 3,221,225,472 bytes" in attack(tmp_path / "x")
