"""The evaluate stage."""

from stages.errors import run
from stages.parameters import read_parameters


def main() -> None:
    read_parameters()
    raise NotImplementedError


if __name__ == "__main__":
    run(main)
