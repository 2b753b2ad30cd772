"""Files from elsewhere: fetched once, resumed when broken off, verified before use.

All of the project that reads an address goes through here: one client, one way to try again.
"""

import hashlib
import json
import posixpath
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from stages.errors import UserError
from stages.progress import progress
from stages.store.blobs import file_sha256
from stages.store.outputs import replace_file

BLOCK = 2**20
LONGEST_NAME = 100  # characters
HTTP_BLOCK = 2**16  # at most so much of what has come is lost with a connection
# Failures in a row, with nothing gained between them, after which a server is given up.
TRIES = 5
# Seconds before the second try; doubled for each one after.
PAUSE = 1.0
LONGEST_PAUSE = 60.0  # seconds, however long a busy server asks for
TIMEOUT = 30  # seconds without a sign of life
Answer = TypeVar("Answer")
HEADERS = {"User-Agent": "image-classification-pipeline", "Accept-Encoding": "identity"}


def fetch(
    mirrors: Sequence[str], cache: str | Path, sha256: str | None = None, pause: float = PAUSE
) -> Path:
    """The file that each of the addresses `mirrors` offers, from the folder `cache` if it is there.

    Else it comes from the first mirror that delivers: https://, http://, or whatever fsspec
    knows (s3://, gs://, ...). A broken transfer goes on where it stopped, in this run or the
    next, or starts over where the server cannot do that. `sha256` (hex) is what the file must
    have; without it, the first fetch is trusted and later damage noticed. Raises `UserError`
    when no mirror delivers.
    """
    name = file_name(mirrors[0])
    key = sha256 or hashlib.sha256(mirrors[0].encode()).hexdigest()
    path = Path(cache) / key[:16] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{name}.lock")):  # another run may be fetching it now
        return _fetch(mirrors, path, sha256, pause)


def file_name(url: str) -> str:
    """What to call the file at `url`: the last part of its path, as any system allows it."""
    try:
        name = posixpath.basename(unquote(urlsplit(url).path).replace("\\", "/"))
    except ValueError as error:
        raise UserError(f"{url!r} is no address: {error}") from None
    return re.sub(r"[^A-Za-z0-9_.,+ ()-]", "_", name)[-LONGEST_NAME:].strip(". ") or "download"


def _fetch(mirrors: Sequence[str], path: Path, sha256: str | None, pause: float) -> Path:
    name = path.name
    record = path.with_name(f"{name}.sha256")
    if path.exists() and record.exists():
        expected = sha256 or record.read_bytes().strip().decode("ascii", "replace")
        if file_sha256(path) == expected:
            return path
    errors: list[str] = []
    for url in mirrors:
        try:
            found = _transfer(url, path.with_name(f"{name}.part"), sha256, pause)
        except _Failed as error:
            errors.append(f"{url}: {error}")
            continue
        with replace_file(record) as new:
            new.write_text(found + "\n")
        path.with_name(f"{name}.part").replace(path)
        if sha256 is None:
            print(f"fetched {url}; to pin it, set download.sha256: {found}")
        return path
    raise UserError("could not fetch " + "; ".join(errors))


def fetch_bytes(url: str, most_bytes: int, pause: float = PAUSE) -> bytes:
    """The content of the file at `url`, in memory; as patient as `fetch`, and from the same places.

    Raises `OSError` if it does not come or has more than `most_bytes`, and `UserError` for an
    address of a kind that nothing here can read.
    """
    patience = _Patience(pause)
    while True:
        try:
            opened, content = _open(url, 0, None), bytearray()
            for block in opened.blocks:
                content += block
                if len(content) > most_bytes:
                    raise OSError(f"larger than {most_bytes // 2**20} MiB")
            if opened.size is not None and len(content) != opened.size:
                raise _Failed(f"broke off after {len(content):,} of {opened.size:,} bytes")
            return bytes(content)
        except _Failed as error:
            try:
                patience.wait_after(error)
            except _Failed as last:
                raise OSError(str(last)) from None


class _Failed(Exception):
    """A mirror cannot deliver; `final` when asking again is of no use.

    `pause` is for how many seconds the server wants to be left alone.
    """

    def __init__(self, reason: str, final: bool = False, pause: float = 0.0):
        super().__init__(reason)
        self.final, self.pause = final, pause


class _Patience:
    """When to ask again after a failure, and when to give up.

    `furthest` is how many bytes of the file there are: to gain some starts the count anew.
    """

    def __init__(self, pause: float, furthest: int = 0):
        self._pause, self._furthest, self._tries = pause, furthest, 0

    def wait_after(self, error: _Failed, reached: int = 0) -> None:
        """Sleep until it is time to ask again; raises `_Failed` if there is no use in it."""
        if error.final:
            raise error
        self._tries = 0 if reached > self._furthest else self._tries + 1
        self._furthest = max(self._furthest, reached)
        if self._tries >= TRIES:
            kept = f"; {reached:,} bytes are kept, run again to continue" if reached else ""
            raise _Failed(f"{error} (tried {self._tries} times{kept})")
        time.sleep(max(self._pause * 2 ** max(self._tries - 1, 0), error.pause))


class _Opened(NamedTuple):
    """A transfer under way: the offset of its first byte, the whole size, a mark of the version."""

    start: int
    size: int | None
    version: str | None
    blocks: Iterator[bytes]


def _transfer(url: str, part: Path, sha256: str | None, pause: float) -> str:
    """Fetch `url` into the file `part`; return its SHA-256. Raises `_Failed`."""
    patience = _Patience(pause, part.stat().st_size if part.exists() else 0)
    while True:
        resumed = part.exists() and part.stat().st_size > 0
        try:
            _continue(url, part, pinned=sha256 is not None)
            found = file_sha256(part)
            if sha256 in (None, found):
                _version_file(part).unlink(missing_ok=True)
                return found
            part.unlink()
            # What was resumed may be of two versions: the whole may still be what is expected.
            reason = f"has sha256 {found}, not {sha256} as expected; the file there is another one"
            raise _Failed(reason, final=not resumed)
        except _Failed as error:
            patience.wait_after(error, part.stat().st_size if part.exists() else 0)


def _continue(url: str, part: Path, pinned: bool) -> None:
    """Append to `part` what it lacks of `url`, or write it anew if it is of another version."""
    version_file = _version_file(part)
    start = part.stat().st_size if part.exists() else 0
    version = _read_version(version_file, url)
    if not pinned and version is None:
        start = 0  # nothing would tell whether the rest belongs to the same version
    opened = _open(url, start, None if pinned else version)
    with replace_file(version_file) as new:
        new.write_text(json.dumps({"url": url, "version": opened.version}))
    with (
        open(part, "r+b" if opened.start else "wb") as file,
        progress(opened.size, "B", f"fetching {part.stem}", opened.start) as bar,
    ):
        file.truncate(opened.start)
        file.seek(opened.start)
        for block in opened.blocks:
            file.write(block)
            bar.update(len(block))
    if opened.size is not None and part.stat().st_size != opened.size:
        raise _Failed(f"broke off after {part.stat().st_size:,} of {opened.size:,} bytes")


def _read_version(path: Path, url: str) -> str | None:
    """The version of `url` of which the file `path` says that a part has been fetched."""
    try:
        known = json.loads(path.read_bytes())
        version = known["version"] if known["url"] == url else None
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return None  # none yet, or not ours
    usable = isinstance(version, str) and version.isascii() and version.isprintable()
    return version if usable else None


def _version_file(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _open(url: str, start: int, version: str | None) -> _Opened:
    """Begin to read `url` from byte `start` on, or from 0 if it is not `version` any more."""
    is_http = urlsplit(url).scheme in ("http", "https")
    return (_open_http if is_http else _open_fsspec)(url, start, version)


_of_thread = threading.local()


def _open_http(url: str, start: int, version: str | None) -> _Opened:
    import requests
    import urllib3

    if not hasattr(_of_thread, "session"):  # keeps the connection for the next file
        _of_thread.session = requests.Session()
    headers = dict(HEADERS)
    if start:
        headers["Range"] = f"bytes={start}-"
        if version:
            headers["If-Range"] = version
    try:
        response = _of_thread.session.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    except (
        requests.exceptions.InvalidURL,
        requests.TooManyRedirects,
        urllib3.exceptions.LocationParseError,
        UnicodeError,
    ) as error:
        raise _Failed(str(error), final=True) from None
    except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
        raise _Failed(_cause(error)) from None
    if response.status_code == 416 and start:  # nothing beyond what we have: begin again
        return _open_http(url, 0, None)
    if not response.ok:
        final = response.status_code < 500 and response.status_code not in (408, 425, 429)
        asked = response.headers.get("Retry-After", "")
        wait = min(float(asked), LONGEST_PAUSE) if re.fullmatch("[0-9]{1,9}", asked) else 0.0
        raise _Failed(f"the server answers {response.status_code} {response.reason}", final, wait)
    begins = 0
    if response.status_code == 206:
        content_range = response.headers.get("Content-Range", "")
        match = re.match(r"\s*bytes\s+([0-9]{1,18})-", content_range)
        if not match or int(match[1]) != start:
            if not start:
                raise _Failed(f"the server answers with the range {content_range!r}", final=True)
            return _open_http(url, 0, None)
        begins = start
    length = response.headers.get("Content-Length", "").strip()
    size = begins + int(length) if re.fullmatch("[0-9]{1,18}", length) else None
    # A weak ETag does not promise the same bytes.
    tag = response.headers.get("ETag", "")
    mark = response.headers.get("Last-Modified") if not tag or tag.startswith("W/") else tag

    def blocks() -> Iterator[bytes]:
        try:
            with response:
                yield from response.iter_content(HTTP_BLOCK)
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            raise _Failed(f"the connection broke: {_cause(error)}") from None

    return _Opened(begins, size, mark, blocks())


def open_store(url: str) -> tuple[Any, str]:
    """The store that `url` names, as fsspec knows it, and the path there.

    Raises `UserError` for one that nothing here can read.
    """
    import fsspec

    scheme = urlsplit(url).scheme
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError:
        cloud = scheme in ("s3", "gs", "gcs")
        how = "make cloud" if cloud else "install the package that fsspec names for it"
        raise UserError(f"{url}: {scheme}:// needs a package that is missing; {how}") from None
    except ValueError as error:
        raise UserError(f"{url}: {error}") from None


def patiently(ask: Callable[[], Answer], pause: float = PAUSE) -> Answer:
    """What a store answers, asked again while it fails.

    Raises `FileNotFoundError` and `PermissionError` at once, and `OSError` when there is no use.
    """
    patience = _Patience(pause)
    while True:
        try:
            return ask()
        except (FileNotFoundError, PermissionError):
            raise
        except Exception as error:  # each store's library has exceptions of its own
            try:
                patience.wait_after(_Failed(_cause(error)))
            except _Failed as last:
                raise OSError(str(last)) from None


def _open_fsspec(url: str, start: int, version: str | None) -> _Opened:
    system, path = open_store(url)
    try:
        system.invalidate_cache()
        info = system.info(path)
        mark = str(info.get("ETag") or info.get("etag") or info.get("mtime") or "") or None
        if start > info["size"] or (version and version != mark):
            start = 0
        file = system.open(path, "rb", block_size=8 * BLOCK)
        file.seek(start)
    except FileNotFoundError:
        raise _Failed("there is no such file", final=True) from None
    except PermissionError as error:
        raise _Failed(f"access denied: {error}", final=True) from None
    except Exception as error:  # each store's library has exceptions of its own
        raise _Failed(_cause(error)) from None

    def blocks() -> Iterator[bytes]:
        try:
            with file:
                while block := file.read(BLOCK):
                    yield block
        except Exception as error:
            raise _Failed(f"the connection broke: {_cause(error)}") from None

    return _Opened(start, info["size"], mark, blocks())


def _cause(error: Exception) -> str:
    """The innermost reason of `error`, in a few words."""
    while True:
        inner = getattr(error, "reason", None) or next(
            (arg for arg in reversed(error.args) if isinstance(arg, Exception)), None
        )
        if not isinstance(inner, Exception):
            return str(error).split(": ", 1)[-1] if str(error) else type(error).__name__
        error = inner
