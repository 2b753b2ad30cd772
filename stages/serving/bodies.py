"""What a request sends, read within limits: of bytes, of what all requests hold, of images."""

import asyncio
import binascii
import sys
from collections.abc import AsyncGenerator
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from stages.serving.metrics import Metrics
from stages.serving.settings import Settings

CLOSE = {"connection": "close"}
RETRY = {"retry-after": "1"}

# JSON takes many times its bytes while it is read, and the time of all other requests.
JSON_BYTES = 16 * 2**20

# Who sends more than is taken reads the answer only after having sent all of it, or so much, or for
# so many seconds.
DISCARDED_BYTES, DISCARDED_SECONDS = 64 * 2**20, 5.0


class File(NamedTuple):
    """An image file of a request, by the name that it came with; or why it cannot be read."""

    name: str | None
    data: bytes = b""
    error: str | None = None


class Held:
    """Bytes of all requests that are not answered yet, counted in `metrics`."""

    def __init__(self, metrics: Metrics) -> None:
        self.bytes, self._metrics = 0, metrics

    def add(self, count: int) -> None:
        self.bytes += count
        self._metrics.held(self.bytes)


class Body:
    """The body of `request`, as it comes; counts in `held` until `release`."""

    def __init__(self, request: Request, settings: Settings, held: Held):
        self._request, self._settings, self._held = request, settings, held
        self._size = 0
        self.finished = False  # all of it has come

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Raises `HTTPException` at the first byte that is too much."""
        most = self._settings.request_bytes
        declared = self._request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > most:
            raise too_large(f"the request has more than {most:,} bytes")
        while not self.finished:
            chunk = await self._receive()
            if self._size + len(chunk) > most:
                raise too_large(f"the request has more than {most:,} bytes")
            if self._held.bytes + len(chunk) > self._settings.held_bytes:
                raise busy()
            self._size += len(chunk)
            self._held.add(len(chunk))
            yield chunk
            await asyncio.sleep(0)  # lets others in, whatever is made of it

    async def read(self, most: int | None = None) -> bytes:
        """All of it. Raises `HTTPException` if these are more than `most` bytes."""
        chunks = []
        async for chunk in self.chunks():
            chunks.append(chunk)
            if most is not None and self._size > most:
                raise too_large(f"the request has more than {most:,} bytes of JSON")
        return b"".join(chunks)

    async def discard(self) -> None:
        """Read what still comes, within reason: else the connection breaks before the answer."""
        if self._request.headers.get("expect"):
            return  # waits for our answer with all of it
        left = DISCARDED_BYTES
        try:
            async with asyncio.timeout(DISCARDED_SECONDS):
                while not self.finished and left > 0:
                    left -= len(await self._receive())
        except (TimeoutError, ClientDisconnect):
            pass

    def release(self) -> None:
        self._held.add(-self._size)
        self._size = 0

    async def _receive(self) -> bytes:
        message = await self._request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        self.finished = not message.get("more_body", False)
        return message.get("body", b"")


def too_large(message: str) -> HTTPException:
    return HTTPException(413, message)


def busy() -> HTTPException:
    return HTTPException(503, "too much to do at the moment; try again", RETRY)


# The images of POST /predict.


class _Images(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    images: list[str]


class _InMemory(MultiPartParser):
    spool_max_size = sys.maxsize  # nothing is written to a disk


async def read_files(request: Request, body: Body, most: int) -> list[File]:
    """The images of `request`: a form with files, JSON {"images": [base64, ...]}, or an image.

    Raises `HTTPException` for anything else, and for more than `most`.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        files = await _read_form(request, body, most)
    elif kind == "application/json":
        files = _read_json(await body.read(JSON_BYTES), most)
    elif kind.startswith("image/") or kind in ("", "application/octet-stream"):
        data = await body.read()
        files = [File(None, data)] if data else []
    else:
        raise HTTPException(
            415,
            "send a form with image files (multipart/form-data), an image (image/jpeg and others), "
            'or JSON {"images": [base64, ...]} (application/json)',
        )
    if not files:
        raise HTTPException(400, "the request has no images")
    if len(files) > most:
        raise too_large(f"the request has {len(files):,} images, where {most} are taken")
    return files


async def _read_form(request: Request, body: Body, most: int) -> list[File]:
    try:
        # One more than may be, so that the message is ours.
        parser = _InMemory(request.headers, body.chunks(), max_files=most, max_fields=most)
        form = await parser.parse()
    except MultiPartException as error:
        status = 413 if error.message.startswith("Too many") else 400
        raise HTTPException(status, f"the form cannot be read: {error.message}") from None
    files = []
    for name, value in form.multi_items():
        if not isinstance(value, UploadFile):
            raise HTTPException(400, f"the field {name!r:.100} of the form is no file")
        files.append(File(value.filename, await value.read()))
    return files


def _read_json(body: bytes, most: int) -> list[File]:
    check_json(body, 4 * most + 100)
    try:
        images = _Images.model_validate_json(body).images
    except ValidationError as error:
        raise HTTPException(
            400, f'expected JSON {{"images": [base64, ...]}}: {first_error(error)}'
        ) from None
    return [_of_base64(text) for text in images]


def _of_base64(text: str) -> File:
    data, error = from_base64(text)
    return File(None, data, error)


def from_base64(text: str) -> tuple[bytes, str | None]:
    """What `text` stands for, or why it does for nothing."""
    try:
        return binascii.a2b_base64(text, strict_mode=True), None
    except ValueError:  # also of text that is not ASCII
        return b"", "not base64"


def check_json(body: bytes, values: int) -> None:
    """Raise `HTTPException` for JSON of more than `values` values, which would fill the memory.

    Strings of base64 hold none of what is counted here.
    """
    if body.count(b",") + body.count(b"[") + body.count(b"{") > values:
        raise HTTPException(400, f"the JSON has more than {values:,} values")


def first_error(error: ValidationError) -> str:
    """What is wrong with JSON, in a line, without what was sent."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"]))[:100]
    return f"{where}: {first['msg']}" if where else first["msg"]
