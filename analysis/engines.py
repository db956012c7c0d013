"""Exact directional curvature h_k of every layer, by whichever exact engine is fastest.

h_k = vec(u_k v_k^T)^T H vec(u_k v_k^T), H the exact Hessian of the mean loss in one layer's weight.
It is a Rayleigh quotient, not an eigenvalue, and it may be negative. All engines compute the same
numbers; none takes a finite difference.

| engine | valid | cost, in forward passes |
|---|---|---|
| sweep | softmax of logits [B, C] piecewise linear above each weight | about C, in all |
| tangent | the same, and logits [B, ..., C] | 1 to 2 a direction, from the layer up |
| double_backward | what autograd can differentiate twice | 1.7-4 a direction, from the layer up |
| forward_over_reverse | the same, but BatchNorm in train mode | 3 to 6 a direction, whole network |

The rule of engine="auto": where `analysis.hessian.piecewise_linear` finds no obstacle, sweep if
C - 1 is at most half the number of all directions, else tangent; where it finds one,
double_backward. An engine that is named is refused, with the reason, where it would be wrong.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple, TypeAlias

from torch import Tensor, nn

from analysis import hvp
from analysis.directions import Directions
from analysis.hessian import forward_over_reverse as forward
from analysis.hessian.piecewise_linear import examine
from analysis.hessian.sweep import class_sweep, tangent
from analysis.objective import Batch, Loss, Objective, Settings, matrix_shape

Engine: TypeAlias = Literal["sweep", "tangent", "double_backward", "forward_over_reverse"]
Report: TypeAlias = Callable[[], None]
ENGINES: tuple[Engine, ...] = ("sweep", "tangent", "double_backward", "forward_over_reverse")
# What a forward pass keeps is held this many times at most: its graph, the graph of its gradients,
# and by each direction on its way back through it.
_COPIES: dict[Engine, int] = {
    "sweep": 6,
    "tangent": 6,
    "double_backward": 6 + 2 * hvp.CHUNK,
    "forward_over_reverse": 6 * forward.CHUNK,
}


class Choice(NamedTuple):
    """An engine, and in one line why it is the one."""

    engine: Engine
    reason: str


def curvature(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    layers: Iterable[str],
    directions: Mapping[str, Directions],
    *,
    engine: Engine | Literal["auto"] = "auto",
    settings: Settings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Tensor]:
    """Return h[layer][k] along each layer's directions, [k] float64 on the CPU.

    ``directions`` holds those of each layer, as `gradient_directions` gives them; ``progress`` is
    called with (done, total) as parts are done; the other arguments are those of
    `analysis.objective.Objective`.

    Raises:
        ValueError: a layer without directions, directions of another shape than the layer's
            matrix, a named engine that does not apply, or what `Objective` refuses.
    """
    names, how = list(layers), settings or Settings()
    if engine not in ("auto", *ENGINES):
        raise ValueError(f"engine must be 'auto' or one of {', '.join(ENGINES)}, got {engine!r}")
    for layer in names:
        _check(layer, matrix_shape(model, layer), directions)
    wanted = {layer: directions[layer] for layer in names}
    chosen = choose(model, loss, batch, names, wanted, settings=how, engine=engine).engine
    return compute(chosen, model, loss, batch, wanted, settings=how, progress=progress)


def compute(
    engine: Engine,
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    directions: Mapping[str, Directions],
    *,
    settings: Settings,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Tensor]:
    """Return h[layer][k] as `curvature` does, by the engine that `choose` found to apply here."""
    objective = Objective(model, loss, batch, directions, settings, copies=_COPIES[engine])
    parts = 1 if engine == "sweep" else len(directions)
    report = _counter(objective.microbatches * parts, progress)
    engines: dict[Engine, Callable[..., dict[str, Tensor]]] = {
        "sweep": class_sweep,
        "tangent": tangent,
        "double_backward": hvp.double_backward,
        "forward_over_reverse": forward.forward_over_reverse,
    }
    return engines[engine](objective, directions, report)


def choose(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    layers: list[str],
    directions: Mapping[str, Directions],
    *,
    settings: Settings,
    engine: Engine | Literal["auto"] = "auto",
) -> Choice:
    """Return the engine by the rule above; ``engine`` is only checked where it names one.

    Raises:
        ValueError: the engine that was named does not apply here.
    """
    if engine in ("double_backward", "forward_over_reverse"):
        return Choice(engine, "it was asked for")
    reason, logits = examine(model, loss, batch, layers, settings)
    if reason is None and engine == "sweep" and len(logits) != 1:
        reason = f"it needs logits [B, C], not [B, {', '.join(map(str, logits))}]"
    if engine != "auto":
        if reason is not None:
            raise ValueError(f"engine '{engine}' does not apply: {reason}; use double_backward")
        return Choice(engine, "it was asked for")
    if reason is not None:
        return Choice("double_backward", reason)
    classes, along = logits[-1], sum(len(directions[layer]) for layer in layers)
    if len(logits) == 1 and classes - 1 <= along / 2:
        return Choice("sweep", f"piecewise linear, {classes} classes, {along} directions")
    return Choice("tangent", f"piecewise linear, logits {logits}, {along} directions")


def _counter(total: int, progress: Callable[[int, int], None] | None) -> Report:
    done = itertools.count(1)

    def report() -> None:
        if progress is not None:
            progress(next(done), total)

    return report


def _check(layer: str, shape: tuple[int, ...], directions: Mapping[str, Directions]) -> None:
    if layer not in directions:
        raise ValueError(f"layer '{layer}' has no directions")
    if directions[layer].shape != shape:
        raise ValueError(
            f"layer '{layer}': directions of a {directions[layer].shape} matrix do not fit its "
            f"weight, which is {shape}"
        )
