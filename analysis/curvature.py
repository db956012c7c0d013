"""Measure a trained network's gradient spectrum and exact curvature, layer by layer.

    python -m analysis.curvature run=<run folder> [directions=20] [batch=2048] ...

writes ``curvature.parquet`` (one row a direction) and ``exponents.parquet`` (one row a layer) in
the run folder. `analysis.measure.network.measure` does the same for any network and batch.
"""

from __future__ import annotations

import textwrap
import time
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import Field

from analysis.command import views
from analysis.command.measuring import (
    MeasurementOptions,
    explained,
    find_run,
    progress,
    require_done,
    stored_or_measured,
    tell_stored,
)
from analysis.command.views import EXPONENT_LEGEND, render_exponents
from analysis.measure import files
from analysis.measure.kronecker import measure_kronecker
from analysis.measure.network import Measurement, measure
from bench import options as cli
from bench.parts import Restored, restore
from bench.table_writer import drawn

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


class CurvatureOptions(MeasurementOptions):
    """Options of the command."""

    directions: int = Field(20, ge=1, description="Directions a layer (at most its smaller side).")
    engine: Literal["auto", "sweep", "tangent", "double_backward", "forward_over_reverse"] = Field(
        "auto", description="How h is computed; auto: the fastest engine that is exact here."
    )
    dtype: Literal["float32", "float64"] = Field(
        "float32", description="Precision of h; sigma is always float64."
    )
    kronecker: bool = Field(
        False, description="Compare with Kronecker factors, too: kronecker.parquet."
    )


def main(argv: list[str]) -> None:
    """Run the command."""
    started = time.perf_counter()
    options = cli.parse(
        CurvatureOptions, argv, prog=PROG, description=DESCRIPTION, examples=EXAMPLES
    )
    folder = find_run(options.run)
    require_done(folder)
    restored = restore(folder, trusted=options.trust)
    wanted = options.model_dump(include=set(DECISIVE))
    options.use_threads(restored.config)
    (curvature, exponents), was_stored = stored_or_measured(
        folder, files.NAMES, restored.step, wanted,
        lambda: _measure(restored, options), force=options.force,
    )  # fmt: skip
    _show(exponents)
    if was_stored:
        tell_stored(folder)
    if options.kronecker:
        _kronecker(folder, restored, options, curvature)
    print(f"{time.perf_counter() - started:.1f} s")


def _kronecker(
    folder: Path, restored: Restored, options: CurvatureOptions, curvature: pd.DataFrame
) -> None:
    """Measure, write and show the Kronecker side, unless it is there."""

    def measured() -> tuple[pd.DataFrame, pd.DataFrame]:
        batch = restored.batch(options.batch)
        with explained(options), progress("curvature") as report:
            found = measure_kronecker(
                restored.model, *batch, curvature, settings=options.settings(), progress=report
            )
        for note in found.notes:
            print(note)
        return found.directions, found.layers

    (_, layers), _ = stored_or_measured(
        folder, ("kronecker", "kronecker_layers"), restored.step,
        options.model_dump(include=set(DECISIVE)), measured, force=options.force,
    )  # fmt: skip
    cli.show(drawn(views.render_kronecker(layers)))
    print(textwrap.fill(views.KRONECKER_LEGEND, 88))
    print("\n".join(views.match_lines(layers)))


def _show(table: pd.DataFrame) -> None:
    cli.show(drawn(render_exponents(table)))
    print(textwrap.fill(EXPONENT_LEGEND, 88))


def _measure(restored: Restored, options: CurvatureOptions) -> Measurement:
    inputs, labels = restored.batch(options.batch)
    print(
        f"measuring step {restored.step} (epoch {restored.epoch:g}) on {len(inputs)} training "
        f"samples: {options.directions} directions a layer, {options.dtype}, {options.mode} mode"
    )
    with explained(options), progress("curvature") as report:
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


if __name__ == "__main__":
    cli.run(main)
