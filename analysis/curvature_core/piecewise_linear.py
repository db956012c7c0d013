"""Whether the logits are piecewise linear above every measured weight: found out, not assumed.

Where they are, and the loss is the mean softmax cross-entropy, the exact Hessian in one layer's
weight is its Gauss-Newton block: the second derivative of the logits in that weight vanishes almost
everywhere. A few samples are passed through the network in float64, and each assumption is tested
on what the network does, not on what it is called: a functional GELU, a softmax inside, attention,
a product of activations, BatchNorm in train mode, a weight used twice are all found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from analysis.curvature_core.layers import LayerMap, first_input, is_cross_entropy, layer_maps
from analysis.curvature_core.objective import (
    Batch,
    Loss,
    Objective,
    Settings,
    check_twice_differentiable,
    couples_samples,
    graph_nodes,
)

_SAMPLES = 4
_SILENT = 1  # the sample whose logits are left out: nothing else may depend on what it holds
_TOLERANCE = 1e-9  # of float64 comparisons, relative; what is wrong is off by far more
# Autograd's names of functions that bend; others that do are found by their second derivative.
_SMOOTH = re.compile(
    r".*(Attention|Gelu|Silu|Sigmoid|Softmax|Softplus|(Group|Layer|Rms)Norm|Mish|Hardswish|Tanh).*"
    r"|Elu|Erf|Exp|Log|Pow|Rsqrt"
)


class Finding(NamedTuple):
    """What `examine` found out.

    Attributes:
        obstacle: why the Gauss-Newton block of a layer is not its exact Hessian; None if it is.
        logits: shape of one sample's logits, (C,) or (..., C); () where it was not seen.
    """

    obstacle: str | None
    logits: tuple[int, ...] = ()


class Probe:
    """Hooks on the layers: what went in (moved along ``right``), and a zero added to what came out.

    The zeros are leaves, so that derivatives in a layer's output are taken at them, whatever the
    network then does to that output in place.
    """

    def __init__(self, maps: dict[str, LayerMap], right: dict[str, Tensor]) -> None:
        self.maps, self.right = maps, right
        self.inward: dict[str, Tensor] = {}
        self.zeros: dict[str, Tensor] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """See what passes through the layers in the block."""
        self.inward, self.zeros = {}, {}
        handles = [
            layer.module.register_forward_hook(self._hook(layer), with_kwargs=True)
            for layer in self.maps.values()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, layer: LayerMap) -> Any:
        def hook(_: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
            if layer.name in self.inward:
                raise ValueError(f"layer '{layer.name}' is called more than once")
            inputs = first_input(args, kwargs).detach()
            self.inward[layer.name] = layer.inward(inputs, self.right[layer.name])
            self.zeros[layer.name] = torch.zeros_like(output).requires_grad_()
            return output + self.zeros[layer.name]

        return hook


def examine(
    model: nn.Module, loss: Loss, batch: Batch, layers: list[str], settings: Settings
) -> Finding:
    """Look for what makes a layer's Gauss-Newton block differ from its exact Hessian.

    Arguments as of `analysis.curvature_core.objective.Objective`; the first few samples of the
    batch are used.
    """
    if couples_samples(model, settings):
        return Finding("BatchNorm in train mode couples samples and bends")
    few = (batch[0][:_SAMPLES], batch[1][:_SAMPLES])
    exact = replace(settings, dtype=torch.float64, microbatch=None, autotune=False)
    objective = Objective(model, loss, few, layers, exact)
    objective.model.requires_grad_(False)
    for weight in objective.weights.values():
        weight.requires_grad_(True)
    try:
        maps = layer_maps(objective.model, layers)
        with objective.part(0) as (inputs, labels):
            return _examine(objective, maps, inputs, labels)
    except (ValueError, RuntimeError) as error:  # also what has no second derivative
        return Finding(str(error).strip().splitlines()[0])


def _examine(
    objective: Objective, maps: dict[str, LayerMap], inputs: Tensor, labels: Tensor
) -> Finding:
    device = objective.device
    stream = torch.Generator(device).manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=stream, dtype=torch.float64, device=device)

    left = {n: noise(len(w), 1) for n, w in objective.weights.items()}
    probe = Probe(maps, {n: noise(w[0].numel(), 1) for n, w in objective.weights.items()})
    with probe.watching():
        logits = objective.model(inputs)
    missing = [name for name in maps if name not in probe.zeros]
    if missing:
        return Finding(f"layer '{missing[0]}' is never called as a module")
    if not isinstance(logits, Tensor) or logits.ndim < 2 or len(logits) != len(inputs):
        return Finding("the network's output is no tensor of logits [B, ..., C]")
    if not is_cross_entropy(objective.criterion, logits, labels):
        return Finding("the loss is not the mean softmax cross-entropy of the outputs")
    smooth = _smooth(logits)
    if smooth is not None:
        return Finding(smooth, tuple(logits.shape[1:]))
    weights = noise(*logits.shape)
    weights[_SILENT : _SILENT + 1] = 0
    total = (logits * weights.requires_grad_()).sum()
    slopes = _slopes(total, probe.zeros, objective.weights)
    check_twice_differentiable(slopes.errors.values())
    reason = (
        _coupled(slopes, len(logits))
        or _bent(slopes, probe.zeros, [noise(*zero.shape) for zero in probe.zeros.values()])
        or _used_elsewhere(slopes, probe, left)
    )
    return Finding(reason, tuple(logits.shape[1:]))


def _smooth(logits: Tensor) -> str | None:
    """Name the smooth nonlinear functions between the weights and the logits."""
    nodes = (type(node).__name__ for node in graph_nodes([logits]))
    called = (name.rstrip("0123456789").removesuffix("Backward") for name in nodes)
    names = set(filter(_SMOOTH.fullmatch, called))
    return f"the network bends above a weight ({', '.join(sorted(names))})" if names else None


class _Slopes(NamedTuple):
    """First derivatives of a sum of logits, by layer: in its output (with a graph) and weight."""

    errors: dict[str, Tensor]
    gradients: dict[str, Tensor]


def _slopes(total: Tensor, zeros: dict[str, Tensor], weights: dict[str, nn.Parameter]) -> _Slopes:
    found = _derivatives(total, [*zeros.values(), *(weights[name] for name in zeros)])
    return _Slopes(
        dict(zip(zeros, found[: len(zeros)], strict=True)),
        {n: g.detach() for n, g in zip(zeros, found[len(zeros) :], strict=True)},
    )


def _derivatives(of: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    if not of.requires_grad:
        return [torch.zeros_like(value) for value in inputs]
    return list(torch.autograd.grad(of, inputs, materialize_grads=True, create_graph=True))


def _coupled(slopes: _Slopes, samples: int) -> str | None:
    """Whether other samples' logits depend on what the silent one's layers hold."""
    for name, error in slopes.errors.items():
        silent = error[_SILENT : _SILENT + 1]
        if len(error) != samples or bool((silent != 0).any()):
            return f"samples are not independent, or not first, in the output of layer '{name}'"
    return None


def _bent(slopes: _Slopes, zeros: dict[str, Tensor], moves: list[Tensor]) -> str | None:
    """Whether the logits have a second derivative in the layers' outputs, all moved at once."""
    errors = list(slopes.errors.values())
    along = torch.stack([(e * d).sum() for e, d in zip(errors, moves, strict=True)]).sum()
    for name, again in zip(slopes.errors, _derivatives(along, list(zeros.values())), strict=True):
        slope, bend = (float(d.detach().abs().max()) for d in (slopes.errors[name], again))
        if bend > _TOLERANCE * slope:  # of the layer's own: another's may be larger by far
            found = f"first derivative {slope:.1e}, second derivative {bend:.1e}"
            return f"the network bends above a weight ({found} in the output of layer '{name}')"
    return None


def _used_elsewhere(slopes: _Slopes, probe: Probe, left: dict[str, Tensor]) -> str | None:
    """Whether a weight's gradient is not that of the one call of its layer."""
    for name, gradient in slopes.gradients.items():
        u, v, error = left[name], probe.right[name], slopes.errors[name].detach()
        ours = probe.maps[name].along(error, probe.inward[name], u).sum()
        theirs = (u.mT @ gradient.flatten(1) @ v).sum()
        if abs(float(ours - theirs)) > _TOLERANCE * float(gradient.norm() * u.norm() * v.norm()):
            return f"the weight of layer '{name}' is used elsewhere too, or otherwise"
    return None
