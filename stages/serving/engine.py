"""The exported model at work: threads that decode an image and classify it, behind a queue that
holds no more than it may.

As many images are at work as there are cores, each on one: one after the other, decoding and HTTP
would leave cores idle, and an image that two cores share takes 5 % more of their time. Each goes
through the model alone: with EfficientNet-Lite0 batches of 8 took 1 % less time by ONNX Runtime and
3 % by LiteRT, and 10 MB for each of their images.
"""

import asyncio
import ctypes
import io
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from stages.errors import UserError
from stages.images.decode import UnreadableImage, decode
from stages.images.formats import formats
from stages.inference.exported import Observe, load_runtimes
from stages.inference.seen import Seen
from stages.serving.metrics import Metrics
from stages.serving.settings import Settings
from stages.store.exported import FILES

# Of a probability, to that of the Keras model: of a float format, which is what it is for; of whole
# numbers, which only have to be sane.
TOLERANCE = {False: 0.01, True: 0.9}


class Busy(Exception):
    """The queue is full."""


class Looked(NamedTuple):
    """What the model makes of the images at `positions`, and why there is nothing to see at others.

    `seen` has a row for each of `positions`.
    """

    positions: list[int]
    seen: Seen
    errors: dict[int, str]


class Engine:
    """Classifies image files, or pixels, in `settings.threads` threads.

    Raises `UserError` for a model that is none, or that gives other answers for its golden images
    here than where it was exported.
    """

    def __init__(self, settings: Settings, metrics: Metrics):
        self.exported, runtimes = load_runtimes(settings.model, settings.threads)
        self.waiting = 0  # images that were accepted and are not answered yet
        self._settings, self._metrics = settings, metrics
        self._runtimes: SimpleQueue[Observe] = SimpleQueue()
        for runtime in runtimes:
            self._try(runtime)
            self._runtimes.put(runtime)
        self._pool = ThreadPoolExecutor(settings.threads, "classify")
        _give_back()

    @property
    def full(self) -> bool:
        return self.waiting >= self._settings.queue

    async def look(self, images: Sequence[bytes] | np.ndarray) -> Looked:
        """Classify image files, or pixels uint8 (n, height, width, channels), n > 0.

        No more images of a request than there are threads are in their queue, so that requests
        with few get between. Raises `Busy` if more would wait than may.
        """
        count = len(images)
        if self.waiting and self.waiting + count > self._settings.queue:
            raise Busy
        loop = asyncio.get_running_loop()
        found: list[Seen | str] = [""] * count
        left = iter(range(count))

        async def work() -> None:
            for position in left:
                image = images[position]
                found[position] = await loop.run_in_executor(self._pool, self._look, image)

        self.waiting += count
        try:
            await asyncio.gather(*(work() for _ in range(min(count, self._settings.threads))))
        finally:
            self.waiting -= count
        rows = {at: one for at, one in enumerate(found) if not isinstance(one, str)}
        none = Seen.empty(len(self.exported.classes), self.exported.sizes)
        return Looked(
            list(rows),
            Seen.together([none, *rows.values()]),
            {at: one for at, one in enumerate(found) if isinstance(one, str)},
        )

    def close(self) -> None:
        """Wait for what is being classified; forget the rest."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _look(self, image: bytes | np.ndarray) -> Seen | str:
        """What the model makes of a file or of pixels (height, width, channels): one row, or what
        is wrong with it."""
        start = time.perf_counter()
        try:
            pixels = self._decode(image) if isinstance(image, bytes) else image
        except UnreadableImage as error:
            self._metrics.unreadable()
            return str(error)
        decoded = time.perf_counter()
        runtime = self._runtimes.get()
        try:
            seen = runtime(pixels[None])
        finally:
            self._runtimes.put(runtime)
        self._metrics.looked(decoded - start, time.perf_counter() - decoded)
        if not np.isfinite(seen.probabilities).all():
            return "the model gives no numbers (NaN)"
        return seen

    def _decode(self, data: bytes) -> np.ndarray:
        _check_pixels(data, self._settings.pixels)
        return decode(data, self.exported.preprocess)

    def _try(self, runtime: Observe) -> None:
        """Compare what `runtime` makes of the golden images with what Keras made of them."""
        model = self._settings.model
        for one in self.exported.golden:
            try:
                pixels = self._decode((model.parent / one.image).read_bytes())
            except UnreadableImage as error:
                raise UserError(f"{model.parent / one.image}: {error}; export it anew") from None
            found = runtime(pixels[None]).probabilities[0]
            worst = np.abs(found - one.probabilities).max()
            if not worst <= TOLERANCE[model.name == FILES["litert_int8"]]:
                raise UserError(
                    f"{model} gives another answer here than where it was exported: a probability "
                    f"of {one.image} differs by {worst:.2g}; install the packages of the lock, or "
                    "export it anew"
                )


def _give_back() -> None:
    """Let the system have the memory that loading took: a quarter of all with ONNX Runtime."""
    with suppress(AttributeError, OSError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def _check_pixels(data: bytes, most: int) -> None:
    """Raise `UnreadableImage` if the image file `data` says that it has more pixels than `most`."""
    try:
        if data[:3] == b"\xff\xd8\xff":
            height, width, *_ = simplejpeg.decode_jpeg_header(data)
        else:
            with Image.open(io.BytesIO(data), formats=formats(data)) as image:
                width, height = image.size
    except Exception:
        return  # what is wrong with it, decoding will tell
    if width * height > most:
        raise UnreadableImage(
            f"too large: {width} x {height} pixels, where {most:,} are taken; save it smaller"
        )
