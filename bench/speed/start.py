"""How long `bench.speed.epoch`'s own loops take to start, with an empty and with a filled cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.errors import UserError

# A graph is tried at the third step, and nothing is new after it.
_ONCE = {"plain": False, "profile": False, "start": False, "epochs": 1, "steps": 4}


def starts(asked: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return seconds of compilation and warm-up of our loops, in order, by the cache's state.

    ``asked`` are the command's options. Two processes follow each other on one cache of compiled
    code, a folder that is "empty" for the first and "filled" by it for the second.

    Raises:
        UserError: one of them failed.
    """
    found = {}
    with tempfile.TemporaryDirectory(prefix="spectral-bench-") as name:
        out = Path(name) / "start.json"
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(Path(name) / "cache")}
        environment.pop("TRITON_CACHE_DIR", None)  # else it would be beside, and not empty
        for state in ("empty", "filled"):
            done = subprocess.run(
                [sys.executable, "-m", "bench.speed.epoch", *arguments({**asked, "out": out})],
                env=environment, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode != 0:
                reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise UserError(f"start=true: the process with the {state} cache failed: {reason}")
            rows = json.loads(out.read_text())["rows"]
            found[state] = [row["preparation"] for row in rows]
    return found


def arguments(asked: Mapping[str, Any]) -> list[str]:
    """Return the command line for these options, of our loops' first steps only."""
    return [f"{key}={_word(value)}" for key, value in {**asked, **_ONCE}.items()]


def _word(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(value)
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )
