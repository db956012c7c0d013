"""What the commands that measure a run's network share: options, errors in one line, progress."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from pydantic import Field, field_validator
from rich.console import Console
from rich.progress import Progress

from analysis.measure import files
from analysis.objective import Mode, Settings
from bench import options as cli
from bench.errors import UserError


class MeasurementOptions(cli.Options):
    """Which run is measured, on which samples, and how it is computed."""

    run: str = Field(description="Run folder, or a quoted pattern that matches exactly one.")
    batch: int = Field(2048, ge=1, description="Training samples, unaugmented, from the first on.")
    microbatch: int | Literal["auto"] = Field(
        "auto", description="Samples a pass: bounds memory, not accuracy; auto: what fits."
    )
    dtype: Literal["float32", "float64"] = Field("float32", description="Precision of the Hessian.")
    mode: Mode = Field("eval", description="BatchNorm and dropout as in evaluation or training.")
    device: str = Field("cpu", description="Where to compute: cpu, cuda, cuda:1.")
    threads: int | None = Field(None, ge=1, description="CPU threads; default: the run's.")
    trust: list[str] = Field(
        [],
        description="Packages whose code the run's config may name, beside what your YAML files"
        " name; also written --trust=<package>. See docs/security.md.",
    )
    force: bool = Field(False, description="Measure again although the files are there.")

    @field_validator("microbatch")
    @classmethod
    def _some_samples(cls, microbatch: int | str) -> int | str:
        if isinstance(microbatch, int) and microbatch < 1:
            raise ValueError("expected auto or an integer >= 1")
        return microbatch

    @field_validator("device")
    @classmethod
    def _device_is_here(cls, device: str) -> str:
        if not re.fullmatch(r"cpu|cuda(:[0-9]+)?", device):
            raise ValueError("expected cpu, cuda or cuda:<number>")
        count = torch.cuda.device_count()
        if device != "cpu" and int(device.partition(":")[2] or 0) >= count:
            raise ValueError(f"not on this machine ({count} CUDA devices); use device=cpu")
        return device

    def settings(self) -> Settings:
        """Return how to compute."""
        return Settings(getattr(torch, self.dtype), self.microbatch, self.mode, self.device)

    def use_threads(self, config: dict[str, Any]) -> None:
        """Take as many CPU threads as the run did, so that the same weights give the same bits."""
        threads = self.threads or config["trainer"]["threads"]
        if threads is not None:
            torch.set_num_threads(threads)


@contextmanager
def explained(options: MeasurementOptions) -> Iterator[None]:
    """Turn what a measurement cannot do into one line."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise UserError(
            f"device={options.device} is out of memory; use a smaller microbatch "
            f"(now microbatch={options.microbatch})"
        ) from None
    except ValueError as error:
        raise UserError(f"run={options.run}: {error}") from None


@contextmanager
def progress(task_name: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal's stderr, nothing elsewhere; give what takes (done, total)."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(task_name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def stored_or_measured(
    folder: Path,
    names: tuple[str, ...],
    step: int,
    options: dict[str, Any],
    measure: Callable[[], Sequence[pd.DataFrame]],
    *,
    force: bool,
) -> tuple[Sequence[pd.DataFrame], bool]:
    """Return one step's tables, and whether they were stored; write what is measured, saying so.

    Args:
        folder: the run folder.
        names: of the files that hold the tables, without their suffix.
        step: the training step of the weights.
        options: what decides the numbers: tables of other options are measured again.
        measure: returns the tables, in the order of ``names``.
        force: measure again, whatever is stored.

    Raises:
        UserError: a file cannot be written.
    """
    stored = None if force else files.stored(folder, step, options, names)
    if stored is not None:
        return stored, True
    tables = measure()
    _write(folder, dict(zip(names, tables, strict=True)), options)
    return tables, False


def tell_stored(folder: Path) -> None:
    """Say that nothing was measured."""
    print(f"{folder}: already measured with these options; force=true measures again")


def _write(folder: Path, tables: dict[str, pd.DataFrame], options: dict[str, Any]) -> None:
    for name, table in tables.items():
        path = folder / f"{name}.parquet"
        try:
            files.add_table(path, table, options)
        except OSError as error:
            raise UserError(f"{folder}: cannot write the tables ({error})") from None
        print(f"wrote {path} ({len(table)} rows)")
