"""One run in this process, whatever comes of it."""

from __future__ import annotations

import sys
import time
import traceback
from typing import Literal

from bench.config import RunConfig
from bench.failure import kind_of, reason_of
from bench.identity import identify
from bench.launch.standing import run_folder
from bench.lock import BEAT, STALE
from bench.run import BusyError, RunFolder
from bench.train import stored_config, train

Outcome = Literal["done", "failed", "busy"]


def execute(config: RunConfig, *, patient: bool = False) -> Outcome:
    """Carry out a run; a failure is written into its folder, status and log, and goes no further.

    "busy": another process is working on it. ``patient``: wait until it is clear that it lives;
    the lock of a machine that was lost looks alive for a while.

    Raises:
        StopRequested, KeyboardInterrupt: the run can be continued.
    """
    try:
        try:
            train(config)
        except BusyError:
            if not patient or not _silent(run_folder(config, identify(config).id)):
                raise
            train(config)
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


def _silent(folder: RunFolder) -> bool:
    """Wait for a sign of life from the run's owner; return whether there was none."""
    owner, first = folder.owner, folder.heartbeat
    if owner is not None and owner.here:
        return False
    deadline = time.monotonic() + STALE + BEAT
    while folder.owner is not None and time.monotonic() < deadline:
        if folder.heartbeat != first:
            return False
        time.sleep(1.0)
    return True
