"""The demo: a sweep, the curvature of a trained network, and the comparison table.

    python -m bench.demo [key=value ...]        any option of bench.train, e.g. trainer.epochs=5

Each step is an ordinary command, printed before it runs. Every step skips what is done, so the
demo can be stopped at any moment and started again.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bench import cli
from bench.config import load
from bench.identity import identify
from bench.run_folder import EXPONENTS
from bench.study import carry_out, python

SWEEP = "digits"
# The run on which the exponents that scalar_spectral_adam needs are measured.
SOURCE = ("optimizer=adamw", "seed=0")


def main(arguments: list[str]) -> None:
    """Run the demo with ``arguments`` for every run.

    Raises:
        RunsFailedError: a step failed; its own output says why.
    """
    overrides = [f"+sweeps={SWEEP}", *arguments]
    config = load([*overrides, *SOURCE])
    folder = Path(config.runs_dir) / identify(config).id
    exponents = folder / EXPONENTS
    steps = [
        ["bench.train", "-m", *overrides, *SOURCE],
        ["analysis.curvature", f"run={folder}"],
        ["bench.train", "-m", *overrides, f"exponents={exponents}"],
        ["analysis.tables", f"source={config.runs_dir}", f"sweep={SWEEP}"],
    ]
    carry_out(steps, "the demo")
    _print_next(config.runs_dir, folder, Path(python()))


def _print_next(runs: str, folder: Path, interpreter: Path) -> None:
    wandb = interpreter.parent / "wandb"
    print(
        f"""
Where to look next
  {folder}/
      one run: config.json  history.jsonl  summary.json  curvature.parquet  exponents.parquet
  {wandb} leet {runs}/wandb
      its curves in this terminal, from the offline W&B files
  {wandb} sync {runs}/wandb/offline-run-*
      the same on W&B, if you have an account
  {interpreter} -m bench.train --help
      every option; README.md says how to add an optimizer in six lines""",
        flush=True,
    )


if __name__ == "__main__":
    cli.guarded(lambda: main(sys.argv[1:]))
