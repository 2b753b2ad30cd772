"""Images of a bucket, one folder a class: listed once, then read and packed a shard at a time.

Where a shard ends is decided by paths and sizes, which the listing says. So the shards are known
before any image is read, and each is work of its own (`stages.workers`) that reads its images,
packs them, and answers with their hashes: no image passes through this process in a cluster.
"""

import hashlib
import json
import os
import posixpath
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from stages.errors import UserError
from stages.progress import progress
from stages.sources.fetch import open_store, patiently
from stages.sources.folder import laid_out
from stages.sources.layout import check_image_size, is_hidden
from stages.store.archives import DAMAGE
from stages.store.blobs import SHARD_BYTES, checksum, link_or_copy
from stages.store.names import printable
from stages.store.raw import Entry, cut, shard_name, write_zip
from stages.workers import each

# Waiting for a store takes longer than reading: so many folders are listed, and images of a shard
# read, at once.
AT_ONCE = 16
BYTES_AT_A_TIME = 32 * 2**20

# What changes when an object does, in the words of several stores. The first that is there counts.
VERSIONS = ("ETag", "generation", "etag", "mtime", "LastModified", "last_modified", "updated")


class Image(NamedTuple):
    """An image as it was listed: `name` within the bucket's folder, `path` how it is shown."""

    name: str
    path: str
    size: int
    version: str
    label: str
    split: str


def bucket_entries(
    url: str,
    folder: Path,
    previous: Path,
    seen: Path,
    packed: Path,
    label_pattern: str | None = None,
    target: int = SHARD_BYTES,
) -> Iterator[Entry]:
    """Pack the images under `url` into zips in `folder`, as `raw.pack` does; entries by path.

    The layout is `read_layout`'s. The folder `seen` remembers what each shard held, the folder
    `packed` keeps those of a run that has failed: images that have not changed since are taken from
    there or from the folder `previous`. Raises `UserError` for a bucket that holds no images or
    cannot be read.
    """
    images = list_images(url, label_pattern)
    shards = list(cut(images, target))
    seen.mkdir(parents=True, exist_ok=True)
    packed.mkdir(parents=True, exist_ok=True)
    work = partial(_pack, url, previous, seen, packed)
    done: dict[int, _Shard] = {}
    used, next_shard = set(), 0
    with progress(len(images), "images", "reading") as bar:
        for number, shard in each(work, enumerate(shards)):
            link_or_copy((previous if shard.kept else packed) / shard.name, folder / shard.name)
            bar.update(len(shard.digests))
            used.add(shard.record)
            done[number] = shard
            while next_shard in done:
                ready = done.pop(next_shard)
                for image, digest in zip(shards[next_shard], ready.digests, strict=True):
                    path, label, split = image.path, image.label, image.split
                    yield Entry(path, label, split, "", digest, ready.name, path)
                next_shard += 1
    for record in seen.iterdir():
        if record.name not in used:
            record.unlink()


# The listing


def list_images(url: str, label_pattern: str | None = None) -> list[Image]:
    """The images under `url`, sorted by path."""
    store, root = open_store(url)
    store.invalidate_cache()
    found: dict[str, tuple[int, str]] = {}
    entries = _asked(url, partial(store.ls, root, detail=True))
    found.update(_files(entries, root))
    # A store may name the folder itself among what it holds.
    folders = [
        entry["name"]
        for entry in entries
        if entry["type"] == "directory" and entry["name"].strip("/") != root.strip("/")
    ]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for some in pool.map(partial(_list, store, root, url), folders):
            found |= some
    store.invalidate_cache()  # which holds the listing in many times the memory
    for name, (size, _) in found.items():
        if posixpath.normpath(name) != name or name.startswith(("/", "..")):
            raise UserError(f"{url}: no folder can hold {printable(name)}; rename it")
        check_image_size(size, f"{url}/{printable(name)}")
    return [
        Image(name, printable(name), *found[name], sys.intern(label), split)
        for name, split, label in laid_out(found, url, label_pattern)
    ]


def _list(store: Any, root: str, url: str, folder: str) -> dict[str, tuple[int, str]]:
    """Size and version by name of all files in and under `folder`."""
    return _files(_asked(url, partial(store.find, folder, detail=True)).values(), root)


def _files(entries: Iterable[dict], root: str) -> dict[str, tuple[int, str]]:
    start = len(root.rstrip("/")) + 1
    named = ((entry["name"][start:], entry) for entry in entries if entry["type"] == "file")
    return {
        name: (int(entry["size"] or 0), _version(entry))
        for name, entry in named
        # In the browser of a store an empty folder is an object that ends in a slash.
        if name and not name.endswith("/") and not is_hidden(name)
    }


def _version(entry: dict) -> str:
    """What changes when the object `entry` does; empty if its store does not say."""
    return next((str(entry[key]) for key in VERSIONS if entry.get(key)), "")


def _asked(url: str, question: Callable[[], Any]) -> Any:
    try:
        return patiently(question)
    except FileNotFoundError:
        raise UserError(f"{url} is not there; download.url names the images' folder") from None
    except OSError as error:
        raise UserError(f"{url} cannot be listed: {error}") from None


# A shard. This part may run on another machine, and twice.


class _Shard(NamedTuple):
    """A shard in place: its `name` in `previous` if it is `kept` from there, else in `packed`; the
    SHA-256 of its images; and the name of the `record` of it."""

    name: str
    kept: bool
    digests: list[bytes]
    record: str


def _pack(
    url: str, previous: Path, seen: Path, packed: Path, task: tuple[int, Sequence[Image]]
) -> tuple[int, _Shard]:
    number, images = task
    # Images come and go, but most often it is the same one after which the shard ends.
    key = hashlib.sha256(f"{url}\0{images[-1].path}".encode()).hexdigest()[:32]
    record = seen / f"{key}.json"
    known = _Known.read(record, previous, packed)
    if known and known.holds(images) and known.is_whole():
        digests: list[bytes] = [known.images[image.path][2] for image in images]
        return number, _Shard(known.path.name, known.path.parent == previous, digests, record.name)
    digests, new = [], packed / f".{uuid4().hex}.tmp"
    try:
        write_zip(_contents(url, images, known, digests), new)
        name = shard_name(zip([image.path for image in images], digests, strict=True))
        written = {
            "shard": name,
            "checksum": checksum(new),
            "images": {
                image.path: [image.size, image.version, digest.hex()]
                for image, digest in zip(images, digests, strict=True)
            },
        }
        os.replace(new, packed / name)
        new.write_text(json.dumps(written))
        os.replace(new, record)
    finally:
        new.unlink(missing_ok=True)
    return number, _Shard(name, False, digests, record.name)


class _Known:
    """What a record says of a shard: size, version and SHA-256 of its images by path, and the zip
    that holds them, if it is still there."""

    def __init__(self, images: dict[str, tuple[int, str, bytes]], path: Path, crc: int):
        self.images, self.path, self._crc = images, path, crc

    @classmethod
    def read(cls, record: Path, *folders: Path) -> "_Known | None":
        """None if there is no record, or none of ours, or no such zip in any of `folders`."""
        try:
            said = json.loads(record.read_bytes())
            images = {
                path: (int(size), str(version), bytes.fromhex(digest))
                for path, (size, version, digest) in said["images"].items()
            }
            name, crc = Path(said["shard"]).name, said["checksum"]
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return None
        found = [folder / name for folder in folders if (folder / name).is_file()]
        return cls(images, found[0], crc) if found else None

    def digest(self, image: Image) -> bytes | None:
        """The SHA-256 of `image` if it has not changed since."""
        size, version, digest = self.images.get(image.path, (0, "", b""))
        return digest if version and (size, version) == (image.size, image.version) else None

    def holds(self, images: Sequence[Image]) -> bool:
        """Whether these are its images, and have not changed."""
        return len(images) == len(self.images) and all(map(self.digest, images))

    def is_whole(self) -> bool:
        """Whether the zip is as it was written."""
        return checksum(self.path) == self._crc

    def content(self, image: Image) -> bytes | None:
        """The bytes of `image`, if it has not changed since and they have not either."""
        digest = self.digest(image)
        if digest is None:
            return None
        try:
            with zipfile.ZipFile(self.path) as archive:
                content = archive.read(image.path)
        except (OSError, *DAMAGE, KeyError):
            return None
        return content if hashlib.sha256(content).digest() == digest else None


def _contents(
    url: str, images: Sequence[Image], known: _Known | None, digests: list[bytes]
) -> Iterator[tuple[str, bytes]]:
    """Path and bytes of each of `images`, whose SHA-256 are appended to `digests`."""

    def read(image: Image) -> bytes:
        content = known.content(image) if known else None
        return _read(url, image) if content is None else content

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for some in _portions(images):
            for image, content in zip(some, pool.map(read, some), strict=True):
                digests.append(hashlib.sha256(content).digest())
                yield image.path, content


def _portions(images: Sequence[Image]) -> Iterator[list[Image]]:
    some: list[Image] = []
    for image in images:
        some.append(image)
        if sum(each.size for each in some) >= BYTES_AT_A_TIME or len(some) >= 4 * AT_ONCE:
            yield some
            some = []
    yield some


def _read(url: str, image: Image) -> bytes:
    where = f"{url.rstrip('/')}/{image.path}"
    store, root = open_store(url)
    path = f"{root.rstrip('/')}/{image.name}"
    try:
        content = patiently(partial(store.cat_file, path))
        # Asked for after the reading: if this is what was listed, then so is what was read.
        now = patiently(partial(_look, store, path))
    except FileNotFoundError:
        raise UserError(f"{where} was taken away while the images were read; run again") from None
    except PermissionError as error:
        raise UserError(f"{where} cannot be read, access denied: {error}") from None
    except OSError as error:
        raise UserError(
            f"{where} cannot be read: {error}; run again, what is packed is kept"
        ) from None
    if len(content) != image.size or now != (image.size, image.version):
        raise UserError(f"{where} changed while the images were read; run again")
    return content


def _look(store: Any, path: str) -> tuple[int, str]:
    store.invalidate_cache()
    entry = store.info(path)
    return int(entry["size"] or 0), _version(entry)
