"""What an earlier stage was to leave behind, and how it is said that it did not."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.errors import UserError


@contextmanager
def made_by(stage: str, path: str | Path) -> Iterator[None]:
    """Around the reading of `path`, a file or folder that `stage` makes.

    Raises `UserError` if it is missing, or is not what the stage writes.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename or path} is missing; the {stage} stage makes it: dvc repro {stage}"
        ) from None
    except PermissionError:
        raise
    # What json, csv, Arrow and NumPy raise on a file that was cut short or edited by hand.
    except (ValueError, LookupError, TypeError, AttributeError, EOFError, OSError) as error:
        said = str(error).strip() or type(error).__name__
        raise UserError(
            f"{path} is damaged ({said.splitlines()[0]}); the {stage} stage makes it anew: "
            f"dvc repro {stage}"
        ) from None
