"""How much a run's loss landscape moves with one more sample, beside the null that forces 1/k.

    spectral-bench landscape run=<run folder> [batch=100000] ...

writes ``landscape.parquet`` (a row a window of k) and ``landscape_fits.parquet`` (a row a point of
weights) in the run folder.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from pydantic import Field

from analysis.command.measuring import (
    MeasurementOptions,
    Subject,
    explained,
    measuring,
    progress,
    show,
)
from analysis.measure import landscape
from analysis.measure.landscape import Line, Point, measure_line
from bench import options as cli
from bench.parts import restore
from bench.table_writer import Table

PROG = "spectral-bench landscape"
NAMES = ("landscape", "landscape_fits")
PLACES = tuple(float(t) for t in np.linspace(0, 1, 9))
DESCRIPTION = """
Measure abs(L_{k+1}(w) - L_k(w)), L_k the mean loss of the first k training samples, on the line
from the trained weights w* to the initial ones; fit its power of k, beside the same losses in
200 other orders.

L_{k+1} - L_k = (l_{k+1} - L_k) / (k+1) for any losses l, so that an exponent of 1 is forced. The
constant (k+1) abs(L_{k+1} - L_k) is not: it is given by the distance from w*, with the curvature
along the line.
"""
EXAMPLES = (
    "run=runs/digits-vit_micro-adamw-s0-1a2b3c4d",
    "run='runs/cifar10-vit_tiny-adamw-s0-*' device=cuda batch=50000",
)
LEGEND = (
    "t: place on the line from the trained weights (0) to the initial ones (1); exponent p of"
    " abs(L_{k+1} - L_k) ~ k^-p; null: its 95 % interval over shuffled samples, where 1 is forced;"
    " constant: mean of (k+1) abs(L_{k+1} - L_k); quadratic: L at t = 0 plus half d^T H d times"
    " distance^2, which is what a parabola would make of the mean loss"
)


class LandscapeOptions(MeasurementOptions):
    """Options of the command."""

    batch: int = Field(
        100_000, ge=1, description="Training samples, unaugmented, from the first on."
    )


class Tables(NamedTuple):
    """What is written: docs/curvature.md lists the columns."""

    windows: pd.DataFrame
    fits: pd.DataFrame


def main(argv: list[str]) -> None:
    """Run the command."""
    with measuring(
        LandscapeOptions, argv, prog=PROG, description=DESCRIPTION, examples=EXAMPLES
    ) as subject:
        (_, fits), was_stored = subject.tables(NAMES, {}, lambda: _measure(subject))
        show(_rendered(fits), LEGEND)
        if was_stored:
            subject.print_stored()


def _measure(subject: Subject[LandscapeOptions]) -> Tables:
    options, restored = subject.options, subject.restored
    initial = restore(subject.folder, "start", options.trust)
    batch = restored.batch(options.batch)
    subject.announce(
        len(batch[0]), f" at {len(PLACES)} points from the trained weights to the initial ones"
    )
    with explained(options), progress("points of weights") as report:
        line = measure_line(
            restored.model, initial.model, batch, PLACES, options.settings(), progress=report
        )
        return tables(line, restored.step, restored.epoch)


def tables(line: Line, step: int, epoch: float) -> Tables:
    """Return the windows and fits of every point, with the shuffled null of each.

    Raises:
        ValueError: too few samples, or a loss that is not finite.
    """
    measured = [_of_point(point) for point in line.points]
    windows = pd.concat([frame for frame, _ in measured], ignore_index=True)
    fits = pd.DataFrame([row for _, row in measured])
    fits["curvature"] = line.curvature
    nearest = min(line.points, key=lambda point: point.distance)
    fits["quadratic"] = float(nearest.losses.mean()) + 0.5 * line.curvature * fits["distance"] ** 2
    for frame in (windows, fits):
        frame["step"], frame["epoch"] = step, float(epoch)
    return Tables(windows, fits)


def _of_point(point: Point) -> tuple[pd.DataFrame, dict[str, float]]:
    changes = landscape.differences(point.losses)
    edges, centres, means = landscape.averaged(changes)
    fit = landscape.decay(changes)
    null, draws = landscape.shuffled(point.losses)
    low, middle, high = np.quantile(draws, [0.025, 0.5, 0.975], axis=0)
    windows = pd.DataFrame(
        {
            "place": point.place,
            "distance": point.distance,
            "k_from": edges[:-1].astype(np.int64),
            "k_to": edges[1:].astype(np.int64) - 1,
            "k": centres,
            "change": means,
            "null": middle,
            "null_low": low,
            "null_high": high,
        }
    )
    row = {
        "place": point.place,
        "distance": point.distance,
        "samples": len(point.losses),
        "loss": float(point.losses.mean()),
        "loss_sd": float(point.losses.std(ddof=1)),
        "exponent": fit.exponent,
        "exponent_stderr": fit.stderr,
        "exponent_r2": fit.r2,
        "null_exponent": null.exponent,
        "null_exponent_low": null.interval.low,
        "null_exponent_high": null.interval.high,
        "constant": fit.constant,
    }
    return windows, row


def _rendered(fits: pd.DataFrame) -> Table:
    rows = [
        [
            *(f"{row[name]:.3g}" for name in ("place", "distance", "loss", "quadratic")),
            f"{row['exponent']:.2f} +- {row['exponent_stderr']:.2f}",
            f"{row['null_exponent_low']:.2f}..{row['null_exponent_high']:.2f}",
            f"{row['constant']:.3g}",
        ]
        for row in fits.to_dict("records")
    ]
    header = ("t", "distance", "loss", "quadratic", "exponent", "null", "constant")
    return Table(header, rows, align="r" * len(header))


if __name__ == "__main__":
    cli.run(main)
