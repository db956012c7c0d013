"""How far a benchmark is, on standard error: the minutes before its table are not silent."""

from __future__ import annotations

import sys
import time

_START = time.monotonic()


def say(text: str) -> None:
    """Print ``text`` after the seconds since the process came here."""
    print(f"[{time.monotonic() - _START:4.0f} s] {text}", file=sys.stderr, flush=True)
