"""Errors that are the user's to mend: one clear line, no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what was asked for; its text says what, where and what to do instead."""


class RunsFailedError(Exception):
    """Some runs of a sweep failed; its text names them by their overrides."""


def suggestion(word: str, choices: Iterable[str]) -> str:
    """Return "did you mean X? choices: X, Y, Z", without the question where nothing is near."""
    known = sorted(set(choices))
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{hint}choices: {', '.join(known) or 'none'}"
