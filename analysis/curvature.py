"""Measure a trained network's gradient spectrum and exact curvature, layer by layer.

    spectral-bench curvature run=<run folder> [directions=20] [batch=2048] ...

writes ``curvature.parquet`` (one row a direction) and ``exponents.parquet`` (one row a layer) in
the run folder. `analysis.measure.network.measure` does the same for any network and batch.
"""

from __future__ import annotations

from typing import Literal

import pandas as pd
from pydantic import Field

from analysis.command import views
from analysis.command.measuring import (
    MeasurementOptions,
    Subject,
    explained,
    measuring,
    progress,
    show,
)
from analysis.measure import files
from analysis.measure.kronecker import measure_kronecker
from analysis.measure.network import Measurement, measure
from bench import options as cli

__all__ = ["Measurement", "main", "measure"]

PROG = "spectral-bench curvature"
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
    with measuring(
        CurvatureOptions, argv, prog=PROG, description=DESCRIPTION, examples=EXAMPLES
    ) as subject:
        wanted = subject.options.model_dump(include={"directions", "engine"})
        (curvature, exponents), was_stored = subject.tables(
            files.NAMES, wanted, lambda: _measure(subject)
        )
        show(views.render_exponents(exponents), views.EXPONENT_LEGEND)
        if was_stored:
            subject.print_stored()
        if subject.options.kronecker:
            (_, layers), _ = subject.tables(
                ("kronecker", "kronecker_layers"), wanted, lambda: _kronecker(subject, curvature)
            )
            show(views.render_kronecker(layers), views.KRONECKER_LEGEND)
            print("\n".join(views.match_lines(layers)))


def _kronecker(
    subject: Subject[CurvatureOptions], curvature: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    options, restored = subject.options, subject.restored
    batch = restored.batch(options.batch)
    with explained(options), progress("curvature") as report:
        compared = measure_kronecker(
            restored.model, *batch, curvature, settings=options.settings(), progress=report
        )
    for note in compared.notes:
        print(note)
    return compared.directions, compared.layers


def _measure(subject: Subject[CurvatureOptions]) -> Measurement:
    options, restored = subject.options, subject.restored
    inputs, labels = restored.batch(options.batch)
    subject.announce(
        len(inputs),
        f": {options.directions} directions a layer, {options.dtype}, {options.mode} mode",
    )
    with explained(options), progress("curvature") as report:
        return measure(
            restored.model, inputs, labels, options.directions, engine=options.engine,
            settings=options.settings(), step=restored.step, epoch=restored.epoch, progress=report,
        )  # fmt: skip


if __name__ == "__main__":
    cli.run(main)
