"""Atomic file writes: a reader sees the old file or the new one, never half of one.

Here is also settled where the config tree and the sweeps lie: in the checkout, or beside an
installed package.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any


def is_name(text: object) -> bool:
    """Return whether ``text`` may name a file or folder among others: no path, not hidden.

    What comes from a file of somebody else's, or from a server, must not name a place elsewhere.
    """
    return isinstance(text, str) and text.isprintable() and text[:1] not in "." and "/" not in text


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it over ``path``."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    write_atomically(path, lambda stream: stream.write(text.encode()))


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in ``path``; None where the file is absent or not whole JSON."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):  # the last: nested without end
        return None
    return value if isinstance(value, dict) else None


def write_json_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, atomically."""
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    write_atomically(path, lambda stream: stream.write(text.encode()))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the rows of ``path``; none where it does not exist."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


_SITE = Path(__file__).resolve().parent.parent


def home() -> Path:
    """Return the folder that holds ``conf/`` and ``sweeps/``, whatever the working directory.

    Raises:
        FileNotFoundError: neither a checkout nor a complete installation is around this file.
    """
    for candidate in (_SITE, _SITE / "spectral_bench_shipped"):
        if (candidate / "conf" / "train.yaml").is_file():
            return candidate
    raise FileNotFoundError(
        f"no conf/train.yaml near {_SITE}: the installation is incomplete; reinstall spectral-bench"
    )


def conf_dir() -> Path:
    """Return the root of the config tree."""
    return home() / "conf"
