"""What the commands that read runs tell their user: warnings and errors, one line each."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

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
