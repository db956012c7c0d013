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
        return read_whole_json(path)
    except (OSError, ValueError):
        return None


def read_whole_json(path: Path) -> dict[str, Any]:
    """Return the object in ``path``.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not whole JSON, or no object.
    """
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # cut short, not UTF-8, nested without end
        raise ValueError(f"{path}: not whole JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: not a JSON object")
    return value


def write_json_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, atomically."""
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    write_atomically(path, lambda stream: stream.write(text.encode()))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the rows of ``path``, none where it does not exist; a torn last line is dropped.

    Raises:
        ValueError: a line before the last is not JSON.
    """
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(True) if path.exists() else (), 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if not line.endswith(b"\n"):
                break  # the torn tail of a killed run
            raise ValueError(f"{path}, line {number}: not whole JSON") from error
    return rows


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
