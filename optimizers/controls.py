"""Controls that show whether the spectrum of an update matters: what else could explain a result.

:class:`ScrambledMuon` keeps Muon's singular directions and gives them random singular values;
:class:`MomentumOverDamping` is Spectral Newton without its spectrum. Both take matrices (weights of
two or more dimensions) only; :class:`optimizers.paired.Paired` adds AdamW for the rest.

How many matrices are scrambled at a time: M = U diag(sigma) V^T, m <= n (or its transpose is
taken), becomes U diag(tau) V^T = U diag(tau / sigma) U^T M, for which the eigenvectors U of M M^T
are enough: matrices of one short side share one batched eigendecomposition, whatever their long
sides. In float64 M M^T knows sigma_k to about 1e-16 (sigma_1 / sigma_k)^2, and sigma below
max(m, n) eps of float32 counts as zero, so that for float32 input and less nothing is lost: at 4608
the floor is 5e-4 and the error 1e-9. float64 input has its floor at max(m, n) eps of float64, which
M M^T cannot see: an SVD of each.
"""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optimizers import base
from optimizers.base import ClosureOptimizer
from optimizers.math.transfer import as_matrix, shape_scale

SPECTRA = ("uniform", "permuted")
_TINY = torch.finfo(torch.float64).tiny


def scramble(matrices: Sequence[Tensor], seeds: Sequence[int], spectrum: str) -> list[Tensor]:
    """U diag(tau) V^T of each matrix ``[m, n]``, at least in float32; NaN for inf or NaN in it.

    tau >= 0, drawn from the matrix's seed, has the norm sqrt(rank) and is zero where sigma is. The
    k-th number that is drawn goes to the k-th largest sigma; ``spectrum`` "permuted" draws a
    permutation of the sigma that are not zero.
    """
    buckets = defaultdict(list)
    for index, matrix in enumerate(matrices):
        # Metal has no float64.
        exact = matrix.dtype == torch.float64 or matrix.device.type == "mps"
        buckets[exact, min(matrix.shape), matrix.device].append(index)
    steps: dict[int, Tensor] = {}
    for (exact, _, _), indices in buckets.items():
        some, theirs = [matrices[i] for i in indices], [seeds[i] for i in indices]
        if exact:
            found = [_by_svd(m, s, spectrum) for m, s in zip(some, theirs, strict=True)]
        else:
            found = _by_gram(some, theirs, spectrum)
        steps |= dict(zip(indices, found, strict=True))
    return [steps[i] for i in range(len(matrices))]


def _by_gram(matrices: Sequence[Tensor], seeds: Sequence[int], spectrum: str) -> list[Tensor]:
    # Squares of float32 neither overflow nor vanish in float64: no scaling.
    wide = [(m if m.shape[0] <= m.shape[1] else m.mT).double() for m in matrices]
    gram = torch.stack([m @ m.mT for m in wide])
    finite = gram.diagonal(dim1=-2, dim2=-1).sum(-1).isfinite().view(-1, 1, 1)
    values, vectors = torch.linalg.eigh(torch.where(finite, gram, 0.0))
    sigma, left = values.clamp(min=0.0).sqrt().flip(-1), vectors.flip(-1)
    floors = [max(m.shape) * torch.finfo(torch.float32).eps for m in matrices]
    tau = _drawn(sigma, floors, seeds, spectrum)
    factor = (left * (tau / sigma.clamp(min=_TINY)).unsqueeze(-2)) @ left.mT
    factor = torch.where(finite, factor, math.nan)
    steps = [f @ m for f, m in zip(factor, wide, strict=True)]
    return [
        (step if step.shape == m.shape else step.mT).to(torch.promote_types(m.dtype, torch.float32))
        for step, m in zip(steps, matrices, strict=True)
    ]


def _by_svd(matrix: Tensor, seed: int, spectrum: str) -> Tensor:
    work = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    peak = work.abs().amax()
    unit = torch.where(peak.isfinite(), work / peak.clamp(min=1e-38), 0.0)
    left, sigma, right = torch.linalg.svd(unit, full_matrices=False)
    floors = [max(matrix.shape) * torch.finfo(work.dtype).eps]
    tau = _drawn(sigma.unsqueeze(0), floors, [seed], spectrum)[0]
    return torch.where(peak.isfinite(), left @ (tau.unsqueeze(1) * right), math.nan)


def _drawn(sigma: Tensor, floors: Sequence[float], seeds: Sequence[int], spectrum: str) -> Tensor:
    """Return tau ``[batch, m]`` for descending sigma; ``floors`` are relative to the largest."""
    floor = sigma.new_tensor(floors).unsqueeze(1)
    real = sigma > sigma[:, :1] * floor
    rank, size = real.sum(-1, keepdim=True), sigma.shape[1]
    streams = [torch.Generator().manual_seed(seed) for seed in seeds]
    if spectrum == "uniform":
        drawn = torch.stack([torch.rand(size, generator=s, dtype=torch.float64) for s in streams])
        tau = drawn.to(sigma)
    else:
        orders = [
            torch.cat([torch.randperm(own, generator=s), torch.arange(own, size)])
            for own, s in zip(rank.flatten().tolist(), streams, strict=True)
        ]
        tau = sigma.gather(1, torch.stack(orders).to(sigma.device))
    tau = torch.where(real, tau, 0.0)
    least = torch.finfo(sigma.dtype).tiny  # all are zero then
    norm: Tensor = tau.norm(dim=-1, keepdim=True).clamp(min=least)
    return tau * (rank.to(sigma).sqrt() / norm)


class MomentumControl(ClosureOptimizer):
    """Momentum as in Muon and Spectral Newton; a subclass makes the step of the matrix.

    M <- mu M + (1 - mu) G;  N = mu M + (1 - mu) G with ``nesterov``, else N = M;
    W <- (1 - lr weight_decay) W - lr direction(N).

    Raises ValueError for an impossible hyperparameter, by name, and for a vector; RuntimeError on a
    sparse gradient.
    """

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        for name in ("lr", "weight_decay"):
            base.not_negative(name, defaults[name])
        base.fraction("momentum", defaults["momentum"])
        super().__init__(params, defaults)

    @abstractmethod
    def directions(
        self, matrices: Sequence[Tensor], group: dict[str, Any], keys: Sequence[str]
    ) -> list[Tensor]:
        """Return the step for each matrix ``[m, n]``; a key names a weight and its step."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of matrices."""
        super().add_param_group(param_group)
        for param in self.param_groups[-1]["params"]:
            if param.ndim < 2 or param.is_complex():
                shape = tuple(self.param_groups.pop() and param.shape)
                raise ValueError(f"{type(self).__name__} takes real matrices, got shape {shape}")

    def update(self) -> None:
        """Step every matrix that has a gradient."""
        for number, group in enumerate(self.param_groups):
            names = group.get("param_names") or [
                f"{number}.{i}" for i in range(len(group["params"]))
            ]
            pairs = zip(names, group["params"], strict=True)
            chosen = [(name, param) for name, param in pairs if self.has_gradient(param)]
            ahead = [as_matrix(self._momentum(param, param.grad, group)) for _, param in chosen]
            keys = [f"{name}/{int(self.state[param]['step'])}" for name, param in chosen]
            updates = self.directions(ahead, group, keys)
            for (_, param), update in zip(chosen, updates, strict=True):
                param.mul_(1 - group["lr"] * group["weight_decay"])
                param.add_(update.reshape(param.shape).to(param.dtype), alpha=-group["lr"])
                self.state[param]["step"] += 1

    def _momentum(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[param]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["momentum_buffer"] = torch.zeros_like(param)
        buffer: Tensor = state["momentum_buffer"].lerp_(grad, 1 - group["momentum"])
        return grad.lerp(buffer, group["momentum"]) if group["nesterov"] else buffer


class MomentumOverDamping(MomentumControl):
    """Spectral Newton without its spectrum: the step is N / damping.

    Spectral Newton's T(sigma) = sigma / (sigma^alpha + d) with raw sigma is sigma / d up to the
    relative difference sigma^alpha / d, so where all sigma lie far below d^(1/alpha) (sqrt(d) at
    alpha = 2) the two make the same step, and nothing of the spectrum is left in it. It is also
    torch.optim.SGD with Nesterov momentum and learning rate lr (1 - momentum) / damping, but for
    SGD's weight decay, which is L2.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.1,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        damping: float = 0.1,
        weight_decay: float = 0.0,
    ) -> None:
        base.positive("damping", damping)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "damping": damping,
            "weight_decay": weight_decay,
        }
        super().__init__(params, defaults)

    def directions(
        self,
        matrices: Sequence[Tensor],
        group: dict[str, Any],
        keys: Sequence[str],  # noqa: ARG002
    ) -> list[Tensor]:
        """Return the matrices over the damping."""
        return [matrix / group["damping"] for matrix in matrices]


class ScrambledMuon(MomentumControl):
    """Muon with random numbers for its singular values, which are all near 1.

    With N = U diag(sigma) V^T of rank r the step is c U diag(tau) V^T, where tau >= 0 has the
    Frobenius norm sqrt(r) of Muon's U V^T and c is Muon's shape scale. The singular *directions*
    and their pairing u_k, v_k are N's own; only how far the step goes along each is scrambled:

    - ``spectrum="uniform"``: tau uniform on [0, 1], independent of sigma;
    - ``spectrum="permuted"``: N's own sigma, each given to another direction at random.

    Singular values that are zero but for rounding stay zero, as in Muon. The draw is a pure
    function of ``seed``, the weight's name (its position, where parameters are not named) and its
    number of steps, so an interrupted run continues as it would have. How it is computed, and with
    what error: :mod:`optimizers.controls`. Compared with
    :func:`optimizers.reference.scrambled_muon`.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        spectrum: str = "uniform",
        scale: str = "original",
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        base.choice("spectrum", spectrum, SPECTRA)
        shape_scale(1, 1, scale)  # refuses an unknown one
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "spectrum": spectrum,
            "scale": scale,
            "weight_decay": weight_decay,
            "seed": seed,
        }
        super().__init__(params, defaults)

    def directions(
        self, matrices: Sequence[Tensor], group: dict[str, Any], keys: Sequence[str]
    ) -> list[Tensor]:
        """Return scrambled polar factors, times Muon's shape scale; NaN for a NaN in one."""
        seeds = [_seed(group["seed"], key) for key in keys]
        scrambled = scramble(matrices, seeds, group["spectrum"])
        rule = group["scale"]
        return [step * shape_scale(step.shape[0], step.shape[1], rule) for step in scrambled]


def _seed(seed: int, key: str) -> int:
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # a generator takes what fits an int64
