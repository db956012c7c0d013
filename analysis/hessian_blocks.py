"""Measure the Hessian of a run's network block by block: which parameters hold the curvature.

    python -m analysis.hessian_blocks run=<run folder> [at=start] [method=exact] ...

writes ``hessian_blocks.parquet`` (one row a block) in the run folder.
"""

from __future__ import annotations

import textwrap
import time
from typing import Any, Literal

import pandas as pd
from pydantic import Field
from torch import nn

from analysis.command.measuring import (
    MeasurementOptions,
    explained,
    find_run,
    progress,
    require_done,
    stored_or_measured,
    tell_stored,
)
from analysis.command.views import BLOCK_LEGEND, order, render_blocks
from analysis.curvature_core.blocks import Blocks, asymmetry, estimated_norms, exact_norms
from analysis.curvature_core.objective import cross_entropy
from analysis.curvature_core.products import (
    Group,
    HessianProducts,
    by_parameter,
    by_role,
    dense_hessian,
)
from bench import options as cli
from bench.errors import UserError
from bench.parts import Restored, restore
from bench.table_writer import drawn

PROG = "python -m analysis.hessian_blocks"
NAME = "hessian_blocks"
SMALL = 8192  # parameters: up to here auto forms the Hessian (0.5 GiB in float64)
LARGEST = 32_768  # 8 GiB in float64
DESCRIPTION = """
Measure the Hessian of a run's network block by block: by parameter, and by role (query, key,
value, output, mlp_up, mlp_down, norm, bias, embeddings, head).

A small network's Hessian is formed whole and its norms are exact; for a larger one Frobenius norms
are estimated by Hutchinson's probes and spectral norms by Lanczos, with error bars. Writes
hessian_blocks.parquet in the run folder; python -m analysis.figures kind=curvature draws it.
"""
EXAMPLES = (
    "run=runs/digits-vit_micro-adamw-s0-1a2b3c4d dtype=float64",
    "run='runs/*vit_micro-adamw-s0*' at=start",
    "run=runs/cifar10-vit_tiny-adamw-s0-5e6f7a8b device=cuda batch=512 spectral=all",
)
_HOW = ("batch", "microbatch", "dtype", "mode", "device")
_ESTIMATE = ("probes", "spectral", "steps", "level")


class HessianOptions(MeasurementOptions):
    """Options of the command."""

    at: Literal["trained", "start"] = Field(
        "trained", description="The trained weights, or those that the seed drew at the start."
    )
    method: Literal["auto", "exact", "estimated"] = Field(
        "auto", description=f"The whole Hessian, or estimates; auto: whole up to {SMALL} parameters"
    )
    level: Literal["role", "parameter", "both"] = Field(
        "role", description="Estimates: blocks of roles, of parameters, or both (exact: both)."
    )
    probes: int = Field(64, ge=2, description="Estimates: random vectors a group of parameters.")
    spectral: Blocks = Field("diagonal", description="Estimates: whose spectral norm is wanted.")
    steps: int = Field(40, ge=1, description="Estimates: Lanczos steps a block.")


def main(argv: list[str]) -> None:
    """Run the command."""
    started = time.perf_counter()
    options = cli.parse(HessianOptions, argv, prog=PROG, description=DESCRIPTION, examples=EXAMPLES)
    folder = find_run(options.run)
    require_done(folder)
    restored = restore(folder, options.at, options.trust)
    options.use_threads(restored.config)
    exact = _exact(options, sum(p.numel() for p in restored.model.parameters()))
    wanted: dict[str, Any] = options.model_dump(include={*_HOW, *(() if exact else _ESTIMATE)})
    wanted["method"] = "exact" if exact else "estimated"
    (table,), was_stored = stored_or_measured(
        folder, (NAME,), restored.step, wanted,
        lambda: [_measure(restored, options, exact)], force=options.force,
    )  # fmt: skip
    cli.show(drawn(render_blocks(table)))
    print(textwrap.fill(BLOCK_LEGEND, 88))
    print(textwrap.fill(order(table), 88))
    if was_stored:
        tell_stored(folder)
    print(f"{time.perf_counter() - started:.1f} s")


def _exact(options: HessianOptions, parameters: int) -> bool:
    """Whether the whole Hessian is formed.

    Raises:
        UserError: it was asked for, and is too large.
    """
    if options.method == "exact" and parameters > LARGEST:
        gib = parameters**2 * (8 if options.dtype == "float64" else 4) / 2**30
        raise UserError(
            f"method=exact: the Hessian of {parameters:,} parameters takes {gib:,.0f} GiB; "
            f"up to {LARGEST:,} are formed, use method=estimated"
        )
    return options.method == "exact" or (options.method == "auto" and parameters <= SMALL)


def _measure(restored: Restored, options: HessianOptions, exact: bool) -> pd.DataFrame:
    inputs, labels = restored.batch(options.batch)
    with explained(options):
        products = HessianProducts(
            restored.model, cross_entropy, (inputs, labels), options.settings()
        )
    what = "the whole Hessian" if exact else f"{options.probes} probes, {options.steps} steps"
    print(
        f"measuring step {restored.step} (epoch {restored.epoch:g}) on {len(inputs)} training "
        f"samples: {products.size:,} parameters, {what}, {options.dtype}, {options.mode} mode"
    )
    found = (
        _formed(products, options)
        if exact
        else pd.concat(_estimated(products, options), ignore_index=True)
    )
    found["step"], found["epoch"] = restored.step, float(restored.epoch)
    return found


def _formed(products: HessianProducts, options: HessianOptions) -> pd.DataFrame:
    with explained(options), progress("rows of the Hessian") as report:
        hessian = dense_hessian(products, report)
    print(f"asymmetry of what was computed: {asymmetry(hessian):.1e} of the largest entry")
    tables = [
        exact_norms(hessian, groups, level) for level, groups in _levels(products.model, "both")
    ]
    return pd.concat(tables, ignore_index=True)


def _estimated(products: HessianProducts, options: HessianOptions) -> list[pd.DataFrame]:
    tables = []
    for level, groups in _levels(products.model, options.level):
        with explained(options), progress(f"Hessian products, by {level}") as report:
            tables.append(
                estimated_norms(
                    products,
                    groups,
                    level,
                    probes=options.probes,
                    spectral=options.spectral,
                    steps=options.steps,
                    progress=report,
                )
            )
    return tables


def _levels(model: nn.Module, level: str) -> list[tuple[str, list[Group]]]:
    parameters = by_parameter(model)
    known = [("parameter", parameters), ("role", by_role(parameters))]
    return [(name, groups) for name, groups in known if level in (name, "both")]


if __name__ == "__main__":
    cli.run(main)
