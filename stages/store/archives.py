"""Zip and tar archives, read forwards: to their proper end, or refused with the place named.

The libraries stop without a word at a bad tar header, at a second archive behind the first, and
where a zip's directory and its members disagree. Here that is an error, for it loses images.
"""

import bz2
import functools
import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from stages.errors import UserError
from stages.store.names import printable

BLOCK = 2**22
# Of a zip, so that small members do not each cost a call to the system.
READ_AHEAD = 2**18
# Zeros that may follow the end: a tape's last record. More are a damaged or hostile file.
LARGEST_PADDING = 2**24
# A list of members, long names and the like come into memory whole.
LARGEST_DIRECTORY = 2**28
LARGEST_TAR_HEADER = 2**20
# Memory for unpacking .xz; its highest preset takes 65 MiB.
LARGEST_XZ = 2**28

# How a compressed tar begins, and what unpacks it.
COMPRESSED: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(wbits=31),
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\0": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=LARGEST_XZ),
}


class Damage(Exception):
    """An archive is not as it was written; says what is wrong and where."""


# What the libraries raise for an archive that is cut short, altered, or of a kind they do not know.
DAMAGE = (
    Damage,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RecursionError,
    ValueError,  # UnicodeDecodeError among them
    struct.error,
    IndexError,
    OverflowError,
    RuntimeError,  # a member that is encrypted after all
)


class Member(NamedTuple):
    """A member of an archive, by its printable `name`; `path` is the real one, with / for \\.

    `end` is how far the archive has grown when this one is unpacked. `blocks` gives the content,
    before the next member is asked for: `size` bytes, or an error.
    """

    name: str
    path: str
    kind: str  # file, folder, other or encrypted
    size: int
    end: int
    blocks: Callable[[], Iterator[bytes]]


@contextmanager
def damage_as_user_error(archive: Path, remedy: str) -> Iterator[None]:
    """Within it, damage to `archive` is a `UserError` that ends in `remedy`."""
    try:
        yield
    except (OSError, *DAMAGE) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a fault of the machine; the decompressors' have no number
        reason = str(error) or type(error).__name__
        raise UserError(
            f"{printable(str(archive))} is damaged or of an unknown kind: "
            f"{printable(reason)}; {remedy}"
        ) from None


def read_archive(
    path: Path, members: Collection[str], remedy: str = "fetch or pack it again"
) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of `members` of the zip or tar `path`, in the order they lie in it.

    They may be named as they are or as `printable` shows them. Raises `UserError`, which ends in
    `remedy`, for an archive that is damaged or lacks one.
    """
    names = {printable(name): name for name in members}
    left = len(names)
    with damage_as_user_error(path, remedy):
        for member in iterate_members(path, names):
            if member.kind == "file" and member.name in names:
                yield names[member.name], b"".join(member.blocks())
                left -= 1
                if not left:
                    return
        raise Damage(f"{left} of its files are gone")


def is_direct(path: Path) -> bool:
    """Whether a member of the archive `path` can be read without all that lies before it.

    So it is in a zip, not in a tar. Raises `OSError`.
    """
    with open(path, "rb") as file:
        return file.read(2) == b"PK"


def iterate_members(path: Path, wanted: Collection[str] | None = None) -> Iterator[Member]:
    """The members of the zip or tar (plain, gz, bz2, xz) `path`, in the order they lie in it.

    Its first bytes say what kind of archive it is. With `wanted` (printable names), only these need
    come; without, the archive is checked as a whole. Raises one of `DAMAGE`, or `UserError` for
    another file.
    """
    with open(path, "rb") as file:
        head = file.read(512)
    if head.startswith(b"PK"):
        return _zip_members(path, wanted)
    if head[257:262] == b"ustar" or head.startswith(tuple(COMPRESSED)):
        return _tar_members(path, head)
    raise UserError(
        f"{printable(str(path))} is neither a zip nor a tar archive; it starts with {head[:16]!r}"
    )


# Zip


def _zip_members(path: Path, wanted: Collection[str] | None) -> Iterator[Member]:
    with open(path, "rb", READ_AHEAD) as file:
        _check_directory_size(file)
        with zipfile.ZipFile(path) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
            if wanted is None:
                _check_end(file, archive.start_dir, len(infos))
                offset = 0
            else:
                infos = [info for info in infos if printable(info.filename) in wanted]
                offset = None
            end = 0
            for info in infos:
                if offset is not None and not 0 <= info.header_offset - offset <= 24:
                    # Up to 24 bytes may repeat sizes after a member that was written as a stream.
                    raise Damage(
                        f"at byte {offset:,} lies no member that its directory names, but the next "
                        f"begins at byte {info.header_offset:,} (a part is missing, comes twice, "
                        "or another archive stands before it)"
                    )
                start = _local_header(file, info)
                offset = start + info.compress_size if offset is not None else None
                end += info.file_size
                yield _zip_member(archive, file, info, start, end)
            if offset is not None and not 0 <= archive.start_dir - offset <= 24:
                raise Damage(f"bytes {offset:,} to {archive.start_dir:,} belong to no member")


def _zip_member(
    archive: zipfile.ZipFile, file: BinaryIO, info: zipfile.ZipInfo, start: int, end: int
) -> Member:
    mode = stat.S_IFMT(info.external_attr >> 16)
    kind = "file" if mode in (0, stat.S_IFREG) else "other"
    if info.flag_bits & 1:
        kind = "encrypted"
    elif info.filename.endswith("/"):
        kind = "folder"

    def blocks() -> Iterator[bytes]:
        if info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            file.seek(start)
            return _checked(_zip_blocks(file, info), info)
        return _checked(_library_blocks(archive, info), info)

    path = info.filename.replace("\\", "/")  # some Windows programs write these
    return Member(printable(info.filename), path, kind, info.file_size, end, blocks)


def _local_header(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Where the content of the member begins, whose own header has to agree with the directory."""
    file.seek(info.header_offset)
    header = file.read(30)
    name = printable(info.filename)
    if len(header) < 30 or header[:4] != b"PK\3\4":
        raise Damage(f"there is no header of {name} at byte {info.header_offset:,}")
    _, _, flags, method, _, _, crc, packed, size, name_size, extra = struct.unpack(
        "<4s5H3I2H", header
    )
    known = file.read(name_size)
    encoding = "utf-8" if info.flag_bits & 0x800 else "cp437"
    agrees = (
        known == info.orig_filename.encode(encoding, "replace")
        and (flags ^ info.flag_bits) & 0x801 == 0
        and method == info.compress_type
        and "\0" not in info.orig_filename
    )
    if not flags & 8:  # else these stand after the content
        agrees &= crc == info.CRC
        agrees &= packed in (info.compress_size, 2**32 - 1)
        agrees &= size in (info.file_size, 2**32 - 1)
    if not agrees:
        raise Damage(
            f"the header of {name} at byte {info.header_offset:,} and the directory disagree"
        )
    return info.header_offset + 30 + name_size + extra


def _zip_blocks(file: BinaryIO, info: zipfile.ZipInfo) -> Iterator[bytes]:
    left = info.compress_size
    inflate = zlib.decompressobj(-zlib.MAX_WBITS) if info.compress_type else None
    if inflate is None and left != info.file_size:
        raise Damage(f"the two sizes of {printable(info.filename)} disagree")
    while left:
        data = file.read(min(left, BLOCK))
        if not data:
            raise EOFError(f"it is cut short within {printable(info.filename)}")
        left -= len(data)
        if inflate is None:
            yield data
        while inflate is not None and data and not inflate.eof:
            yield inflate.decompress(data, BLOCK)
            data = inflate.unconsumed_tail
    if inflate is not None:
        while rest := inflate.decompress(b"", BLOCK):
            yield rest
        if not inflate.eof or inflate.unused_data:
            raise Damage(f"the content of {printable(info.filename)} has no proper end")


def _library_blocks(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    with archive.open(info) as content:
        while block := content.read(BLOCK):
            yield block


def _checked(blocks: Iterator[bytes], info: zipfile.ZipInfo) -> Iterator[bytes]:
    """`blocks` as long as they do not exceed the size that the member declares; then its CRC."""
    name = printable(info.filename)
    size = crc = 0
    for block in blocks:
        size += len(block)
        if size > info.file_size:
            raise Damage(f"{name} holds more than the {info.file_size:,} bytes it declares")
        crc = zlib.crc32(block, crc)
        yield block
    if size != info.file_size:
        raise Damage(f"{name} holds {size:,} bytes and declares {info.file_size:,}")
    if crc != info.CRC:
        raise Damage(f"Bad CRC-32 for file '{name}'")


def _check_directory_size(file: BinaryIO) -> None:
    # ZipFile reads the directory into memory before it looks at it.
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 2**16 - 22 - 20 - 56))
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) < at + 22:
        raise Damage("it has no directory at its end; it is cut short, or more follows after it")
    directory = int.from_bytes(tail[at + 12 : at + 16], "little")
    if tail[at - 20 : at - 16] == b"PK\6\7" and tail[at - 76 : at - 72] == b"PK\6\6":
        directory = int.from_bytes(tail[at - 36 : at - 28], "little")
    elif directory == 2**32 - 1:
        raise Damage("its directory has no size")
    if directory > LARGEST_DIRECTORY:
        raise Damage(f"its directory claims {directory:,} bytes")


def _check_end(file: BinaryIO, offset: int, count: int) -> None:
    """Go through the directory at `offset`: `count` members, then its end and nothing but zeros."""

    def record(size: int) -> bytes:
        file.seek(offset)
        content = file.read(size)
        if len(content) < size:
            raise Damage(f"its directory is cut short at byte {offset:,}")
        return content

    for _ in range(count):
        entry = record(46)
        if entry[:4] != b"PK\1\2":
            raise Damage(f"its directory is damaged at byte {offset:,}")
        offset += 46 + sum(struct.unpack("<3H", entry[28:34]))
    total = None
    if record(4) == b"PK\6\6":
        large = record(56)
        total = int.from_bytes(large[32:40], "little")
        offset += 12 + int.from_bytes(large[4:12], "little")
        if record(4) != b"PK\6\7":
            raise Damage(f"its directory is damaged at byte {offset:,}")
        offset += 20
    last = record(22)
    if last[:4] != b"PK\5\6":
        raise Damage(f"its directory is damaged at byte {offset:,}")
    short = int.from_bytes(last[10:12], "little")
    if short != (count if total is None else min(total, 0xFFFF)) and short != count % 2**16:
        raise Damage(f"its directory names {count:,} members and counts {short:,}")
    if total is not None and total != count:
        raise Damage(f"its directory names {count:,} members and counts {total:,}")
    offset += 22 + int.from_bytes(last[20:22], "little")
    file.seek(offset)
    _check_padding(file, offset)


# Tar


# How tarfile tells the end of an archive; its type stubs leave them out.
_BLANK_HEADER: type[Exception] = tarfile.EOFHeaderError  # type: ignore[attr-defined]
_NO_HEADER: type[Exception] = tarfile.EmptyHeaderError  # type: ignore[attr-defined]


class _ForgetfulTar(tarfile.TarFile):
    members: list[tarfile.TarInfo]  # every header that it has read, which would fill the memory


def _tar_members(path: Path, head: bytes) -> Iterator[Member]:
    with open(path, "rb") as plain:
        file: BinaryIO = plain
        for magic, new in COMPRESSED.items():
            if head.startswith(magic):
                # It has all that tarfile asks for.
                file = cast(BinaryIO, _Forwards(_unpacked(plain, magic, new)))
        archive, last = None, ""
        try:
            with _ForgetfulTar(fileobj=file, tarinfo=_StrictHeader) as archive:
                for info in archive:
                    archive.members.clear()
                    last = printable(info.name)
                    if info.size < 0:
                        raise Damage("a size is negative")
                    kind = "file" if info.isreg() else "folder" if info.isdir() else "other"
                    end = info.offset_data + info.size
                    content = functools.partial(_tar_blocks, archive, info)
                    yield Member(last, info.name, kind, info.size, end, content)
                offset = archive.offset + tarfile.BLOCKSIZE
            file.seek(offset)  # the end is two blocks of zeros, of which tarfile has read one
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise EOFError("it is cut short, or a header is blank")
            _check_padding(file, offset + tarfile.BLOCKSIZE)
        except DAMAGE as error:
            after = f"after {last}, byte {archive.offset:,}" if archive else "in its first header"
            raise Damage(f"{str(error) or type(error).__name__} ({after})") from None


def _tar_blocks(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Iterator[bytes]:
    content = archive.extractfile(info)
    if content is None:
        raise Damage(f"{printable(info.name)} is no regular file")
    with content:
        left = info.size
        while left:
            block = content.read(min(left, BLOCK))
            if not block:
                raise EOFError(f"it is cut short within {printable(info.name)}")
            left -= len(block)
            yield block


class _StrictHeader(tarfile.TarInfo):
    """To tarfile, a bad header is the end of the archive; here it is damage."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_StrictHeader":
        try:
            header = super().frombuf(buf, encoding, errors)
        except _BLANK_HEADER:
            raise
        except _NO_HEADER:
            raise tarfile.ReadError("it is cut short: it has no end mark") from None
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"the next header is damaged: {error}") from None
        if header.type in _IN_MEMORY and not 0 <= header.size <= LARGEST_TAR_HEADER:
            raise tarfile.ReadError(f"the next header claims {header.size:,} bytes")
        return header

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super()._proc_member(archive)  # type: ignore[misc]  # tarfile's own hook
        except _BLANK_HEADER:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"the next header is damaged: {error}") from None


_IN_MEMORY = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class _Forwards:
    """`blocks` of bytes as a file that is read from its start to its end."""

    def __init__(self, blocks: Iterator[bytes]):
        self._blocks, self._block, self._at, self._offset = blocks, b"", 0, 0

    def read(self, size: int) -> bytes:
        parts = []
        while size > 0:
            if self._at == len(self._block):
                self._block, self._at = next(self._blocks, b""), 0
                if not self._block:
                    break
            part = self._block[self._at : self._at + size]
            self._at += len(part)
            self._offset += len(part)
            size -= len(part)
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def tell(self) -> int:
        return self._offset

    def seek(self, offset: int) -> int:
        if offset < self._offset:
            raise Damage(f"a header points back to byte {offset:,}")
        while offset > self._offset and self.read(min(offset - self._offset, BLOCK)):
            pass
        return self._offset

    def seekable(self) -> bool:
        return True


def _unpacked(file: BinaryIO, magic: bytes, new: Callable[[], Any]) -> Iterator[bytes]:
    """The compressed `file`, whose streams begin with `magic`, unpacked; zeros may follow them."""
    data = file.read(BLOCK)
    while data:
        if not data.startswith(magic):
            raise Damage(f"at byte {file.tell() - len(data):,} something else follows its end")
        stream = new()
        while not stream.eof:
            ended = False
            if not data and getattr(stream, "needs_input", True):  # zlib's takes what it gets
                data = file.read(BLOCK)
                ended = not data
            block = stream.decompress(data, BLOCK)
            data = getattr(stream, "unconsumed_tail", b"")
            if block:
                yield block
            elif ended:
                raise EOFError("it is cut short")
        data, padding = stream.unused_data or file.read(BLOCK), 0
        while data and not (rest := data.lstrip(b"\0")):
            padding += len(data)
            if padding > LARGEST_PADDING:
                raise Damage(f"more than {LARGEST_PADDING:,} zeros follow its end")
            data = file.read(BLOCK)
        if data:
            data = rest
            if len(data) < len(magic):
                data += file.read(BLOCK)


def _check_padding(file: BinaryIO, offset: int) -> None:
    """Nothing but zeros, and not many, may follow at `offset`, where `file` stands."""
    start = offset
    while block := file.read(BLOCK):
        if rest := block.lstrip(b"\0"):
            offset += len(block) - len(rest)
            raise Damage(f"at byte {offset:,} something else follows its end")
        offset += len(block)
        if offset - start > LARGEST_PADDING:
            raise Damage(f"more than {LARGEST_PADDING:,} zeros follow its end at byte {start:,}")
