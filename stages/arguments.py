"""Arguments of the programs that are no stages: a mistake is one line, as everywhere."""

import argparse
from typing import NoReturn

from stages.errors import UserError


class Parser(argparse.ArgumentParser):
    """Parser of the arguments of `python -m stages.NAME`; `text` is what --help tells.

    Arguments that do not fit raise `UserError`.
    """

    def __init__(self, name: str, text: str | None):
        super().__init__(
            prog=f"python -m stages.{name}",
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def count(value: str) -> int:
    """The type of an argument that is a whole number of at least 1."""
    if not value.isdecimal() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a whole number of at least 1")
    return int(value)
