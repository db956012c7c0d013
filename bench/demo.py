"""The demo: a sweep, the curvature of a trained network, and the comparison table.

    python -m bench.demo [runs_dir=runs]

Each step is an ordinary command, printed before it runs. Every step skips what is done, so the
demo can be stopped at any moment and started again.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.config import load
from bench.identity import identify

SWEEP = "digits"


def main(arguments: list[str]) -> int:
    """Run the demo; return the exit status of the first step that fails, or 0."""
    runs = "runs"
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if key != "runs_dir" or not separator or not value:
            print(f"error: {argument}: the only option is runs_dir=<folder>", file=sys.stderr)
            return 2
        runs = value
    overrides = [f"+sweeps={SWEEP}", f"runs_dir={runs}"]
    # The exponents that scalar_spectral_adam needs are measured on the first AdamW run.
    source = Path(runs) / identify(load([*overrides, "optimizer=adamw", "seed=0"])).id
    exponents = source / "exponents.parquet"
    steps: list[tuple[str, list[str]]] = [
        ("bench.train", ["-m", *overrides, "optimizer=adamw", "seed=0"]),
        ("analysis.curvature", [f"run={source}"]),
        ("bench.train", ["-m", *overrides, f"exponents={exponents}"]),
        ("analysis.tables", [f"source={runs}", f"sweep={SWEEP}"]),
    ]
    for module, options in steps:
        print(f"\n$ python -m {module} {' '.join(options)}", flush=True)
        status = subprocess.run([sys.executable, "-m", module, *options], check=False).returncode
        if status != 0:
            return status
    print(
        f"\nWhere to look next:\n"
        f"  wandb leet {runs}/wandb            the runs' curves, in the terminal (offline)\n"
        f"  wandb sync {runs}/wandb/offline-*  the same on wandb.ai, if you have an account\n"
        f"  {source}/\n"
        f"    one run: config.json history.jsonl summary.json curvature.parquet\n"
        f"  python -m bench.train --help       every option; README.md: how to add an optimizer",
        flush=True,
    )
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
