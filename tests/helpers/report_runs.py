"""Run folders that fill every part of a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from analysis.measure.files import write_table

OPTIMIZERS, DATASETS = ("adamw", "muon", "sgd"), ("digits", "cifar<10>")


def write_runs(runs: Any, root: Path, optimizers: tuple[str, ...] = OPTIMIZERS) -> Path:
    """Write optimizers on two datasets, three seeds, a diverged run and some exponents."""
    for d, dataset in enumerate(DATASETS):
        for o, name in enumerate(optimizers):
            for seed in range(3):
                config = runs.config(name, seed, sweep="grid", dataset__x=d)
                config["names"]["dataset"] = dataset
                config["id"] = f"{dataset}-{o}-s{seed}"
                state = "diverged" if (name, seed, d) == ("sgd", 2, 1) else "done"
                accuracy = 0.9 - 0.3 * d + 0.02 * o + 0.001 * seed * (1 + o)
                history = [
                    {"step": 10 * e, "epoch": float(e), "test/accuracy": accuracy - 0.3 / e}
                    for e in range(1, 6)
                ]
                summary = runs.summary(accuracy, state, seconds_per_epoch=1.0 + o)
                folder = runs.folder(root, config, summary, state, history)
                if name == "muon" and d == 0:
                    write_table(_layers(), folder / "exponents.parquet", {})
    return root


def _layers() -> pd.DataFrame:
    """Two measurements of two layers; the first is no result."""
    last = pd.DataFrame({"layer": ["conv1", "head"], "alpha": [1.5, 2.25], "gamma": [1.0, 0.5],
                         "s": [1.4, 1.1], "reliable": [True, False], "step": 50})  # fmt: skip
    return pd.concat([last.assign(alpha=9.0, reliable=False, step=0), last], ignore_index=True)
