"""A layer's output as a linear map of its weight, and directions u v^T moved through that map.

A Linear or a convolution computes z_t = W a_t at each position t: one a token for a Linear, one a
pixel for a convolution, whose a_t is the patch under it. Along the direction u v^T the output moves
by u (a_t . v), and a loss whose error is delta_t = dL/dz_t moves by sum_t (a_t . v)(delta_t . u).
a . v is the layer itself with v as its filter, so no patch is ever written out. A grouped
convolution has one a_t for each group of its outputs.

B samples, m outputs, g groups, k directions, T positions.

The last layer's output goes into the loss: `factor` is the curvature of the softmax
cross-entropy in the logits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from analysis.curvature_core.objective import Loss

_TINY = 1e-300  # a tail of probabilities below it carries nothing


def factor(logits: Tensor) -> Tensor:
    """Return S [C - 1, B, C] with sum_c S_c S_c^T = diag(p) - p p^T for each sample, p = softmax.

    That is the Hessian of a sample's cross-entropy in its logits [B, C], of rank C - 1. Its
    Cholesky factor has a closed form (Tanabe and Sagae 1992, J. R. Stat. Soc. B 54),

        S_c = sqrt(p_c q_c / q_{c-1}) (e_c - p_{>c} / q_c),    q_c = sum of p_j over j > c,

    which has one column fewer than sqrt(p_c) (e_c - p), c = 1..C, and loses no digits where p is
    nearly one-hot. Computed in float64, returned in the dtype of ``logits``.
    """
    p = logits.detach().double().softmax(dim=-1)
    tail = p.flip(-1).cumsum(-1).flip(-1)
    before, after = tail[:, :-1], tail[:, 1:]
    scale = (p[:, :-1] * after / before.clamp_min(_TINY)).sqrt()
    # [B, column c, entry j]: e_c - p_j / q_c for j > c
    shares = p.unsqueeze(1) / after.clamp_min(_TINY).unsqueeze(2)
    classes = p.shape[-1]
    one = torch.eye(classes, dtype=p.dtype, device=p.device)[:-1]
    columns = scale.unsqueeze(2) * (one - shares.triu(1))
    return columns.transpose(0, 1).to(logits.dtype)


def quadratic(logits: Tensor, moves: Tensor) -> Tensor:
    """Return r^T (diag(p) - p p^T) r summed over all rows of ``moves`` r, shape of ``logits``.

    A float64 scalar: the variance of r under p, which is never negative.
    """
    p, r = logits.detach().double().softmax(dim=-1), moves.double()
    mean = (p * r).sum(dim=-1, keepdim=True)
    return (p * (r - mean) ** 2).sum()


def is_cross_entropy(loss: Loss, logits: Tensor, labels: Tensor) -> bool:
    """Whether the Hessian of ``loss`` in these logits is that of the mean softmax cross-entropy.

    Mean over all rows, each weighing the same; label smoothing changes nothing of it. Compared by
    the product with one random vector, in float64: rows that are ignored or weighted otherwise,
    another scale and another loss are all found.
    """
    leaf = logits.detach().double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf, labels), leaf, create_graph=True)
    if not gradient.requires_grad:
        return False
    stream = torch.Generator().manual_seed(0)
    vector = torch.randn(leaf.shape, generator=stream, dtype=torch.float64).to(leaf.device)
    (product,) = torch.autograd.grad(gradient, leaf, vector)
    p = leaf.detach().softmax(dim=-1)
    expected = p * (vector - (p * vector).sum(dim=-1, keepdim=True))
    rows = leaf.numel() // leaf.shape[-1]
    difference = (product * rows - expected).abs().max()
    return bool(difference <= 1e-9 * expected.abs().max() + 1e-12)


CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
SUPPORTED = (nn.Linear, *CONVOLUTIONS)


class LayerMap:
    """The linear map of one layer.

    Raises:
        ValueError: the module is not exactly a Linear or a Conv1d, 2d, 3d: what a subclass
            computes is not known.
    """

    def __init__(self, name: str, module: nn.Module) -> None:
        if type(module) not in SUPPORTED:
            raise ValueError(f"layer '{name}' is a {type(module).__name__}, no Linear or Conv")
        self.name, self.module = name, module
        conv: Any = None if isinstance(module, nn.Linear) else module
        self._conv = conv
        self.groups: int = 1 if conv is None else conv.groups

    def inward(self, inputs: Tensor, right: Tensor) -> Tensor:
        """Return a_t . v_k of inputs [B, ...] and right vectors [n, k]: [B, g, k, T]."""
        if self._conv is None:
            return (inputs @ right).reshape(len(inputs), -1, right.shape[1]).mT.unsqueeze(1)
        filters = right.T.reshape(-1, *self._conv.weight.shape[1:])
        filters = filters.repeat(self.groups, *[1] * (filters.ndim - 1))
        moved: Tensor = self._conv._conv_forward(inputs, filters, None)  # its padding included
        return moved.reshape(len(inputs), self.groups, right.shape[1], -1)

    def outward(self, inward: Tensor, left: Tensor, like: Tensor) -> Tensor:
        """Return the outputs' move u (a_t . v) in the shape of ``like``.

        ``inward`` [B, g, T] is that of one direction, ``left`` [m] its u.
        """
        moved = left.reshape(1, self.groups, -1, 1) * inward.unsqueeze(2)
        if self._conv is None:
            return moved.squeeze(1).mT.reshape(like.shape)
        return moved.reshape(like.shape)

    def along(self, errors: Tensor, inward: Tensor, left: Tensor) -> Tensor:
        """Return sum_t (a_t . v_k)(delta_t . u_k) of each sample, [B, k].

        ``errors`` is dL/dz in the shape of the outputs, ``left`` [m, k].
        """
        rows = self._rows(errors)
        u = left.reshape(self.groups, -1, left.shape[1])
        if rows.shape[-1] > rows.shape[-2]:  # sum first over what there is more of
            return ((rows @ inward.mT) * u).sum(dim=(1, 2))
        return ((u.mT @ rows) * inward).sum(dim=(1, 3))

    def outputs_along(self, errors: Tensor, left: Tensor) -> Tensor:
        """Return delta_t . u_k of errors in the shape of the outputs: [B, g, k, T]."""
        return left.reshape(self.groups, -1, left.shape[1]).mT @ self._rows(errors)

    def _rows(self, errors: Tensor) -> Tensor:
        """Return errors as [B, g, m / g, T]."""
        if self._conv is None:
            return errors.reshape(len(errors), 1, -1, errors.shape[-1]).mT
        return errors.reshape(len(errors), self.groups, errors.shape[1] // self.groups, -1)


def layer_maps(model: nn.Module, layers: list[str]) -> dict[str, LayerMap]:
    """Return the map of each layer, by its module's name."""
    return {name: LayerMap(name, model.get_submodule(name)) for name in layers}


def first_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return what a layer was called with."""
    found: Tensor = args[0] if args else kwargs["input"]
    return found
