"""Measure the Hessian of a run's network block by block: which parameters hold the curvature.

    spectral-bench hessian-blocks run=<run folder> [at=start] [method=exact] ...

writes ``hessian_blocks.parquet`` (one row a block) in the run folder.
"""

from __future__ import annotations

from typing import Literal

import pandas as pd
from pydantic import Field
from torch import nn

from analysis.command.measuring import (
    MeasurementOptions,
    Subject,
    explained,
    measuring,
    progress,
    show,
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

PROG = "spectral-bench hessian-blocks"
NAME = "hessian_blocks"
SMALL = 8192  # parameters: up to here auto forms the Hessian (0.5 GiB in float64)
LARGEST = 32_768  # 8 GiB in float64
DESCRIPTION = """
Measure the Hessian of a run's network block by block: by parameter, and by role (query, key,
value, output, mlp_up, mlp_down, norm, bias, embeddings, head).

A small network's Hessian is formed whole and its norms are exact; for a larger one Frobenius norms
are estimated by Hutchinson's probes and spectral norms by Lanczos, with error bars. Writes
hessian_blocks.parquet in the run folder; spectral-bench figures kind=curvature draws it.
"""
EXAMPLES = (
    "run=runs/digits-vit_micro-adamw-s0-1a2b3c4d dtype=float64",
    "run='runs/*vit_micro-adamw-s0*' at=start",
    "run=runs/cifar10-vit_tiny-adamw-s0-5e6f7a8b device=cuda batch=512 spectral=all",
)
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
    with measuring(
        HessianOptions, argv, prog=PROG, description=DESCRIPTION, examples=EXAMPLES
    ) as subject:
        options = subject.options
        exact = _exact(options, sum(p.numel() for p in subject.restored.model.parameters()))
        wanted = options.model_dump(include=set() if exact else set(_ESTIMATE))
        wanted["method"] = "exact" if exact else "estimated"
        (table,), was_stored = subject.tables((NAME,), wanted, lambda: [_measure(subject, exact)])
        show(render_blocks(table), BLOCK_LEGEND, order(table))
        if was_stored:
            subject.print_stored()


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


def _measure(subject: Subject[HessianOptions], exact: bool) -> pd.DataFrame:
    options, restored = subject.options, subject.restored
    batch = restored.batch(options.batch)
    with explained(options):
        products = HessianProducts(restored.model, cross_entropy, batch, options.settings())
    what = "the whole Hessian" if exact else f"{options.probes} probes, {options.steps} steps"
    subject.announce(
        len(batch[0]),
        f": {products.size:,} parameters, {what}, {options.dtype}, {options.mode} mode",
    )
    blocks = _formed(products, options) if exact else _estimated(products, options)
    blocks["step"], blocks["epoch"] = restored.step, float(restored.epoch)
    return blocks


def _formed(products: HessianProducts, options: HessianOptions) -> pd.DataFrame:
    with explained(options), progress("rows of the Hessian") as report:
        hessian = dense_hessian(products, report)
    print(f"asymmetry of what was computed: {asymmetry(hessian):.1e} of the largest entry")
    tables = [
        exact_norms(hessian, groups, level) for level, groups in _levels(products.model, "both")
    ]
    return pd.concat(tables, ignore_index=True)


def _estimated(products: HessianProducts, options: HessianOptions) -> pd.DataFrame:
    tables = []
    for level, groups in _levels(products.model, options.level):
        with explained(options), progress(f"Hessian products, by {level}") as report:
            tables.append(
                estimated_norms(
                    products, groups, level, probes=options.probes, spectral=options.spectral,
                    steps=options.steps, progress=report,
                )
            )  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def _levels(model: nn.Module, level: str) -> list[tuple[str, list[Group]]]:
    parameters = by_parameter(model)
    known = [("parameter", parameters), ("role", by_role(parameters))]
    return [(name, groups) for name, groups in known if level in (name, "both")]


if __name__ == "__main__":
    cli.run(main)
