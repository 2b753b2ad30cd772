"""Files as wholes, whatever is in them: hashed, linked, copied."""

import errno
import hashlib
import os
import shutil
import zlib
from pathlib import Path

# Size of the files that hold many images: large enough for few of them, small enough that a
# changed image moves little data.
SHARD_BYTES = 64 * 2**20

# So much fits a core's cache.
CHECKED_BYTES = 2**18


def file_sha256(path: str | Path) -> str:
    """SHA-256 of the file's content, in hex. Raises `OSError`."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum(path: Path) -> int:
    """CRC-32 of the file: against damage, at several times the speed of a secure hash."""
    crc, block = 0, memoryview(bytearray(CHECKED_BYTES))
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(block):
            crc = zlib.crc32(block[:size], crc)
    return crc


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to the file `source`, or a copy where links do not go."""
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without links
        copy_file(source, target)


def copy_file(source: Path, target: Path) -> None:
    """Copy `source` to `target`, sharing the blocks on disk where the system can (XFS, Btrfs)."""
    with open(source, "rb") as old, open(target, "wb") as new:
        try:
            while os.copy_file_range(old.fileno(), new.fileno(), 2**30):
                pass
            return
        except (OSError, AttributeError) as error:  # between file systems, or not on Linux
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise
    shutil.copyfile(source, target)
