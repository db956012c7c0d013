"""How well C_delta kron C_A stands for a layer's curvature, direction by direction.

For one layer, inputs a_it and errors delta_it of sample i at position t (see
`optimizers.kronecker`, which accumulates the factors), N samples of T positions:

    C_A = 1/N sum_it a a^T [n, n],   C_delta = 1/N sum_it delta delta^T [m, m],
    h_kron_k = (u_k^T C_delta u_k) (v_k^T C_A v_k) / T,

the last being the curvature of the K-FAC-expand approximation C_delta kron (C_A / T); T = 1 for a
Linear without tokens. The errors are one of two, never mixed:

- "class": J^T S_c for the columns of `layers.factor`, which sum over c to the Gauss-Newton
  block; with them and a network piecewise linear above the layer,
  chi_k = h_k / h_kron_k = SUD_k * IAD_k exactly;
- "label": dL_i/d(output) of the sample's own label, the empirical Fisher of the preprint.

SUD and IAD are what K-FAC's two assumptions for convolutions leave out (Grosse and Martens 2016):
spatially uncorrelated derivatives, sum_i (sum_t x_it y_it)^2 / sum_it x_it^2 y_it^2 with
x = a . v_k and y = delta . u_k; and independent activations and derivatives,
mean_it[x^2 y^2] / (mean_it[x^2] mean_it[y^2]): the concentration ratio SoP / PoS.

By Cauchy and Schwarz sigma_k^2 <= (u_k^T C_delta u_k)(v_k^T C_A v_k) with label errors: checked on
every measurement, for it fails where errors are those of a mean instead of a sample's own loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from analysis.curvature_core import layers
from analysis.curvature_core.directions import Directions
from analysis.curvature_core.layers import LayerMap, layer_maps
from analysis.curvature_core.objective import Batch, Loss, Objective, Settings
from analysis.curvature_core.piecewise_linear import Probe
from optimizers.kronecker import KroneckerFactors, supports

Errors: TypeAlias = Literal["class", "label"]
MAX_CLASSES = 256  # of "class" errors, each of which is a backward pass


@dataclass(frozen=True)
class KroneckerSide:
    """One layer's factors along its directions; float64 on the CPU, [k] unless noted.

    Attributes:
        delta: u_k^T C_delta u_k.
        inputs: v_k^T C_A v_k.
        delta_spectrum: eigenvalues of C_delta, descending, [m].
        input_spectrum: eigenvalues of C_A, descending, [n].
        positions: T.
        sud, iad: see above; NaN where both parts are zero.
    """

    delta: Tensor
    inputs: Tensor
    delta_spectrum: Tensor
    input_spectrum: Tensor
    positions: float
    sud: Tensor
    iad: Tensor

    @property
    def h_kron(self) -> Tensor:
        """Curvature of the approximation along each direction."""
        return self.delta * self.inputs / self.positions


def kronecker_sides(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    directions: Mapping[str, Directions],
    *,
    errors: Errors,
    settings: Settings | None = None,
) -> dict[str, KroneckerSide]:
    """Measure the Kronecker side of each layer that has one: Linear and ungrouped convolutions.

    Other layers of ``directions`` are left out: the block of a grouped convolution has factors
    for each two of its groups, not one pair. Arguments as of
    `analysis.curvature_core.engines.curvature`.

    Raises:
        ValueError: "class" errors of a loss that is not the mean softmax cross-entropy, or of
            logits that are not [B, C] with at most 256 classes; BatchNorm in train mode; a bound
            that cannot be exceeded is (label errors), which is a mistake of scale.
    """
    objective = Objective(model, loss, batch, directions, settings, copies=4)
    if objective.couples_samples:
        raise ValueError("BatchNorm in train mode: a sample has no errors of its own")
    names = [name for name in directions if supports(objective.model.get_submodule(name))]
    if not names:
        return {}
    maps = layer_maps(objective.model, names)
    objective.model.requires_grad_(False)
    moments = {
        name: _Moments(maps[name], directions[name], objective.weights[name]) for name in maps
    }
    probe = Probe(maps, {name: found.right for name, found in moments.items()})
    modules = {name: layer.module for name, layer in maps.items()}
    with KroneckerFactors(reduction="sum", dtype=torch.float64) as factors:
        for index in range(objective.microbatches):
            with objective.part(index) as (inputs, labels):
                with probe.watching():
                    for name, module in modules.items():  # after the probe, whose output they see
                        factors.watch(name, module)
                    logits = objective.model(inputs)
                factors.remove()
                for column in _columns(objective, logits, labels, errors):
                    found = torch.autograd.grad(
                        logits, list(probe.zeros.values()), column,
                        retain_graph=True, materialize_grads=True,
                    )  # fmt: skip
                    for name, error in zip(probe.zeros, found, strict=True):
                        moments[name].add(error, probe.inward[name])
        gathered = factors.pop_all()
    sides = {}
    for name in maps:
        if name in gathered:  # else the loss does not see it
            sides[name] = moments[name].side(gathered[name].input, gathered[name].output,
                                             gathered[name].positions, objective.size)  # fmt: skip
    if errors == "label":
        check_scale(sides, directions)
    return sides


def check_scale(sides: Mapping[str, KroneckerSide], directions: Mapping[str, Directions]) -> None:
    """Raise ValueError where sigma_k^2 exceeds (u^T C_delta u)(v^T C_A v) of label errors."""
    for name, side in sides.items():
        squared = directions[name].sigma.cpu().double() ** 2
        bound = side.delta * side.inputs
        over = squared > bound * (1 + 1e-4) + 1e-12 * squared.max()
        if bool(over.any()):
            worst = float((squared / bound.clamp_min(1e-300)).max())
            raise ValueError(
                f"layer '{name}': sigma^2 is {worst:.3g} times its Cauchy-Schwarz bound; the "
                "errors are not those of each sample's own loss, or not of the gradient's batch"
            )


def _columns(objective: Objective, logits: Tensor, labels: Tensor, errors: Errors) -> list[Tensor]:
    """Return what is passed back from the logits."""
    if errors == "label":
        leaf = logits.detach().requires_grad_()
        (column,) = torch.autograd.grad(objective.criterion(leaf, labels), leaf)
        return [column * len(logits)]
    if logits.ndim != 2 or logits.shape[1] > MAX_CLASSES:
        raise ValueError(
            f"class errors need logits [B, C] with C <= {MAX_CLASSES}, not {tuple(logits.shape)}"
        )
    if not layers.is_cross_entropy(objective.criterion, logits, labels):
        raise ValueError("class errors are those of the mean softmax cross-entropy")
    return list(layers.factor(logits))


class _Moments:
    """Sums over samples, positions and columns of what one layer's directions see."""

    def __init__(self, layer: LayerMap, directions: Directions, like: Tensor) -> None:
        self.layer = layer
        self.left, self.right = directions.left.to(like), directions.right.to(like)
        zero = torch.zeros(len(directions), dtype=torch.float64, device=like.device)
        self.whole, self.apart, self.delta = zero, zero.clone(), zero.clone()

    @torch.no_grad()
    def add(self, errors: Tensor, inward: Tensor) -> None:
        x = inward.squeeze(1)  # [B, k, T]
        y = self.layer.outputs_along(errors, self.left).squeeze(1)
        product = x * y
        self.whole = self.whole + product.sum(dim=2).double().square().sum(dim=0)
        self.apart = self.apart + product.square().sum(dim=(0, 2)).double()
        self.delta = self.delta + y.square().sum(dim=(0, 2)).double()

    def side(self, c_a: Tensor, c_delta: Tensor, positions: float, samples: int) -> KroneckerSide:
        """Return the layer's numbers from these sums and its factors."""
        u, v = self.left.double(), self.right.double()
        delta, inputs = ((u * (c_delta @ u)).sum(0), (v * (c_a @ v)).sum(0))
        product = delta * inputs / positions  # samples * (mean over positions of x^2 y^2)
        return KroneckerSide(
            delta=delta.cpu(),
            inputs=inputs.cpu(),
            delta_spectrum=_spectrum(c_delta),
            input_spectrum=_spectrum(c_a),
            positions=positions,
            sud=(self.whole / self.apart).cpu(),
            iad=(self.apart / samples / product).cpu(),
        )


def _spectrum(factor: Tensor) -> Tensor:
    values: Tensor = torch.linalg.eigvalsh(factor)
    return values.flip(0).clamp_min(0).cpu()
