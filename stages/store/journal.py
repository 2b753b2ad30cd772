"""A record of work as it is done, which a kill at any moment leaves readable.

One line a document, which begins with its own digest: a line that was cut short or damaged is
told from a whole one and left out.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path


class Journal:
    """Appends documents, which JSON can hold, to the new file `path`."""

    def __init__(self, path: str | Path):
        self._file = open(path, "xb", buffering=0)  # noqa: SIM115  closed by `close`

    def append(self, document: dict) -> None:
        text = json.dumps(document).encode()
        self._file.write(_digest(text) + b" " + text + b"\n")

    def close(self) -> None:
        self._file.close()


def read_journal(path: str | Path) -> Iterator[dict]:
    """The documents of the file `path` that are as they were written, in order."""
    with open(path, "rb") as file:
        for line in file:
            digest, _, text = line.rstrip(b"\n").partition(b" ")
            if digest == _digest(text):
                yield json.loads(text)


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:32].encode()
