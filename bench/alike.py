"""The compile key: which runs compile the same code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def compile_key(config: Mapping[str, Any]) -> str:
    """Return the compile key of a run: all that decides its code, so no seed, schedule or rate.

    ``config`` is a whole run's, as a launch keeps it; for a typed one see ``bench.device``.
    """
    optimizer = {key: value for key, value in config["optimizer"].items() if key != "lr"}
    return json.dumps([config["model"], config["dataset"], optimizer, config["trainer"]])
