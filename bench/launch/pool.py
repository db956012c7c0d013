"""Workers side by side, each in a slot of its own: a GPU, a share of one, or a processor.

One thread a slot hands its worker one run after the other, such as need the same compiled code. A
worker that dies takes one run along, which is written down as killed; a new worker goes on with the
next. Asked to stop, a pool lets its workers checkpoint and leave.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.launch.manifest import Launch
from bench.preemption import SIGNALS
from bench.run_folder import Kind, result_line

# The variable by which a process knows how many share its device.
PACKED = "SPECTRAL_BENCH_PACKED"


def compile_key(config: Mapping[str, Any]) -> str:
    """Return the compile key of a run: all that decides its code, so no seed, schedule or rate.

    ``config`` is a whole run's, as a launch keeps it.
    """
    optimizer = {key: value for key, value in config["optimizer"].items() if key != "lr"}
    return json.dumps([config["model"], config["dataset"], optimizer, config["trainer"]])


class Order:
    """The runs that wait, each handed out once; workers may ask at the same time.

    A worker gets the first run of the same code as its last one; where none is left, the first of
    a code that nobody has begun; and then the first of all, for no worker may idle while runs wait.

    Args:
        runs: id and code of each, in the order of the grid.
    """

    def __init__(self, runs: Iterable[tuple[str, Hashable]]) -> None:
        self._waiting = dict(runs)
        self._begun: set[Hashable] = set()
        self._last: dict[int, Hashable] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, worker: int) -> str | None:
        """Return the next run of ``worker``; None: there is none left."""
        with self._lock:
            run = (
                self._first(lambda code: worker in self._last and code == self._last[worker])
                or self._first(lambda code: code not in self._begun)
                or next(iter(self._waiting), None)
            )
            if run is not None:
                self._last[worker] = self._waiting.pop(run)
                self._begun.add(self._last[worker])
            return run

    def _first(self, fits: Callable[[Hashable], bool]) -> str | None:
        return next((run for run, code in self._waiting.items() if fits(code)), None)


class Pool:
    """Carries out runs of a launch.

    Args:
        launch: knows the runs' configs.
        run_ids: the runs, in the order in which they are begun; those of the same code as far as
            possible by the same worker (see ``Order``).
        slots: the environment variables of each worker.
        report: takes a line about each run that is over.
    """

    def __init__(
        self,
        launch: Launch,
        run_ids: Sequence[str],
        slots: Sequence[Mapping[str, str]],
        report: Callable[[str], None],
    ) -> None:
        self.launch, self.slots, self.report = launch, slots, report
        self.outcomes: dict[str, str] = {}
        self._waiting = Order((run_id, compile_key(launch.stored(run_id))) for run_id in run_ids)
        self._workers: dict[int, subprocess.Popen[str]] = {}
        self._lock = threading.RLock()  # a signal may interrupt stop(), and call it
        self._threads: list[threading.Thread] = []
        self.stopped = False

    @property
    def unfinished(self) -> bool:
        """Whether runs are left that were stopped or never begun."""
        return len(self._waiting) > 0 or "stopped" in self.outcomes.values()

    def run(self) -> None:
        """Carry out all runs, or stop on the way."""
        self._threads = [
            threading.Thread(target=self._serve, args=(number, slot), daemon=True)
            for number, slot in enumerate(self.slots)
        ]
        for thread in self._threads:
            thread.start()
        self.run_down()

    def run_down(self) -> None:
        """Wait until every worker is done."""
        for thread in self._threads:
            while thread.is_alive():  # a moment at a time, so that signals are heard
                thread.join(0.2)

    def stop(self) -> None:
        """Let workers checkpoint at their next step and leave; begin no more runs."""
        self.stopped = True
        with self._lock:
            workers = list(self._workers.values())
        for worker in workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)

    def _serve(self, number: int, slot: Mapping[str, str]) -> None:
        # Held back in this thread and so in the workers it starts, until they can listen: SLURM
        # sends its signals to every process of a job.
        signal.pthread_sigmask(signal.SIG_BLOCK, {*SIGNALS, signal.SIGINT})
        worker: subprocess.Popen[str] | None = None
        while not self.stopped and not self.launch.given_up:
            run_id = self._waiting.take(number)
            if run_id is None:
                break
            if worker is None or worker.poll() is not None:
                worker = self._start(number, slot)
            self.outcomes[run_id] = self._one(worker, run_id)
            if self.outcomes[run_id] == "failed":
                self.launch.note_failure(run_id)
            self.report(f"{run_id}: {self._result(run_id)}")
        if worker is not None and worker.stdin is not None:
            worker.stdin.close()
            worker.wait()

    def _start(self, number: int, slot: Mapping[str, str]) -> subprocess.Popen[str]:
        worker = subprocess.Popen(
            [sys.executable, "-m", "bench.launch.worker", str(self.launch.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **slot},
        )
        with self._lock:
            self._workers[number] = worker
        if self.stopped:  # asked between the question and the start
            worker.send_signal(signal.SIGTERM)
        return worker

    def _one(self, worker: subprocess.Popen[str], run_id: str) -> str:
        assert worker.stdin is not None
        assert worker.stdout is not None
        before = _memory_kills()
        try:
            worker.stdin.write(f"{run_id}\n")
            worker.stdin.flush()
            answer = worker.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if answer:
            return str(json.loads(answer)["outcome"])
        status = worker.wait()
        return self._after_death(run_id, status, by_memory=_memory_kills() > before)

    def _after_death(self, run_id: str, status: int, *, by_memory: bool) -> str:
        """Write down that a run's worker died; return what became of the run."""
        name = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        kind: Kind = "exception" if status >= 0 else "out of memory" if by_memory else "killed"
        folder = self.launch.folder(run_id)
        if folder.finished:  # it died after its work
            return "done"
        if folder.owner is not None:  # it only waited for the process that has the run
            return "busy"
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.set_status("failed", f"its process ended by {name}", kind=kind)
        return "failed"

    def _result(self, run_id: str) -> str:
        outcome, folder = self.outcomes[run_id], self.launch.folder(run_id)
        if outcome == "failed":
            return f"failed, {folder.status.get('kind')}: {folder.status.get('cause')}"
        return result_line(folder) if outcome == "done" and folder.finished else outcome


def slots(devices: Sequence[str], pack: int, each: int = 1) -> list[dict[str, str]]:
    """Return one slot for each of ``pack`` workers on each device; no devices: processors.

    Several processes share the processors' cores evenly, unless OMP_NUM_THREADS is set.

    ``each``: the devices of one worker, for runs that take several, a process on each.
    """
    firsts = range(0, max(1, len(devices) - each + 1), each) if devices else []
    places = [{"CUDA_VISIBLE_DEVICES": ",".join(devices[at : at + each])} for at in firsts] or [{}]
    count = len(places) * pack * (each if devices else 1)
    threads = str(max(1, len(os.sched_getaffinity(0)) // count))
    shared = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)} if count > 1 else {}
    return [{**place, PACKED: str(pack), **shared} for place in places for _ in range(pack)]


def visible_devices() -> list[str]:
    """Return the GPUs that a job was given, as CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return [name for name in given.split(",") if name and name != "NoDevFiles"]


def _memory_kills() -> int:
    """Return how many processes of our control group the kernel has killed for memory."""
    try:
        group = Path("/proc/self/cgroup").read_text().strip().rpartition(":")[2]
        events = Path(f"/sys/fs/cgroup{group}/memory.events").read_text().split()
        return int(events[events.index("oom_kill") + 1])
    except (OSError, ValueError, IndexError):
        return 0
