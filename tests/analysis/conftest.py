"""Real runs for the tests of the readers: run folders, and W&B files by the real client."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from wandb_server import WandbServer, serving

Tree = dict[str, Any]


class Runs:
    """Writes the same run as a run folder and as an offline W&B file."""

    @staticmethod
    def config(optimizer: str = "adamw", seed: int = 0, **changes: Any) -> Tree:
        """Return a resolved config; ``changes`` are ``optimizer__lr=0.1``, ``sweep="grid"``."""
        names = {"model": "convnet", "dataset": "digits", "schedule": "cosine"}
        names |= {"optimizer": optimizer, "trainer": "default", "tracker": "wandb"}
        config: Tree = {
            "names": names,
            "model": {"_target_": "bench.models.convnet", "width": 16},
            "dataset": {"_target_": "bench.data.digits", "shape": (8, 8), "classes": 10},
            "optimizer": {"_target_": f"torch.{optimizer}", "_partial_": True, "lr": 1e-3},
            "schedule": {"_target_": "bench.schedules.cosine", "warmup": 0.0},
            "trainer": {"epochs": 20, "grad_clip": None, "compile": False, "device": "auto"},
            "tracker": {"mode": "offline", "tags": []},
            "seed": seed,
            "sweep": None,
            "runs_dir": "runs",
            "data_dir": "data",
            "exponents": None,
        }
        for key, value in changes.items():
            branch = config
            *above, last = key.split("__")
            for name in above:
                branch = branch[name]
            branch[last] = value
        groups = ("model", "dataset", "optimizer", "schedule", "trainer")
        scientific = json.dumps([names["optimizer"], [config[group] for group in groups]])
        variant = hashlib.sha256(scientific.encode()).hexdigest()[:10]
        prefix = f"{names['dataset']}-{names['model']}-{optimizer}-s{config['seed']}"
        return {"id": f"{prefix}-{variant}", "variant": variant, **config}

    @staticmethod
    def summary(accuracy: float, state: str = "done", **more: Any) -> Tree:
        """Return a finished run's summary."""
        named = {"state": state, "test/accuracy": accuracy, "test/loss": 1.0, "epochs": 20}
        return {**named, "best/epoch": 7.0, "seconds_per_epoch": 1.5, "parameters": 2810, **more}

    @staticmethod
    def history(rows: int = 4) -> list[Tree]:
        """Return history rows; some lack some metrics, some are whole numbers."""
        found: list[Tree] = []
        for i in range(rows):
            row: Tree = {"step": 10 * i, "epoch": i / 2, "train/loss": 1.0 / (i + 1)}
            found.append(row | ({"val/accuracy": i / 8} if i % 2 else {}))
        return found

    @staticmethod
    def folder(
        root: Path,
        config: Tree,
        summary: Tree | None = None,
        state: str = "done",
        history: Sequence[Tree] = (),
    ) -> Path:
        """Write one run folder and return it."""
        folder = root / str(config["id"])
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "status.json").write_text(json.dumps({"state": state, "cause": None}))
        (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
        if summary is not None:
            (folder / "summary.json").write_text(json.dumps(summary))
        return folder

    @staticmethod
    def offline(
        root: Path,
        config: Tree,
        summary: Mapping[str, Any] | None = None,
        history: Sequence[Tree] = (),
        exit_code: int = 0,
    ) -> Path:
        """Let the real wandb client log one run below ``root``; return its .wandb file."""
        import wandb

        root.mkdir(parents=True, exist_ok=True)
        before = set(root.rglob("run-*.wandb"))
        run = wandb.init(
            mode="offline",
            project="spectral-bench",
            id=config["id"],
            group=config["sweep"],
            tags=["test", "offline"],
            dir=str(root),
            resume="allow",
            config={**config, "provenance": {"commit": None, "dirty": True}},
            settings=wandb.Settings(
                console="off",
                silent=True,
                x_transaction_log_flush_interval=1.0,
                x_disable_stats=True,
                x_disable_meta=True,
                disable_git=True,
            ),
        )
        # Without this, wandb adds the last row's metrics to the summary, over what is set here.
        run.define_metric("*", summary="none")
        for row in history:
            run.log(row, step=row["step"])
        run.summary.update(dict(summary or {}))
        run.finish(exit_code=exit_code)
        (made,) = set(root.rglob("run-*.wandb")) - before
        return Runs.written(made)

    @staticmethod
    def written(log: Path) -> Path:
        """Wait for wandb's service, which writes the last of a log after finish() returned."""
        journal, patience = log.parent / "logs" / "debug-internal.log", time.monotonic() + 30
        while "stream: all finished" not in journal.read_text():
            assert time.monotonic() < patience, f"{journal}: wandb did not end"
            time.sleep(0.02)
        return log


@pytest.fixture(scope="session")
def runs() -> Runs:
    return Runs()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandbServer]:
    """A W&B server on loopback, for the client as it is logged in there."""
    import wandb

    with serving() as made:
        monkeypatch.setenv("WANDB_BASE_URL", made.address)
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        wandb.teardown()  # the client reads its settings once
        yield made
        wandb.teardown()
