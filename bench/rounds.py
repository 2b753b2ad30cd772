"""Two or more programs measured in turns, each in a process of its own, in one run.

What else the machine does meets all sides alike, and what one side switches on for its whole
process (deterministic kernels, number formats) stays with it.
"""

import multiprocessing
import statistics
from collections.abc import Callable

_spawn = multiprocessing.get_context("spawn")


def measure_in_turns(sides: dict[str, tuple[Callable, tuple]], rounds: int) -> dict[str, list]:
    """Images/s of every side in every round; see `compare`.

    A side is a function and its arguments. The function gets a further argument first, a
    `Turn`, and calls `turn.done(images_per_second)` after every round, whose return value says
    whether there is another; the first round warms up and does not count.
    """
    turns = {}
    for name, (function, arguments) in sides.items():
        ours, theirs = _spawn.Pipe()
        process = _spawn.Process(target=_run, args=(function, theirs, arguments), daemon=True)
        process.start()
        theirs.close()
        ours.recv()  # warmed up
        turns[name] = ours
    rates = {name: [] for name in sides}
    for number in range(rounds):
        for name, pipe in turns.items():
            pipe.send(number + 1 < rounds)
            rates[name].append(pipe.recv())
        shown = ", ".join(f"{name} {rate[-1]:,.0f}" for name, rate in rates.items())
        print(f"  round {number + 1}/{rounds}: {shown} images/s", flush=True)
    return rates


def compare(rates: dict[str, list], ours: str, peer: str) -> tuple[dict[str, float], float]:
    """Median images/s of every side, and the median over the rounds of `ours` / `peer`.

    The two of one round ran within seconds of each other, so that their ratio is steadier than
    either.
    """
    ratios = [a / b for a, b in zip(rates[ours], rates[peer], strict=True)]
    medians = {name: round(statistics.median(rate), 1) for name, rate in rates.items()}
    return medians, round(statistics.median(ratios), 3)


class Turn:
    """A side's end of the line."""

    def __init__(self, pipe):
        self._pipe, self._more = pipe, True

    def done(self, images_per_second: float) -> bool:
        """Report a round and wait for the next turn; False after the last."""
        self._pipe.send(images_per_second)
        if self._more:
            self._more = self._pipe.recv()
            return True
        return False


def _run(function, pipe, arguments) -> None:
    function(Turn(pipe), *arguments)
