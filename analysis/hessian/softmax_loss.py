"""The curvature of the softmax cross-entropy in the logits, and whether a loss is just that."""

from __future__ import annotations

import torch
from torch import Tensor

from analysis.objective import Loss

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
