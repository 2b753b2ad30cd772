"""Progress of long work: a bar on a terminal, a line now and then in a log."""

import sys

from tqdm import tqdm

SECONDS_BETWEEN_LOG_LINES = 10.0


def progress(total: int | None, unit: str, what: str, initial: int = 0) -> tqdm:
    """A tqdm counter for `what`, with rate and remaining time, on standard error.

    Call `update(n)` on it and use it as a context manager. `unit="B"` counts bytes and is
    shown in KiB, MiB, ... Work that ends within a second or so prints nothing.
    """
    on_terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=initial,
        desc=what,
        unit=unit if unit == "B" else f" {unit}",
        unit_scale=unit == "B",
        unit_divisor=1024,
        delay=1.0,
        mininterval=0.1 if on_terminal else SECONDS_BETWEEN_LOG_LINES,
        maxinterval=SECONDS_BETWEEN_LOG_LINES,
        dynamic_ncols=on_terminal,
        ascii=None if on_terminal else True,
        file=sys.stderr if on_terminal else _LogLines(),
        leave=on_terminal,
    )


class _LogLines:
    """Standard error, with tqdm's carriage returns turned into whole lines."""

    def write(self, text: str) -> None:
        text = text.replace("\r", "").strip()
        if text:
            sys.stderr.write(text + "\n")

    def flush(self) -> None:
        sys.stderr.flush()
