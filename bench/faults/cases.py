"""A case and its outcome, the count of outcomes, and the places where cases run."""

import hashlib
import os
import random
import re
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ACCEPTED, REJECTED = "accepted", "rejected"
# What the last line calls the accepted cases of a kind.
ACCEPTED_IS = {"images": "decoded", "kills": "resumed"}
EXAMPLES = 20  # of faults, named in the last line of the program


class Outcome(NamedTuple):
    """What became of a case: accepted, rejected with a reason, or the name of a fault.

    `note` is a fact worth counting that is neither, such as a kill that came too late; `log` is
    all there is to read about it.
    """

    verdict: str
    detail: str = ""
    note: str = ""
    log: str = ""

    @property
    def is_fault(self) -> bool:
        return self.verdict not in (ACCEPTED, REJECTED)


def case_random(seed: int, kind: str, number: int) -> random.Random:
    """The random numbers of one case: the same whichever cases run before or beside it."""
    return random.Random(f"{seed}:{kind}:{number}")


class Tally:
    """Counts the outcomes of a kind of case and prints how far it is."""

    def __init__(self, kind: str, total: int):
        self.kind, self.total = kind, total
        self.verdicts: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self.examples: list[str] = []
        self._printed = time.monotonic()

    def add(self, number: int, outcome: Outcome) -> None:
        self.verdicts[outcome.verdict] += 1
        if outcome.note:
            self.notes[outcome.note] += 1
        if outcome.is_fault:
            line = f"{self.kind}:{number} {outcome.verdict}: {one_line(outcome.detail, 300)}"
            print(f"  {line}", flush=True)
            if len(self.examples) < EXAMPLES:
                self.examples.append(line)
        done = self.verdicts.total()
        if done == self.total or time.monotonic() - self._printed > 10:
            self._printed = time.monotonic()
            print(f"{self.kind}: {done:,} of {self.total:,}, {self.faults:,} faults", flush=True)

    @property
    def faults(self) -> int:
        """Number of cases that ended in a fault."""
        return sum(
            count for name, count in self.verdicts.items() if name not in (ACCEPTED, REJECTED)
        )

    def figures(self) -> dict:
        """tried = accepted + rejected + other; `faults` and `examples` say what the others are."""
        named = {
            name: count
            for name, count in sorted(self.verdicts.items())
            if name not in (ACCEPTED, REJECTED)
        }
        return {
            "tried": self.verdicts.total(),
            ACCEPTED_IS.get(self.kind, ACCEPTED): self.verdicts[ACCEPTED],
            "rejected": self.verdicts[REJECTED],
            "other": self.faults,
            **({"faults": named} if named else {}),
            **({"notes": dict(sorted(self.notes.items()))} if self.notes else {}),
            **({"examples": self.examples} if self.examples else {}),
        }


def one_line(text: str, most: int) -> str:
    """`text` on one line of at most `most` printable characters."""
    text = ascii(" ".join(text.split()))[1:-1]
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def traceback_outcome(log: str) -> Outcome:
    """A fault: `log` has a traceback. The detail is its last exception, and where it was raised."""
    lines = log.splitlines()
    raised = [n for n, line in enumerate(lines) if re.match(r"[A-Za-z_][\w.]*(: |$)", line)]
    where = [line.strip() for line in lines if re.match(r"  File .*/stages/", line)]
    what = lines[raised[-1]] if raised else log
    place = where[-1].split("/stages/")[-1].replace('"', "") if where else "no file of stages"
    return Outcome("traceback", f"{one_line(what, 160)} (stages/{place})", log=log)


class Place:
    """A folder to run a case in, deep within folders of its own in which nothing may change.

    `project` is the case's; whatever else appears, changes or vanishes below `top` was written
    outside of it.
    """

    def __init__(self, top: Path):
        self.top, self.project = top, top / "above" / "beside" / "project"
        self.project.mkdir(parents=True)
        for folder in (top, top / "above", top / "above" / "beside"):
            (folder / "canary.txt").write_text("nobody writes here")
        self._before = self._outside()

    def written_outside(self) -> list[str]:
        """What differs around the project from how it was made."""
        after = self._outside()
        return sorted(
            str(path)
            for path in self._before.keys() | after.keys()
            if self._before.get(path) != after.get(path)
        )

    def _outside(self) -> dict[Path, bytes]:
        return tree(self.top, leave_out=self.project)


def tree(folder: Path, leave_out: Path | None = None) -> dict[Path, bytes]:
    """Every path below `folder`, relative to it, with a digest of what it holds.

    The digest of a folder is empty, of a link its target. What is below `leave_out` is left out.
    """
    found = {}
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if Path(place, name) != leave_out]
        for name in [*folders, *files]:
            path = Path(place, name)
            if path.is_symlink():
                digest = os.fsencode(os.readlink(path))
            elif path.is_file():
                digest = hashlib.sha256(path.read_bytes()).digest()
            else:
                digest = b""
            found[path.relative_to(folder)] = digest
    return found


def differences(found: dict[Path, bytes], expected: dict[Path, bytes]) -> list[str]:
    """What is missing from `found`, what it has more than `expected`, and what differs."""
    lines = []
    for path in sorted(found.keys() | expected.keys()):
        if path not in found:
            lines.append(f"{path} is missing")
        elif path not in expected:
            lines.append(f"{path} was left over")
        elif found[path] != expected[path]:
            lines.append(f"{path} differs")
    return lines


def first(lines: Iterable[str], most: int = 4) -> str:
    """The first of `lines` on one line."""
    lines = list(lines)
    more = f"; and {len(lines) - most} more" if len(lines) > most else ""
    return "; ".join(lines[:most]) + more
