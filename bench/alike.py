"""Which runs compile the same code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def code_of(config: Mapping[str, Any]) -> str:
    """Return what decides the code that a run compiles: all but seed, schedule, learning rate.

    ``config`` is a whole run's, as a launch keeps it; for a typed one see ``bench.device``.
    """
    optimizer = {key: value for key, value in config["optimizer"].items() if key != "lr"}
    return json.dumps([config["model"], config["dataset"], optimizer, config["trainer"]])
