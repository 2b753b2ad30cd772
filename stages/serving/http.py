"""HTTP as uvicorn speaks it, with limits that it has none for, and what it logs as JSON lines."""

import asyncio
import json
import logging
import socket
import time
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

STUCK_MILLISECONDS = 30_000  # that a client may take nothing of an answer

ANSWER = (
    b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
    b"connection: close\r\n%s\r\n%s"
)


class Protocol(H11Protocol):
    """A connection that is closed if the headers of a request take too long to come.

    uvicorn waits for the first request for ever, and from the first byte of each; beyond
    `limit_concurrency` connections it answers in plain text. What it cannot read it answers with
    400; the length of headers is bounded by h11.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        most, self.limit_concurrency = self.limit_concurrency, None
        self._head: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        # asyncio does so too, but not for a socket that was opened without naming TCP: the second
        # write of an answer, its body, would wait 40 ms for the client's acknowledgment.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STUCK_MILLISECONDS)
        if most and len(self.connections) > most:
            self._refuse(503, b"Service Unavailable", "too many connections; try again")
        else:
            self._watch_head()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch_head()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, b"Bad Request", msg)

    def _watch_head(self) -> None:
        if self.transport.is_closing() or self.conn.their_state is not h11.IDLE:
            self._unwatch_head()
        elif self._head is None:
            self._head = self.loop.call_later(self.timeout_keep_alive, self._close_idle)

    def _unwatch_head(self) -> None:
        if self._head:
            self._head.cancel()
            self._head = None

    def _close_idle(self) -> None:
        self._head = None
        if self.conn.trailing_data[0]:
            self._refuse(408, b"Request Timeout", "the headers took too long")
        else:
            self.transport.close()

    def _refuse(self, status: int, phrase: bytes, message: str) -> None:
        """Answer without a request, unless one is being answered, and close."""
        if not self.transport.is_closing():
            if (
                self.cycle is None
                or not self.cycle.response_started
                or self.cycle.response_complete
            ):
                body = json.dumps({"error": message}).encode()
                more = b"retry-after: 1\r\n" if status == 503 else b""
                self.transport.write(ANSWER % (status, phrase, len(body), more, body))
            self.transport.close()


class JsonLines(logging.Formatter):
    """Each record as a line of JSON; `extra={"fields": {...}}` adds to it."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)  # ASCII: nothing in it ends the line or moves a cursor


LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "stages.serving.http.JsonLines"}},
    "handlers": {
        "out": {
            "class": "logging.StreamHandler",
            "stream": "ext://sys.stdout",
            "formatter": "json",
        }
    },
    "loggers": {
        "uvicorn": {"handlers": ["out"], "level": "INFO", "propagate": False},
        "serve": {"handlers": ["out"], "level": "INFO", "propagate": False},
    },
}
