"""What a service is started with: the model, and how much it takes on."""

from dataclasses import dataclass
from pathlib import Path

# The folder in which workers count, as prometheus_client calls it.
SHARED = "PROMETHEUS_MULTIPROC_DIR"


@dataclass(frozen=True)
class Settings:
    """The model and the limits of each worker; those of time are in seconds.

    What a worker holds at once is bounded by `held_bytes` of requests and by `threads` images that
    are being decoded, whatever is sent and however fast.
    """

    model: Path
    threads: int = 1  # that decode and classify
    request_bytes: int = 32 * 2**20
    held_bytes: int = 128 * 2**20  # of all requests that are not answered yet
    pixels: int = 50_000_000  # that an image may say it has
    images: int = 64  # in a request
    queue: int = 128  # images that wait; who comes later shall try again
    seconds: float = 30  # for a request, from its headers to the answer
    idle: float = 10  # for the headers of the next request on a connection
    connections: int = 512

    @property
    def name(self) -> str:
        """Of the model, in URLs."""
        return self.model.stem
