"""Measure a trained network's gradient spectrum and exact curvature, layer by layer.

    python -m analysis.curvature run=<run folder> [directions=20] [batch=2048] ...

writes ``curvature.parquet`` (one row a direction) and ``exponents.parquet`` (one row a layer) in
the run folder. `analysis.measurement.measure` does the same for any network and batch.
"""

from __future__ import annotations

import re
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from pydantic import Field, field_validator
from rich.console import Console
from rich.progress import Progress

from analysis import kronecker_view, measured_files
from analysis.exponent_view import LEGEND, render
from analysis.find_run import find_run, require_done
from analysis.kronecker_measurement import measure_kronecker
from analysis.measurement import Measurement, measure
from analysis.objective import Mode, Settings
from bench import options as cli
from bench.errors import UserError
from bench.experiment import Restored, restore

__all__ = ["Measurement", "main", "measure"]

PROG = "python -m analysis.curvature"
# What decides the numbers: a step measured with the same options needs no new measurement.
DECISIVE = ("directions", "batch", "engine", "microbatch", "dtype", "mode", "device")
DESCRIPTION = """
Measure a trained network's gradient spectrum and exact curvature, layer by layer.

Writes curvature.parquet (one row a direction: sigma, h) and exponents.parquet (one row a layer:
alpha, gamma, s with their errors) in the run folder, and prints the exponents. What a run measured
of itself at other epochs stays in the files. Weights that were measured with the same options are
not measured again.
"""
EXAMPLES = (
    "run=runs/digits-convnet-adamw-s0-1a2b3c4d",
    "run='runs/*adamw-s0*' directions=100 dtype=float64 kronecker=true",
    "run=runs/cifar10-resnet18-muon-s1-5e6f7a8b device=cuda microbatch=1024",
)


class CurvatureOptions(cli.Options):
    """Options of the command."""

    run: str = Field(description="Run folder, or a quoted pattern that matches exactly one.")
    directions: int = Field(20, ge=1, description="Directions a layer (at most its smaller side).")
    batch: int = Field(2048, ge=1, description="Training samples, unaugmented, from the first on.")
    engine: Literal["auto", "sweep", "tangent", "double_backward", "forward_over_reverse"] = Field(
        "auto", description="How h is computed; auto: the fastest engine that is exact here."
    )
    microbatch: int | Literal["auto"] = Field(
        "auto", description="Samples a pass: bounds memory, not accuracy; auto: what fits."
    )
    dtype: Literal["float32", "float64"] = Field(
        "float32", description="Precision of h; sigma is always float64."
    )
    mode: Mode = Field("eval", description="BatchNorm and dropout as in evaluation or training.")
    device: str = Field("cpu", description="Where to compute: cpu, cuda, cuda:1.")
    threads: int | None = Field(None, ge=1, description="CPU threads; default: the run's.")
    kronecker: bool = Field(
        False, description="Compare with Kronecker factors, too: kronecker.parquet."
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


def main(argv: list[str]) -> None:
    """Run the command."""
    started = time.perf_counter()
    options = cli.parse(
        CurvatureOptions, argv, prog=PROG, description=DESCRIPTION, examples=EXAMPLES
    )
    folder = find_run(options.run)
    require_done(folder)
    restored = restore(folder)
    wanted = options.model_dump(include=set(DECISIVE))
    threads = options.threads or restored.config["trainer"]["threads"]
    if threads is not None:  # as the run did, so that the same weights give the same bits
        torch.set_num_threads(threads)
    stored = None if options.force else measured_files.stored(folder, restored.step, wanted)
    if stored is None:
        found = _measure(restored, options)
        _write(folder, dict(zip(measured_files.NAMES, found, strict=True)), wanted)
        curvature, exponents = found
    else:
        curvature, exponents = stored
    _show(exponents)
    if stored is not None:
        print(f"{folder}: already measured with these options; force=true measures again")
    if options.kronecker:
        _kronecker(folder, restored, options, curvature)
    print(f"{time.perf_counter() - started:.1f} s")


def _kronecker(
    folder: Path, restored: Restored, options: CurvatureOptions, curvature: pd.DataFrame
) -> None:
    """Measure, write and show the Kronecker side, unless it is there."""
    names = ("kronecker", "kronecker_layers")
    wanted = options.model_dump(include=set(DECISIVE))
    stored = measured_files.stored(folder, restored.step, wanted, names)
    if stored is not None and not options.force:
        layers = stored[1]
    else:
        batch = restored.batch(options.batch)
        with _explained(options), _progress() as report:
            found = measure_kronecker(
                restored.model, *batch, curvature, settings=options.settings(), progress=report
            )
        for note in found.notes:
            print(note)
        layers = found.layers
        _write(folder, dict(zip(names, (found.directions, layers), strict=True)), wanted)
    cli.show(kronecker_view.render(layers))
    print(textwrap.fill(kronecker_view.LEGEND, 88))
    print("\n".join(kronecker_view.match_lines(layers)))


def _show(table: pd.DataFrame) -> None:
    cli.show(render(table))
    print(textwrap.fill(LEGEND, 88))


def _write(folder: Path, tables: dict[str, pd.DataFrame], options: dict[str, Any]) -> None:
    for name, table in tables.items():
        path = folder / f"{name}.parquet"
        try:
            measured_files.add_table(path, table, options)
        except OSError as error:
            raise UserError(f"{folder}: cannot write the tables ({error})") from None
        print(f"wrote {path} ({len(table)} rows)")


def _measure(restored: Restored, options: CurvatureOptions) -> Measurement:
    inputs, labels = restored.batch(options.batch)
    print(
        f"measuring step {restored.step} (epoch {restored.epoch:g}) on {len(inputs)} training "
        f"samples: {options.directions} directions a layer, {options.dtype}, {options.mode} mode"
    )
    with _explained(options), _progress() as report:
        return measure(
            restored.model,
            inputs,
            labels,
            options.directions,
            engine=options.engine,
            settings=options.settings(),
            step=restored.step,
            epoch=restored.epoch,
            progress=report,
        )


@contextmanager
def _explained(options: CurvatureOptions) -> Iterator[None]:
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
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal's stderr, nothing elsewhere."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("curvature", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


if __name__ == "__main__":
    cli.run(main)
