"""What a run calls to measure itself; named in conf/trainer by its ``_target_``."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from analysis.curvature_core.engines import Engine
from analysis.curvature_core.objective import Mode, Settings
from analysis.measure import files
from analysis.measure.network import Measurement, measure


@dataclass(frozen=True)
class CurvatureCallback:
    """Measures curvature and exponents of every weight layer, as `analysis.curvature` does.

    Attributes:
        directions: directions a layer, at most its smaller side.
        batch: training samples, unaugmented, from the first on; the caller gives them.
        engine: see `analysis.curvature_core.engines`.
        microbatch: samples a pass, "auto" for as many as fit in memory.
        dtype: "float32" or "float64", the precision of h; sigma is always float64.
        mode: BatchNorm and dropout as in evaluation ("eval") or training ("train").
    """

    directions: int = 20
    batch: int = 2048
    engine: Engine | Literal["auto"] = "auto"
    microbatch: int | Literal["auto"] = "auto"
    dtype: Literal["float32", "float64"] = "float32"
    mode: Mode = "eval"

    def __post_init__(self) -> None:
        if self.directions < 1 or self.batch < 1:
            raise ValueError("curvature: directions and batch must be at least 1")
        self.settings()

    def settings(self) -> Settings:
        """Return how to compute: on the network's own device."""
        return Settings(getattr(torch, self.dtype), self.microbatch, self.mode)

    def __call__(
        self, model: nn.Module, batch: tuple[Tensor, Tensor], folder: Path, step: int, epoch: float
    ) -> dict[str, float]:
        """Measure, add to the tables in ``folder``, and return what is to be logged.

        The network is left as it was. A measurement that is not possible (memory, values that are
        not finite) is said in one line and skipped: it must not end a run.

        Returns:
            "alpha/<layer>", "gamma/<layer>", "s/<layer>" where they are finite, and
            "curvature/reliable", the share of reliable layers.
        """
        try:
            found = measure(
                model,
                *batch,
                self.directions,
                engine=self.engine,
                settings=self.settings(),
                step=step,
                epoch=epoch,
            )
            options = dataclasses.asdict(self)
            files.add(folder, found, {**options, "device": batch[0].device.type})
        except (ValueError, OSError, torch.OutOfMemoryError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            print(f"{folder.name}: no curvature at epoch {epoch:g}: {reason}", flush=True)
            return {}
        return logged(found)


def logged(found: Measurement) -> dict[str, float]:
    """Return a measurement's exponents by layer, those that are finite."""
    values: dict[str, Any] = {}
    for row in found.exponents.to_dict("records"):
        values |= {f"{name}/{row['layer']}": row[name] for name in ("alpha", "gamma", "s")}
    finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
    return finite | {"curvature/reliable": float(found.exponents["reliable"].mean())}
