"""One run in this process, whatever comes of it."""

from __future__ import annotations

import sys
import traceback
from typing import Literal

from bench.config import RunConfig
from bench.failure import kind_of, reason_of
from bench.identity import identify
from bench.launch.standing import run_folder
from bench.run import BusyError
from bench.train import stored_config, train

Outcome = Literal["done", "failed", "busy"]


def execute(config: RunConfig, *, patient: bool = False) -> Outcome:
    """Carry out a run; a failure is written into its folder, status and log, and goes no further.

    "busy": another process is working on it. ``patient``: see ``RunFolder.acquire``.

    Raises:
        StopRequested, KeyboardInterrupt: the run can be continued.
    """
    try:
        train(config, patient=patient)
    except BusyError as error:
        print(f"left alone: {error}", file=sys.stderr, flush=True)
        return "busy"
    except Exception as error:
        folder = run_folder(config, identify(config).id)
        folder.path.mkdir(parents=True, exist_ok=True)
        with (folder.path / "log.txt").open("a") as log:
            traceback.print_exc(file=log)
        if not folder.config:
            folder.begin(stored_config(config, identify(config)), {})
        folder.set_status("failed", reason_of(error), kind=kind_of(error))
        print(f"{folder.path.name}: failed, {reason_of(error)}", file=sys.stderr, flush=True)
        return "failed"
    return "done"
