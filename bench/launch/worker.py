"""A process that carries out runs one after the other, as a pool asks it to.

    python -m bench.launch.worker LAUNCH

It reads a run's id a line and answers a line of JSON: how it ended. Whatever the run prints goes to
the run's own log. Between runs the process keeps what is slow to get: imports, the dataset, and
the code that was compiled for such runs; everything that decides a result is set anew by each run.
Where the pool is gone, it leaves after the run that it is at.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from bench import parts, preemption
from bench.compose import register_resolvers
from bench.config import RunConfig
from bench.launch.manifest import Launch
from bench.launch.status import run_folder
from bench.preemption import StopRequested
from bench.run_folder import BusyError, RunFolder
from bench.setup import Setup
from bench.train import kind_of, reason_of, train

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
        setup = Setup.of(config)
        folder = RunFolder(setup.folder)
        folder.path.mkdir(parents=True, exist_ok=True)
        with folder.log.open("a") as log:
            traceback.print_exc(file=log)
        if not folder.config:
            folder.begin(setup.stored, {})
        folder.set_status("failed", reason_of(error), kind=kind_of(error))
        print(f"{folder.path.name}: failed, {reason_of(error)}", file=sys.stderr, flush=True)
        return "failed"
    return "done"


def main(launch: Launch) -> None:
    """Carry out runs until there are no more ids on standard input, or nobody hears answers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the pool's to hear
    preemption.listen()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*preemption.SIGNALS, signal.SIGINT})
    register_resolvers()
    answers = os.dup(1)
    os.dup2(2, 1)  # what prints between runs must not be taken for an answer
    with parts.keeping_data():
        for line in iter(sys.stdin.readline, ""):
            outcome = _carry_out(launch, line.strip())
            if not _answered(answers, outcome) or outcome == "stopped":
                return


def _answered(answers: int, outcome: str) -> bool:
    """Tell the pool how a run ended; return whether there still is a pool.

    Without Python's buffer: what is left there is written again at exit, and fails aloud.
    """
    try:
        os.write(answers, f"{json.dumps({'outcome': outcome})}\n".encode())
    except BrokenPipeError:
        return False
    return True


def _carry_out(launch: Launch, run_id: str) -> str:
    run = launch.config(run_id, elsewhere=True)  # no such device here: the run says so, in its log
    with _logging_to(run_folder(run, run_id).log):
        try:
            return execute(run, patient=True)
        except StopRequested as error:
            print(f"{run_id}: stopped: {error}", flush=True)
            return "stopped"


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Send standard output and error, those of child processes too, to the end of ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    saved = [os.dup(number) for number in (1, 2)]
    with path.open("a") as log:
        for number in (1, 2):
            os.dup2(log.fileno(), number)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, number)
                os.close(copy)


if __name__ == "__main__":
    main(Launch(Path(sys.argv[1])))
