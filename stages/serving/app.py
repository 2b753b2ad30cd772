"""The service: what there is at which address, and what is done around every request."""

import asyncio
import logging
import mimetypes
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stages.inference.answers import answers
from stages.inference.seen import Seen
from stages.serving import open_inference
from stages.serving.bodies import CLOSE, RETRY, Body, File, Held, busy, read_files
from stages.serving.engine import Busy, Engine, Looked
from stages.serving.metrics import CONTENT_TYPE, Metrics
from stages.serving.openapi import describe, page
from stages.serving.page import demo_page
from stages.serving.settings import Settings
from stages.store.names import printable

log = logging.getLogger("serve")

GONE = 499  # nginx's status for a client that did not wait for the answer
PATH_LOGGED = 200  # characters

# Nothing comes from elsewhere, nobody may frame a page of ours, and answers are not kept.
SECURITY = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
    ),
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
LENGTHS = {b"content-length", b"transfer-encoding"}
ENCODED_SECURITY = [(name.encode(), value.encode()) for name, value in SECURITY.items()]

UTF8 = "; charset=utf-8"
TYPES = {".html": f"text/html{UTF8}", ".js": f"text/javascript{UTF8}", ".css": f"text/css{UTF8}"}


def create_app(settings: Settings) -> ASGIApp:
    """The service over the model of `settings`, which is loaded, tried and warm.

    Raises `UserError` for a model that is none.
    """
    service = Service(settings)
    routes = [
        Route("/predict", service.predict, methods=["POST"]),
        Route("/healthz", service.live),
        Route("/readyz", service.ready),
        Route("/metrics", service.figures),
        Route("/openapi.json", service.openapi),
        Route("/docs", service.docs),
        Route("/v2", service.v2),
        Route("/v2/health/live", service.v2_live),
        Route("/v2/health/ready", service.v2_ready),
        Route("/v2/models/{model}", service.v2_model),
        Route("/v2/models/{model}/ready", service.v2_model_ready),
        Route("/v2/models/{model}/infer", service.v2_infer, methods=["POST"]),
        *service.static(),
    ]
    app = Starlette(
        routes=routes,
        lifespan=service.lifespan,
        exception_handlers={
            HTTPException: _error,
            ClientDisconnect: lambda *_: Response(status_code=GONE),
            Exception: lambda request, _: _error(request, HTTPException(500, "a fault of ours")),
        },
    )
    app.router.redirect_slashes = False
    return Watched(app, service.metrics)


def _error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = " ".join(str(error.detail).split())
    return JSONResponse({"error": message}, error.status_code, error.headers)


class Service:
    """The answers of one worker."""

    def __init__(self, settings: Settings):
        self.metrics = Metrics()
        self._settings = settings
        self._engine = Engine(settings, self.metrics)
        self._exported = self._engine.exported
        self._held = Held(self.metrics)
        self._active = 0  # requests that ask the model
        self._draining = False
        self._document = describe(settings, self._exported)

    # While the process lives.

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._drain_before(number, asyncio.get_running_loop())
        yield
        await asyncio.to_thread(self._engine.close)

    def _drain_before(self, number: int, loop: asyncio.AbstractEventLoop) -> None:
        """At the signal `number` first answer what was accepted, then do what uvicorn does.

        Until then the port stays open, so that others are told to go elsewhere.
        """
        stop: Any = signal.getsignal(number)  # uvicorn's

        def drain(number: int, frame: FrameType | None) -> None:
            if self._draining:  # asked again: at once
                stop(number, frame)
            else:
                self._draining = True
                asyncio.run_coroutine_threadsafe(wait(number, frame), loop)

        async def wait(number: int, frame: FrameType | None) -> None:
            log.info("draining", extra={"fields": {"requests": self._active}})
            end = loop.time() + self._settings.seconds
            while self._active and loop.time() < end:
                await asyncio.sleep(0.02)
            stop(number, frame)

        signal.signal(number, drain)

    @asynccontextmanager
    async def _accepted(self, request: Request) -> AsyncIterator[Body]:
        """The body of a request that asks the model, unless there is too much to do.

        Whatever happens: it ends in time, what it held is let go, and the client gets to read the
        answer.
        """
        body = Body(request, self._settings, self._held)
        self._active += 1
        try:
            async with asyncio.timeout(self._settings.seconds):
                try:
                    if self._draining:
                        raise HTTPException(503, "about to stop; try again", RETRY | CLOSE)
                    if self._engine.full:
                        raise busy()
                    yield body
                except Busy:
                    raise busy() from None
                except HTTPException as error:
                    await body.discard()
                    if not body.finished:  # what is left would be taken for the next request
                        error.headers = {**(error.headers or {}), **CLOSE}
                    raise
        except TimeoutError:
            seconds = f"{self._settings.seconds:g} s"
            if body.finished:
                raise HTTPException(503, f"no answer within {seconds}; try again", RETRY) from None
            raise HTTPException(
                408, f"the request took more than {seconds} to come", CLOSE
            ) from None
        finally:
            self._active -= 1
            body.release()

    async def _look(self, request: Request, images: Any) -> Looked:
        """As the engine looks at them; gives up if the client does."""
        task = asyncio.ensure_future(self._engine.look(images))
        gone = asyncio.ensure_future(_end(request))
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientDisconnect
            return task.result()
        finally:
            task.cancel()
            gone.cancel()

    # Classify image files.

    async def predict(self, request: Request) -> Response:
        top_k, heat = self._top_k(request), self._heat(request)
        async with self._accepted(request) as body:
            files = await read_files(request, body, self._settings.images)
            at = [position for position, file in enumerate(files) if not file.error]
            answers = [_unread(file, file.error) for file in files]
            if at:
                looked = await self._look(request, [files[position].data for position in at])
                for position, error in looked.errors.items():
                    answers[at[position]] = _unread(files[at[position]], error)
                found = self._answers(looked.seen, top_k, heat)
                for position, answer in zip(looked.positions, found, strict=True):
                    answers[at[position]] = {"file": _name(files[at[position]]), **answer}
        if all("error" in answer for answer in answers):
            error = f"no image could be read: {answers[0]['error']}"
            return JSONResponse({"error": error, "predictions": answers}, 422)
        return JSONResponse({"predictions": answers})

    def _top_k(self, request: Request) -> int:
        classes = len(self._exported.classes)
        text = request.query_params.get("top_k")
        if text is None:
            return min(self._exported.judgement.top_k, classes)
        if not text.isdecimal() or int(text[:9]) < 1:
            raise HTTPException(400, "top_k must be a whole number of at least 1")
        return min(int(text[:9]), classes)

    def _heat(self, request: Request) -> bool:
        text = request.query_params.get("heat", "false")
        if text not in ("true", "false"):
            raise HTTPException(400, "heat must be true or false")
        return text == "true"

    def _answers(self, seen: Seen, top_k: int, heat: bool) -> Iterator[dict[str, Any]]:
        """For each row of `seen` what is told of the image."""
        exported = self._exported
        told = answers(seen, exported.classes, exported.judgement, top_k)
        for row, answer in enumerate(told):
            self.metrics.predicted(answer.ranked[0][0], answer.unlike)
            fields = answer._asdict()
            ranked = fields.pop("ranked")
            classes = [{"name": name, "probability": share} for name, share in ranked]
            if heat:
                fields["heat"] = None if seen.heat is None else _percents(seen.heat[row])
            yield {"classes": classes, **fields}

    # How it is.

    async def live(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(self, _: Request) -> Response:
        if self._draining:
            return JSONResponse({"error": "about to stop"}, 503)
        return JSONResponse({"status": "ok"})

    async def figures(self, _: Request) -> Response:
        return Response(self.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def openapi(self, _: Request) -> Response:
        return JSONResponse(self._document)

    async def docs(self, _: Request) -> Response:
        return Response(page(self._document), media_type=TYPES[".html"])

    # The Open Inference Protocol.

    async def v2(self, _: Request) -> Response:
        return JSONResponse(open_inference.server_metadata())

    async def v2_live(self, _: Request) -> Response:
        return JSONResponse({"live": True})

    async def v2_ready(self, _: Request) -> Response:
        return JSONResponse({"ready": not self._draining}, 503 if self._draining else 200)

    async def v2_model(self, request: Request) -> Response:
        name = self._model(request)
        metadata = open_inference.model_metadata(
            name, self._settings.model.suffix, self._exported, self._outputs
        )
        return JSONResponse(metadata)

    async def v2_model_ready(self, request: Request) -> Response:
        answer = {"name": self._model(request), "ready": not self._draining}
        return JSONResponse(answer, 503 if self._draining else 200)

    async def v2_infer(self, request: Request) -> Response:
        name = self._model(request)
        async with self._accepted(request) as body:
            inference = open_inference.read(
                await body.read(),
                request.headers.get(open_inference.BINARY),
                self._exported.preprocess.shape,
                self._outputs,
                self._settings.images,
            )
            looked = await self._look(request, inference.images)
            if looked.errors:
                position, error = min(looked.errors.items())
                raise HTTPException(400, f"element {position}: {printable(error)}")
            content, headers = open_inference.answer(name, inference, looked.seen)
        return Response(content, headers=headers)

    @property
    def _outputs(self) -> list[str]:
        """Names of what the model tells; distances only if there is something to compare with."""
        names = [one.name for one in self._exported.outputs]
        known = self._exported.golden and self._exported.golden[0].distance is not None
        return names if known else [name for name in names if name not in ("distance", "nearest")]

    def _model(self, request: Request) -> str:
        if request.path_params["model"] != self._settings.name:
            raise HTTPException(404, f"there is one model here, {self._settings.name}")
        return self._settings.name

    # The demo page: files of this package and of the model's folder, read when the service starts.

    def static(self) -> list[Route]:
        files = demo_page(self._settings.model.parent, self._exported, "server")
        files[""] = files.pop("index.html")
        return [Route(f"/{name}", _sends(name, content)) for name, content in files.items()]


def _percents(heat: np.ndarray) -> list[list[float]]:
    """To two digits: more are not seen, and would be most of the answer."""
    return [[round(value, 2) for value in row] for row in heat.tolist()]


async def _end(request: Request) -> None:
    """Wait until the client of a `request` that has come whole is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _sends(name: str, content: bytes) -> Callable[[Request], Awaitable[Response]]:
    kind = TYPES.get(Path(name or "index.html").suffix)
    kind = kind or mimetypes.guess_type(name)[0] or "application/octet-stream"

    async def send(_: Request) -> Response:
        return Response(content, headers={"content-type": kind})

    return send


def _name(file: File) -> str | None:
    return None if file.name is None else printable(file.name)


def _unread(file: File, error: str | None) -> dict[str, Any]:
    return {"file": _name(file), "error": printable(error or "")}


class Watched:
    """Around the `app`: headers that every answer has, a line in the log, and figures."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        start, status, taken = time.perf_counter(), 500, 0
        # By which of two lengths others in the line went nobody knows: what comes after such a
        # request is not taken for another (RFC 9112, 6.1).
        disputed = {name for name, _ in scope["headers"]} >= LENGTHS
        more = [*ENCODED_SECURITY, *([(b"connection", b"close")] if disputed else [])]

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *more]
            await send(message)

        async def watched_receive() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            return message

        self._metrics.began()
        try:
            await self._app(scope, watched_receive, watched_send)
        finally:
            seconds = time.perf_counter() - start
            route = scope.get("route")
            self._metrics.answered(
                route.path if isinstance(route, Route) else "other",
                scope["method"] if scope["method"] in ("GET", "HEAD", "POST") else "other",
                status,
                seconds,
            )
            fields = {
                "client": (scope.get("client") or ("",))[0],
                "method": scope["method"],
                "path": scope["path"][:PATH_LOGGED],
                "status": status,
                "milliseconds": round(seconds * 1000, 1),
                "bytes": taken,
            }
            log.info("request", extra={"fields": fields})
