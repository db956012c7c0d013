"""Controls that tell whether the spectrum of an update matters: what else could explain a result.

Both take matrices (weights of two or more dimensions) only; :class:`optimizers.paired.Paired` adds
AdamW for the rest.
"""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from optimizers import checks
from optimizers.base import ClosureOptimizer
from optimizers.matrix_functions import as_matrix, shape_scale

SPECTRA = ("uniform", "permuted")


class MomentumControl(ClosureOptimizer):
    """Momentum as in Muon and Spectral Newton; a subclass says what becomes of the matrix.

    M <- mu M + (1 - mu) G;  N = mu M + (1 - mu) G with ``nesterov``, else N = M;
    W <- (1 - lr weight_decay) W - lr direction(N).

    Raises ValueError for an impossible hyperparameter, by name, and for a vector; RuntimeError on a
    sparse gradient.
    """

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        for name in ("lr", "weight_decay"):
            checks.not_negative(name, defaults[name])
        checks.fraction("momentum", defaults["momentum"])
        super().__init__(params, defaults)

    @abstractmethod
    def direction(self, matrix: Tensor, group: dict[str, Any], key: str) -> Tensor:
        """Return the step for ``matrix`` ``[m, n]``; ``key`` names the weight and the step."""

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
            for name, param in zip(names, group["params"], strict=True):
                if self.has_gradient(param):
                    self._step_matrix(name, param, param.grad, group)

    def _step_matrix(self, name: str, param: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[param]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["momentum_buffer"] = torch.zeros_like(param)
        buffer = state["momentum_buffer"].lerp_(grad, 1 - group["momentum"])
        ahead = grad.lerp(buffer, group["momentum"]) if group["nesterov"] else buffer
        key = f"{name}/{int(state['step'])}"
        update = self.direction(as_matrix(ahead), group, key).reshape(param.shape).to(param.dtype)
        param.mul_(1 - group["lr"] * group["weight_decay"])
        param.add_(update, alpha=-group["lr"])
        state["step"] += 1


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
        checks.positive("damping", damping)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "damping": damping,
            "weight_decay": weight_decay,
        }
        super().__init__(params, defaults)

    def direction(self, matrix: Tensor, group: dict[str, Any], key: str) -> Tensor:  # noqa: ARG002
        """Return ``matrix`` over the damping."""
        damping: float = group["damping"]
        return matrix / damping


class ScrambledMuon(MomentumControl):
    """Muon with random numbers in the place of its singular values, which are all near 1.

    With N = U diag(sigma) V^T of rank r the step is c U diag(tau) V^T, where tau >= 0 has the
    Frobenius norm sqrt(r) of Muon's U V^T and c is Muon's shape scale. The singular *directions*
    and their pairing u_k, v_k are N's own; only how far the step goes along each is scrambled:

    - ``spectrum="uniform"``: tau uniform on [0, 1], independent of sigma;
    - ``spectrum="permuted"``: N's own sigma, each given to another direction at random.

    Singular values that are zero but for rounding stay zero, as in Muon. The draw is a pure
    function of ``seed``, the weight's name (its place, where parameters are not named) and its
    number of steps, so an interrupted run continues as it would have. The SVD is exact and slow.
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
        checks.choice("spectrum", spectrum, SPECTRA)
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

    def direction(self, matrix: Tensor, group: dict[str, Any], key: str) -> Tensor:
        """Return the scrambled polar factor, times Muon's shape scale; NaN for a NaN in it."""
        work = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
        peak = work.abs().max()
        if not peak.isfinite():
            return torch.full_like(work, math.nan)
        left, sigma, right = torch.linalg.svd(work / peak.clamp(min=1e-38), full_matrices=False)
        floor = max(matrix.shape) * torch.finfo(work.dtype).eps
        real = sigma > sigma[0] * floor
        stream = torch.Generator().manual_seed(_seed(group["seed"], key))
        if group["spectrum"] == "uniform":
            tau = torch.rand(len(sigma), generator=stream, dtype=torch.float64).to(sigma)
        else:
            rank = int(real.sum())
            order = torch.cat(
                [torch.randperm(rank, generator=stream), torch.arange(rank, len(sigma))]
            )
            tau = sigma[order.to(sigma.device)]
        tau = torch.where(real, tau, 0.0)
        tau = tau * (real.sum().sqrt() / tau.norm().clamp(min=floor * floor))
        scale = shape_scale(len(matrix), matrix.shape[1], group["scale"])
        scrambled: Tensor = left @ (tau.unsqueeze(1) * right)
        return scrambled * scale


def _seed(seed: int, key: str) -> int:
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # a generator takes what fits an int64
