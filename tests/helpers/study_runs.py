"""A made-up study as run folders: report runs and tuning runs with numbers that are given."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DEVICE = "Accelerator 9000"


def write(
    runs: Any,
    root: Path,
    config: dict[str, Any],
    accuracy: float | None,
    *,
    state: str = "done",
    seconds: float = 1.5,
    target: float | None = 9.0,
    device: str = DEVICE,
    packed: int = 1,
    **more: Any,
) -> Path:
    """Write one run; ``accuracy`` None: no summary. ``target`` None: it was missed."""
    summary = None
    if accuracy is not None:
        summary = runs.summary(
            accuracy, state, seconds_per_epoch=seconds,
            **{"val/accuracy": accuracy, "val/loss": 1 - accuracy, "clock/data_seconds": 1.0,
               "clock/step_seconds": 29.0, "target/reached": target is not None,
               "target/seconds": target, "target/step": 20 if target else None,
               "target/value": 0.5, "target/metric": "val/accuracy", **more},
        )  # fmt: skip
        if state == "diverged":
            summary = {"state": state, "epochs": 3, "target/reached": False}
    history = [
        {"step": 10 * e, "epoch": float(e), "test/accuracy": (accuracy or 0) * e / (e + 0.1),
         "val/accuracy": (accuracy or 0) * e / (e + 0.1), "test/loss": 1 / e}
        for e in range(1, 5)
    ]  # fmt: skip
    folder: Path = runs.folder(root, config, summary, state, history)
    versions = {"torch": "2.11.0"}
    attempt = {
        "device": device,
        "packed": packed,
        "versions": versions,
        "git": {"commit": "0123456789" * 4, "dirty": False},
    }
    (folder / "provenance.json").write_text(json.dumps({"attempts": [attempt]}))
    return folder


def study(
    runs: Any,
    root: Path,
    accuracies: Mapping[str, Sequence[float]],
    *,
    name: str = "study_x",
    rates: Sequence[float] = (1e-3, 1e-2),
    tuned: bool | str = True,
    **more: Any,
) -> Path:
    """Write report runs of ``accuracies`` by seed at lr 0.01, and tuning runs at ``rates``."""
    for optimizer, values in accuracies.items():
        for seed, accuracy in enumerate(values):
            config = runs.config(optimizer, seed, sweep=name, optimizer__lr=1e-2, tuned=tuned)
            write(runs, root, config, accuracy, **more)
        for place, rate in enumerate(rates):
            config = runs.config(
                optimizer, 1000, sweep=f"{name}_tune", optimizer__lr=rate, trainer__epochs=4
            )
            write(runs, root, config, 0.5 + 0.1 * place)
    return root
