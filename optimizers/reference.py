"""Every optimizer of this package as a paper would print it. Read this file first.

One function a rule: it takes a weight W, its gradient G and the state of the rule, and returns the
new weight and the new state. Everything is exact and in float64: singular values come from an SVD,
inverses from an inversion. Nothing here is batched, compiled or meant for training. A weight of
more than two dimensions, a convolution's, is the matrix ``[out, in*kh*kw]``.

The classes that train have the names of these functions (``SpectralNewton`` of
:func:`spectral_newton`, and so on) and the same hyperparameters. They compute the same without an
SVD, many matrices at a time. How closely, relative to the distance that a weight has moved:

- 1e-6 in float64, and 1e-4 in float32 (Spectral Newton with d < 0.1: 1e-5 / d);
- ``scale="amplitude"`` of Spectral Newton to 1e-3: the class knows sigma_1 by a bound;
- the fast methods of Spectral Newton (polynomial, rational; the default on a GPU) to their
  ``tolerance``, 1 %, of the largest singular value that an update can have;
- Muon with the float16 products that it has on a GPU to 2 %.

``tests/optimizers/test_reference.py`` measures this, and compares this file with what is known
independently: closed forms, torch's optimizers, a solve with a whole Kronecker product.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

Moments = tuple[Tensor, Tensor, int]
Rule = TypeVar("Rule", bound=Callable[..., object])
MUON_QUINTIC = (3.4445, -4.7750, 2.0315)
_TINY = torch.finfo(torch.float64).tiny  # what a norm of zero is replaced by: 0 / _TINY = 0


# -- functions of singular values -----------------------------------------------------------------


def svd(N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U ``[m, k]``, descending sigma ``[k]`` and V^T ``[k, n]`` of a matrix, in float64."""
    U, sigma, Vh = torch.linalg.svd(N.double(), full_matrices=False)
    return U, sigma, Vh


def normalized(sigma: Tensor, normalize: str) -> Tensor:
    """Descending singular values ``[k]``, divided by the norm of them that is named."""
    if normalize == "none" or sigma[0] == 0:
        return sigma
    sigma = sigma / sigma[0]  # no power overflows
    norms: dict[str, Tensor] = {
        "spectral": sigma[0],
        "frobenius": sigma.norm(),
        "rms": sigma.square().mean().sqrt(),
        "schatten8": sigma.norm(p=8),
    }
    return sigma / norms[normalize]


def transfer(N: Tensor, alpha: float, damping: float, normalize: str) -> Tensor:
    """U diag(T(sigma)) V^T of a matrix ``[m, n]``, with T(sigma) = sigma / (sigma^alpha + d).

    Source: Calvo 2026 (arXiv 2606.02596), section 7.3.
    """
    U, sigma, Vh = svd(N)
    sigma = normalized(sigma, normalize)
    return U @ torch.diag(sigma / (sigma**alpha + damping)) @ Vh


def amplitude(N: Tensor, alpha: float, damping: float, normalize: str) -> Tensor:
    """The largest T(sigma) on [0, sigma_1]: T peaks at (d / (alpha - 1))^(1/alpha) if alpha > 1."""
    top = normalized(torch.linalg.svdvals(N.double()), normalize)[0]
    if alpha > 1:
        top = top.clamp(max=(damping / (alpha - 1)) ** (1 / alpha))
    return top / (top**alpha + damping)


def polar_factor(N: Tensor) -> Tensor:
    """U V^T of a matrix ``[m, n]``, without the directions whose sigma is zero but for rounding."""
    U, sigma, Vh = svd(N)
    real = sigma > sigma[0] * max(N.shape) * torch.finfo(torch.float64).eps
    return U[:, real] @ Vh[real]


def newton_schulz(N: Tensor, quintics: Sequence[Sequence[float]]) -> Tensor:
    """Muon's approximation of U V^T: each (a, b, c) maps sigma to a sigma + b sigma^3 + c sigma^5.

    It starts from sigma / ||sigma||. Source: Jordan et al., "Muon" (2024).
    """
    U, sigma, Vh = svd(N)
    sigma = sigma / sigma.norm().clamp(min=1e-7)
    for a, b, c in quintics:
        sigma = a * sigma + b * sigma**3 + c * sigma**5
    return U @ torch.diag(sigma) @ Vh


def scrambled(N: Tensor, spectrum: str, stream: torch.Generator, eps: float) -> Tensor:
    """U diag(tau) V^T with random tau >= 0 of the norm of U V^T, drawn from ``stream``.

    ``spectrum``: "uniform" on [0, 1], or N's own sigma "permuted". ``eps`` is the precision of N: a
    sigma below max(m, n) eps sigma_1 counts as zero and stays so.
    """
    U, sigma, Vh = svd(N)
    real = sigma > sigma[0] * max(N.shape) * eps
    rank = int(real.sum())
    if spectrum == "uniform":
        tau = torch.rand(len(sigma), generator=stream, dtype=torch.float64)
    else:
        tau = torch.cat([sigma[:rank][torch.randperm(rank, generator=stream)], sigma[rank:]])
    tau = tau * real
    return U @ torch.diag(tau * math.sqrt(rank) / tau.norm().clamp(min=_TINY)) @ Vh


def shape_scale(matrix: Tensor, scale: str) -> float:
    """Muon's factor for a matrix of this shape: Jordan et al.'s, or Moonlight's (AdamW's RMS)."""
    rows, cols = matrix.shape
    return {
        "original": math.sqrt(max(1, rows / cols)),
        "match_rms_adamw": 0.2 * math.sqrt(max(rows, cols)),
    }[scale]


# -- rules for matrices: the state is the momentum M, zero at first --------------------------------


def momenta(G: Tensor, M: Tensor, momentum: float, nesterov: bool) -> tuple[Tensor, Tensor]:
    """The new M and what is stepped along, N: M, or with Nesterov's look-ahead once more."""
    M = momentum * M.double() + (1 - momentum) * G.double()
    return M, momentum * M + (1 - momentum) * G.double() if nesterov else M


def stepped(W: Tensor, update: Tensor, lr: float, weight_decay: float) -> Tensor:
    """W <- (1 - lr weight_decay) W - lr update."""
    return (1 - lr * weight_decay) * W.double() - lr * update.reshape(W.shape)


def spectral_newton(
    W: Tensor,
    G: Tensor,
    M: Tensor,
    *,
    lr: float = 0.02,
    momentum: float = 0.95,
    nesterov: bool = True,
    alpha: float = 2.0,
    damping: float = 0.03,
    normalize: str = "schatten8",
    scale: str = "frobenius",
    weight_decay: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Spectral Newton (Calvo 2026, arXiv 2606.02596, section 7.3), which leaves the scales open.

    ``alpha`` may be the layer's own, measured. ``scale``: "raw"; "amplitude", spectral norm <= 1;
    "frobenius", the norm of an orthogonal matrix in Muon's scale.
    """
    M, N = momenta(G, M, momentum, nesterov)
    N = N.flatten(1)
    update = transfer(N, alpha, damping, normalize)
    if scale == "amplitude":
        update = update / amplitude(N, alpha, damping, normalize).clamp(min=_TINY)
    elif scale == "frobenius":
        size = math.sqrt(min(N.shape)) * shape_scale(N, "original")
        update = size * update / update.norm().clamp(min=_TINY)
    return stepped(W, update, lr, weight_decay), M


def muon(
    W: Tensor,
    G: Tensor,
    M: Tensor,
    *,
    lr: float = 0.02,
    momentum: float = 0.95,
    nesterov: bool = True,
    ns_steps: int | None = 5,
    ns_coefficients: Sequence[float] = MUON_QUINTIC,
    scale: str = "original",
    weight_decay: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Muon (Jordan et al. 2024); ``ns_steps=None`` takes the polar factor that it approximates."""
    M, N = momenta(G, M, momentum, nesterov)
    N = N.flatten(1)
    quintics = [ns_coefficients] * (ns_steps or 0)
    update = newton_schulz(N, quintics) if ns_steps else polar_factor(N)
    return stepped(W, shape_scale(N, scale) * update, lr, weight_decay), M


def scrambled_muon(
    W: Tensor,
    G: Tensor,
    M: Tensor,
    *,
    stream: torch.Generator,
    eps: float = torch.finfo(torch.float64).eps,
    lr: float = 0.02,
    momentum: float = 0.95,
    nesterov: bool = True,
    spectrum: str = "uniform",
    scale: str = "original",
    weight_decay: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The control for Muon: its singular directions, with random numbers for singular values.

    ``stream`` is :func:`draw` of this weight and step.
    """
    M, N = momenta(G, M, momentum, nesterov)
    N = N.flatten(1)
    update = scrambled(N, spectrum, stream, eps)
    return stepped(W, shape_scale(N, scale) * update, lr, weight_decay), M


def draw(seed: int, name: str, step: int) -> torch.Generator:
    """The random numbers of the weight ``name`` at its ``step``, counted from 0."""
    digest = hashlib.sha256(f"{seed}/{name}/{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def momentum_over_damping(
    W: Tensor,
    G: Tensor,
    M: Tensor,
    *,
    lr: float = 0.1,
    momentum: float = 0.95,
    nesterov: bool = True,
    damping: float = 0.1,
    weight_decay: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The control for Spectral Newton: T(sigma) = sigma / d, its limit for small sigma."""
    M, N = momenta(G, M, momentum, nesterov)
    return stepped(W, N / damping, lr, weight_decay), M


# -- rules for every parameter: the state is (first moment, second moment, steps made) -------------


def adamw(
    W: Tensor,
    G: Tensor,
    moments: Moments,
    *,
    lr: float = 1e-3,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> tuple[Tensor, Moments]:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101), the rule of all that is no hidden matrix."""
    G, (first, second, steps) = G.double(), moments
    first = betas[0] * first + (1 - betas[0]) * G
    second = betas[1] * second + (1 - betas[1]) * G**2
    steps = steps + 1
    mean, square = first / (1 - betas[0] ** steps), second / (1 - betas[1] ** steps)
    return stepped(W, mean / (square.sqrt() + eps), lr, weight_decay), (first, second, steps)


def scalar_spectral_adam(
    W: Tensor,
    G: Tensor,
    moments: Moments,
    *,
    factor: float,
    lr: float = 1e-3,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> tuple[Tensor, Moments]:
    """Adam at the rate lr times the layer's ``factor``, of :func:`scalar_spectral_factors`.

    Source: Calvo 2026 (arXiv 2606.02596). ``weight_decay`` is Adam's: of the gradient.
    """
    G = G.double() + weight_decay * W.double()
    return adamw(W, G, moments, lr=factor * lr, betas=betas, eps=eps)


def scalar_spectral_factors(
    s: Mapping[str, float], *, beta: float = 1.0, mode: str = "spectral", seed: int = 0
) -> dict[str, float]:
    """(s_l / s_bar)^beta of each layer, s_l = alpha_l gamma_l; "inverse" or "random" are controls.

    "random" is log-uniform between the smallest and the largest of them.
    """
    mean = sum(s.values()) / len(s)
    sign = -1 if mode == "inverse" else 1
    factors = {layer: (value / mean) ** (sign * beta) for layer, value in s.items()}
    if mode != "random":
        return factors
    low, high = min(factors.values()), max(factors.values())
    uniform = torch.rand(len(s), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return {layer: low * (high / low) ** float(u) for layer, u in zip(s, uniform, strict=True)}


def paired(hidden: bool, matrix: Rule, other: Rule) -> Rule:
    """The rule of a parameter: ``matrix`` for a hidden matrix, ``other`` for all else.

    ``SpectralNewton``, ``Muon`` and ``KFAC`` in ``Paired`` have AdamW for the rest.
    """
    return matrix if hidden else other


# -- K-FAC: its rule is that of all layers, which one number shortens ------------------------------


@dataclass
class KfacLayer:
    """The matrix [W, b] ``[m, n]`` of a layer, its momentum, factors, and their damped inverses."""

    W: Tensor
    M: Tensor
    A: Tensor
    D: Tensor
    A_inverse: Tensor
    D_inverse: Tensor
    bias: bool

    @classmethod
    def start(cls, W: Tensor, bias: bool) -> KfacLayer:
        """A layer before its first step; ``bias`` says that the last column of W is one."""
        W = W.double()
        left, right = torch.zeros(len(W), len(W)).to(W), torch.zeros(W.shape[1], W.shape[1]).to(W)
        return cls(W, torch.zeros_like(W), right, left, right, left, bias)


def kronecker_factors(a: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """C_A ``[n, n]`` and C_delta ``[m, m]``: means over samples of sums over positions.

    ``a`` are inputs ``[samples, positions, n]`` (with a last entry 1 if there is a bias), ``delta``
    the errors ``[samples, positions, m]`` of each sample's own loss. Source: Martens and Grosse
    2015 (arXiv 1503.05671); Eschenhagen et al. 2023 (arXiv 2311.00636), "expand".
    """
    rows, errors = a.double().flatten(0, 1), delta.double().flatten(0, 1)
    return rows.T @ rows / len(a), errors.T @ errors / len(a)


def kfac(
    layers: Sequence[KfacLayer],
    gradients: Sequence[Tensor],
    batch: Sequence[tuple[Tensor, Tensor]],
    step: int,
    *,
    lr: float = 0.05,
    momentum: float = 0.9,
    damping: float = 0.01,
    decay: float = 0.95,
    factor_every: int = 1,
    inverse_every: int = 10,
    kl_clip: float | None = 1e-3,
    weight_decay: float = 0.0,
) -> None:
    """K-FAC's ``step``, counted from 0, of all layers at once; changes the state in ``layers``.

    ``gradients`` are those of [W, b], ``batch`` the (a, delta) of :func:`kronecker_factors`.
    Sources: Martens and Grosse 2015 (arXiv 1503.05671); Ba et al. 2017 for ``kl_clip``.
    """
    directions = []
    for layer, G, (a, delta) in zip(layers, gradients, batch, strict=True):
        if step % factor_every == 0:
            C_A, C_delta = kronecker_factors(a, delta)
            kept = decay if step else 0.0
            layer.A = kept * layer.A + (1 - kept) * C_A / a.shape[1]
            layer.D = kept * layer.D + (1 - kept) * C_delta
        if step % inverse_every == 0:
            pi = (layer.A.diagonal().mean() / layer.D.diagonal().mean()).sqrt()
            layer.A_inverse = torch.linalg.inv(_damped(layer.A, pi * math.sqrt(damping)))
            layer.D_inverse = torch.linalg.inv(_damped(layer.D, math.sqrt(damping) / pi))
        directions.append(layer.D_inverse @ G.double() @ layer.A_inverse)
    change = sum(lr**2 * float((P * G).sum()) for P, G in zip(directions, gradients, strict=True))
    nu = 1.0 if kl_clip is None else min(1.0, math.sqrt(kl_clip / max(change, _TINY)))
    for layer, P in zip(layers, directions, strict=True):
        layer.M = momentum * layer.M + nu * P
        kept_weight = torch.full_like(layer.W, 1 - lr * weight_decay)
        if layer.bias:
            kept_weight[:, -1] = 1.0
        layer.W = kept_weight * layer.W - lr * layer.M


def _damped(matrix: Tensor, damping: Tensor) -> Tensor:
    return matrix + damping * torch.eye(len(matrix), dtype=torch.float64)
