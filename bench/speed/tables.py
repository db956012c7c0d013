"""How long a comparison table of many runs takes, and how much memory.

    spectral-bench speed tables                    10,000 runs
    spectral-bench speed tables runs=1000

The runs are made up (their folders written to a temporary place first, which is not timed); each
measurement is a process of its own, so its time includes the interpreter's start and every import.
Each source is read twice: "again" is with the frame that the first time left in the cache. Before
the folder's first time its files are dropped from the page cache (not their names and inodes, which
only an administrator could drop); on a file system in memory that does nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from analysis.run.cache import RunCache, Told
from bench import options as cli

_PROJECT = "lab/speed"
_SEEDS = 5
# Builds the table; says its own CPU seconds and peak memory in KiB on the last line of stderr.
_MEASURED = (
    "import resource, sys; from analysis import tables; tables.main(sys.argv[1:]);"
    "used = resource.getrusage(resource.RUSAGE_SELF);"
    "print(used.ru_utime + used.ru_stime, used.ru_maxrss, file=sys.stderr)"
)


class SpeedOptions(cli.Options):
    """Options of ``spectral-bench speed tables``."""

    runs: int = Field(10_000, ge=_SEEDS, description="how many runs")


def main(argv: list[str]) -> None:
    """Make the runs, build the table from each source, print seconds and memory."""
    options = cli.parse(
        SpeedOptions,
        argv,
        prog="spectral-bench speed tables",
        description="Time the comparison table of many made-up runs.",
    )
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        environment = {**os.environ, "XDG_CACHE_HOME": str(root / "cache")}
        runs = list(made_up(options.runs))
        _write_cache(runs, root / "cache" / "spectral-bench")
        _write_folders(runs, root / "runs")
        drop_from_page_cache(root / "runs")
        cache, folder = [f"source=wandb:{_PROJECT}", "refresh=false"], [f"source={root / 'runs'}"]
        for what, arguments in (
            ("local cache of a W&B project", cache),
            ("local cache of a W&B project, again", cache),
            ("cold folder of run summaries", folder),
            ("folder of run summaries, again", folder),
        ):
            asked = [*arguments, "baseline=adamw lr=0.0001", "format=csv"]
            seconds, busy, mebibytes = measure(asked, environment)
            print(
                f"{options.runs} runs, {what}: {seconds:.1f} s ({busy:.1f} s of CPU), "
                f"{mebibytes:.0f} MiB",
                flush=True,
            )


def measure(arguments: list[str], environment: dict[str, str]) -> tuple[float, float, float]:
    """Return wall-clock and CPU seconds and peak MiB of one ``spectral-bench tables``."""
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, *arguments],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    busy, kibibytes = done.stderr.split()[-2:]
    return seconds, float(busy), int(kibibytes) / 1024


def drop_from_page_cache(folder: Path) -> None:
    """Make the next reader of these files go to the disk, as after a restart."""
    os.sync()  # what is not written yet cannot be dropped
    for path in folder.rglob("*.json"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def made_up(count: int) -> Iterator[Told]:
    """Yield runs of 4 optimizers x 4 datasets x learning rates x 5 seeds, 26 numbers each."""
    for index in range(count):
        group, seed = divmod(index, _SEEDS)
        optimizer = ("adamw", "muon", "sgd", "spectral_newton")[group % 4]
        dataset = ("digits", "cifar10", "cifar100", "python_source")[group // 4 % 4]
        rate = 1e-4 * (1 + group // 16)
        variant = f"{group:010x}"
        names = {"dataset": dataset, "model": "resnet18", "optimizer": optimizer,
                 "schedule": "cosine", "trainer": "default", "tracker": "wandb"}  # fmt: skip
        config: dict[str, Any] = {
            "id": f"{dataset}-resnet18-{optimizer}-s{seed}-{variant}", "variant": variant,
            "names": names, "seed": seed, "sweep": "speed",
            "model": {"_target_": "bench.models.resnet18", "width": 64, "depth": 18},
            "dataset": {"_target_": f"bench.data.{dataset}", "augment": True},
            "optimizer": {"_target_": f"optimizers.{optimizer}", "lr": rate, "damping": 0.01,
                          "betas": [0.9, 0.999], "weight_decay": 0.1},
            "schedule": {"_target_": "bench.schedules.cosine", "warmup": 0.05},
            "trainer": {"epochs": 30, "batch_size": 512, "precision": "bf16", "device": "cuda"},
            "tracker": {"mode": "offline", "tags": []},
            "provenance": {"device": "a GPU", "optimizer_source": "f00d", "platform": "x" * 200},
        }  # fmt: skip
        summary: dict[str, Any] = {f"clock/phase{k}_seconds": index * 1e-3 + k for k in range(20)}
        summary |= {
            "state": "done",
            "test/accuracy": 0.9 + (index * 7919 % 997) / 1e4,
            "seconds_per_epoch": 3.0,
            "test/loss": 0.3,
            "steps": 3000,
            "epochs": 30,
        }
        yield Told(config["id"], "2026 finished 3000", config, summary)


def _write_cache(runs: list[Told], folder: Path) -> None:
    RunCache(_PROJECT, folder).write({told.id: told for told in runs})


def _write_folders(runs: list[Told], root: Path) -> None:
    for told in runs:
        folder = root / told.id
        folder.mkdir(parents=True)
        config = {key: value for key, value in told.config.items() if key != "provenance"}
        for name, content in (
            ("config", config),
            ("status", {"state": "done", "cause": None}),
            ("summary", told.summary),
            ("provenance", {"attempts": [told.config["provenance"]]}),
        ):
            (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    cli.run(main)
