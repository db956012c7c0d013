"""Errors that are the user's to mend: one clear line, no traceback.

That a package is not installed is said with the extra of this project that brings it.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import os
import re
import select
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO


class UserError(Exception):
    """A mistake in what was asked for; its text says what, where and what to do instead."""


class MissingHereError(UserError):
    """What a valid config needs is not on this machine: a device, data, a file or a package."""


class RunsFailedError(Exception):
    """Some runs of a sweep failed; its text names them by their overrides."""


@contextmanager
def piped() -> Iterator[None]:
    """End quietly, with status 141, where the reader of what is printed (``| head``) has gone."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        gone = [stream for stream in (sys.stdout, sys.stderr) if _is_unread(stream)]
        if not gone:  # another pipe is broken
            raise
        for stream in gone:  # which Python flushes once more at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None


def _is_unread(stream: IO[str]) -> bool:
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def suggestion(word: str, choices: Iterable[str]) -> str:
    """Return "did you mean X? choices: X, Y, Z", without the question where nothing is near."""
    known = sorted(set(choices))
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{hint}choices: {', '.join(known) or 'none'}"


PROJECT = "spectral-bench"


def needed(error: BaseException) -> str | None:
    """Return how to install what a failed import lacks; None if no extra of ours brings it.

    The name of a module is taken for that of its package but for case and separators, as in
    pytorch_optimizer and pytorch-optimizer.
    """
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    wanted = canonical(error.name.split(".")[0])
    try:
        requirements = importlib.metadata.requires(PROJECT) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for requirement in requirements:
        package = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"""extra\s*==\s*['"]([\w.-]+)['"]""", requirement)
        if package and extra and canonical(package[0]) == wanted:
            return f"needs the `{extra[1]}` extra: pip install '{PROJECT}[{extra[1]}]'"
    return None


def import_failure(target: str, error: Exception) -> Exception:
    """Return why ``target`` cannot be imported, where ``error`` may only say that it is not there.

    pkgutil.resolve_name takes a module whose own imports fail for an attribute that is missing.
    """
    module = target.rpartition(".")[0]
    if not isinstance(error, AttributeError) or not module:
        return error
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as missing:  # the module itself is not there: error says so
        return error if f"{module}.".startswith(f"{missing.name}.") else missing
    except Exception as deeper:
        return deeper
    return error


def canonical(name: str) -> str:
    """Return a package's name as indices spell it: pytorch-optimizer for pytorch_optimizer."""
    return re.sub(r"[-_.]+", "-", name).lower()
