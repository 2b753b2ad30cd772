"""What the service counts, for Prometheus.

Several workers count in files of shared memory, which the worker that is asked adds up: figures are
those of all of them (the multiprocess mode of prometheus_client).
"""

import os
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from stages.serving.settings import SHARED

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """Counters of one worker, and the text that tells those of all."""

    def __init__(self) -> None:
        disable_created_metrics()
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "http_requests", "Requests answered.", ("route", "method", "status"), registry=registry
        )
        self._seconds = Histogram(
            "http_request_seconds",
            "From the headers of a request to the end of its answer.",
            ("route",),
            buckets=SECONDS,
            registry=registry,
        )
        self._stages = Histogram(
            "image_seconds",
            "What an image takes, decoding and in the model.",
            ("stage",),
            buckets=SECONDS,
            registry=registry,
        )
        self._unreadable = Counter(
            "images_unreadable", "Images that could not be decoded.", registry=registry
        )
        self._predicted = Counter(
            "images_predicted",
            "Images by their most probable class.",
            ("class",),
            registry=registry,
        )
        self._unlike = Counter(
            "images_unlike", "Images unlike those trained on.", registry=registry
        )
        self._active = Gauge(
            "http_requests_active",
            "Requests that are being answered.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._held = Gauge(
            "http_request_bytes_held",
            "Bytes of the requests that are not answered yet.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        if SHARED in os.environ:
            _forget_the_dead(Path(os.environ[SHARED]))

    def began(self) -> None:
        self._active.inc()

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        self._active.dec()
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def held(self, count: int) -> None:
        self._held.set(count)

    def looked(self, decoding: float, model: float) -> None:
        self._stages.labels("decode").observe(decoding)
        self._stages.labels("model").observe(model)

    def unreadable(self) -> None:
        self._unreadable.inc()

    def predicted(self, name: str, unlike: bool | None) -> None:
        self._predicted.labels(name).inc()
        if unlike:
            self._unlike.inc()

    def text(self) -> bytes:
        """All figures, in Prometheus' text format."""
        registry = self._registry
        if SHARED in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return generate_latest(registry)


def _forget_the_dead(folder: Path) -> None:
    """Requests that a worker was at when it died are at work no longer."""
    for file in folder.glob("gauge_livesum_*.db"):
        pid = int(file.stem.rpartition("_")[2])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            mark_process_dead(pid)
