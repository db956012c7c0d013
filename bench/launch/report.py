"""What a person reads of a plan: its table, its failures by override, how to run them again."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from bench.launch.grid import Invalid
from bench.launch.plan import Plan, Planned
from bench.launch.standing import RunStatus


def distinct_words(runs: Sequence[Planned]) -> dict[str, str]:
    """Return, by run id, the overrides that not all of ``runs`` share."""
    if len(runs) == 1:
        return {runs[0].job.identity.id: " ".join(runs[0].job.overrides)}
    shared = set.intersection(*(set(run.job.overrides) for run in runs)) if runs else set()
    return {
        run.job.identity.id: " ".join(word for word in run.job.overrides if word not in shared)
        for run in runs
    }


def failures(plan: Plan, launch: Sequence[str] = ()) -> str:
    """Return one block a failed run: overrides, cause, last line, log, and the command again.

    ``launch`` holds the Hydra overrides of the launch, which the command repeats.
    """
    words = distinct_words(plan.runs)
    blocks = [_block(run, words[run.job.identity.id], launch) for run in plan.of("failed")]
    return "\n".join(blocks)


def _block(run: Planned, words: str, launch: Sequence[str]) -> str:
    status: RunStatus = run.status
    lines = [f"  {words or run.job.identity.id}: {status.kind}: {status.reason}"]
    if status.log is not None:
        lines.append(f"    log:   {status.log}")
    return "\n".join([*lines, f"    again: {again(run, launch)}"])


def again(run: Planned, launch: Sequence[str] = ()) -> str:
    """Return the exact command that carries out one run of the grid."""
    own = [word for word in launch if word != "hydra.mode=MULTIRUN"]  # Hydra's for -m
    return shlex.join(["python", "-m", "bench.train", "-m", *own, *run.job.overrides])


def problems(plan: Plan) -> Iterable[str]:
    """Yield a line for each thing that is wrong with the grid itself."""
    for one in plan.invalid:
        yield invalid(one)
    words = distinct_words(plan.runs)
    for run_id, times in plan.duplicates.items():
        yield f"duplicate: {words[run_id] or run_id}: asked for {times} times, runs once"


def invalid(one: Invalid) -> str:
    """Return the line of a combination that cannot run."""
    return f"invalid: {' '.join(one.overrides)}: {one.reason}"
