"""Names between a launch and those who use it: its options as typed, what its workers are told.

The compile key: which runs compile the same code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

# The variable that tells a process how many share its device.
PACKED = "SPECTRAL_BENCH_PACKED"

# Short for hydra.launcher.<name>: those that a user gives from one launch to the next.
LAUNCH_OPTIONS = ("retry", "wait", "pack", "workers", "fail_fast_after", "time")


def spelled_out(words: Sequence[str]) -> list[str]:
    """Return a command line with short launch options written as Hydra knows them."""
    return [
        f"hydra.launcher.{word}"
        if word.partition("=")[0] in LAUNCH_OPTIONS and "=" in word
        else word
        for word in words
    ]


def compile_key(config: Mapping[str, Any]) -> str:
    """Return the compile key of a run: all that decides its code, so no seed, schedule or rate.

    ``config`` is a whole run's, as a launch keeps it; for a typed one see ``bench.setup``.
    """
    optimizer = {key: value for key, value in config["optimizer"].items() if key != "lr"}
    return json.dumps([config["model"], config["dataset"], optimizer, config["trainer"]])
