"""Raw images: a few archives, and a manifest that names every image in them."""

import mmap
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute

from stages.store.tables import read_table

# One line an image, sorted by `path`. `split` is the declared side or empty, `group` ties
# related images together or is empty, `shard` is the archive of data/raw/ that holds the
# file and `member` its name there.
MANIFEST = ("id", "path", "label", "split", "group", "sha256", "shard", "member")


def read_manifest(raw: str | Path) -> pa.Table:
    """The manifest of the folder `raw`: text columns `MANIFEST`, one row an image."""
    return read_table(Path(raw) / "manifest.csv", MANIFEST)


def read_images(
    raw: str | Path, manifest: pa.Table, rows: np.ndarray | None = None
) -> Iterator[tuple[int, bytes]]:
    """Yield (row of `manifest`, bytes of the image file) for `rows`, or for every row.

    Comes in the order in which the archives hold the files, each row once: shard after shard,
    by place within. Memory does not depend on the size of a shard. A zip costs what is read of
    it; a tar is read from its start to the last file wanted. Independent calls may run in
    several threads or processes at once.
    """
    rows = np.arange(len(manifest)) if rows is None else np.asarray(rows)
    shards = manifest["shard"].combine_chunks().dictionary_encode()
    codes = shards.indices.to_numpy()[rows]
    for code, name in enumerate(shards.dictionary.to_pylist()):
        chosen = rows[codes == code]
        if len(chosen):
            members: dict[str, list[int]] = {}
            names = manifest["member"].take(pa.array(chosen)).to_pylist()
            for member, row in zip(names, chosen.tolist(), strict=True):
                members.setdefault(member, []).append(row)
            path = Path(raw) / name
            read = read_zip if zipfile.is_zipfile(path) else read_tar
            for member, content in read(path, members):
                for row in members[member]:
                    yield row, content


def read_zip(path: Path, members: dict[str, list[int]]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of the zip's `members`, in the order they lie in the file.

    Reads through a memory map, in half the time of `ZipFile.read` on small members.
    """
    with (
        zipfile.ZipFile(path) as archive,
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        infos = [archive.NameToInfo[name] for name in members]
        for info in sorted(infos, key=lambda info: info.header_offset):
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                yield info.filename, archive.read(info)
                continue
            # The local header: 30 bytes, of which the last 4 are the lengths of what follows.
            at = info.header_offset + 30
            lengths = content[at - 4 : at]
            at += int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
            data = content[at : at + info.compress_size]
            if info.compress_type == zipfile.ZIP_DEFLATED:
                data = zlib.decompress(data, -zlib.MAX_WBITS, info.file_size)
            yield info.filename, data


def read_tar(path: Path, members: dict[str, list[int]]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of the tar's `members` (plain, gz, bz2 or xz), in file order."""
    left = len(members)
    with tarfile.open(path, "r|*") as archive:
        for info in archive:
            archive.members.clear()  # tarfile remembers every header it has seen
            name = text(info.name)
            if name in members:
                yield name, archive.extractfile(info).read()
                left -= 1
                if not left:
                    return


def text(name: str) -> str:
    r"""A file name as text that UTF-8 can hold: bytes that are not UTF-8 become \xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
