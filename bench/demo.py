"""The demo: a sweep, the curvature of a trained network, and the comparison table.

    spectral-bench demo [key=value ...]        any option of train, e.g. trainer.epochs=5

Each step is an ordinary command, printed before it runs. Every step skips what is done, so the
demo can be stopped at any moment and started again.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bench import cli
from bench.config import load
from bench.identity import identify
from bench.run_folder import EXPONENTS
from bench.study import carry_out, program

SWEEP = "digits"
# The run on which the exponents that scalar_spectral_adam needs are measured.
SOURCE = ("optimizer=adamw", "seed=0")


def main(arguments: list[str]) -> None:
    """Print the help page, or run the demo with ``arguments`` for every run.

    Raises:
        RunsFailedError: a step failed; its own output says why.
    """
    if arguments[:1] in (["-h"], ["--help"]):
        print((__doc__ or "").strip())
        return
    overrides = [f"+sweeps={SWEEP}", *arguments]
    config = load([*overrides, *SOURCE])
    folder = Path(config.runs_dir) / identify(config).id
    exponents = folder / EXPONENTS
    steps = [
        ["train", "-m", *overrides, *SOURCE],
        ["curvature", f"run={folder}"],
        ["train", "-m", *overrides, f"exponents={exponents}"],
        ["tables", f"source={config.runs_dir}", f"sweep={SWEEP}"],
    ]
    carry_out(steps, "the demo")
    _print_next(config.runs_dir, folder)


def _print_next(runs: str, folder: Path) -> None:
    wandb = Path(os.path.relpath(sys.executable)).with_name("wandb")
    print(
        f"""
Where to look next
  {folder}/
      one run: config.json  history.jsonl  summary.json  curvature.parquet  exponents.parquet
  {wandb} leet {runs}/wandb
      its curves in this terminal, from the offline W&B files
  {wandb} sync {runs}/wandb/offline-run-*
      the same on W&B, if you have an account
  {program()} train --help
      every option; README.md says how to add an optimizer in six lines""",
        flush=True,
    )


if __name__ == "__main__":
    cli.guarded(lambda: main(sys.argv[1:]))
