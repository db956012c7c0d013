"""Warnings and errors of the commands that read runs, one line each."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from analysis.run.frame import RunWarning
from bench.errors import UserError


@contextmanager
def user_messages(source: str = "") -> Iterator[None]:
    """Print what is warned of inside to stderr at the end; raise a ValueError as a `UserError`.

    Args:
        source: where the runs come from, put before an error that names neither it nor W&B.

    Raises:
        UserError: inside, a ValueError was raised.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RunWarning)
        try:
            yield
        except ValueError as error:
            text = str(error)
            named = source in text or "wandb:" in text
            raise UserError(text if named else f"{source}: {text}") from error
        finally:
            for warning in caught:
                print(f"warning: {warning.message}", file=sys.stderr)


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Make the folder of the file ``out=``, which is written inside.

    Raises:
        UserError: it cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(f"out={out}: {error.strerror}; name another file") from error
