"""Controls that tell whether the spectrum of an update matters: what else could explain a result.

Both take matrices (weights of two or more dimensions) only; :class:`optimizers.paired.Paired` adds
AdamW for the rest.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optimizers import checks
from optimizers.base import ClosureOptimizer
from optimizers.matrix_functions import as_matrix, shape_scale
from optimizers.scrambled import SPECTRA, scramble


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
        checks.positive("damping", damping)
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
    """Muon with random numbers in the place of its singular values, which are all near 1.

    With N = U diag(sigma) V^T of rank r the step is c U diag(tau) V^T, where tau >= 0 has the
    Frobenius norm sqrt(r) of Muon's U V^T and c is Muon's shape scale. The singular *directions*
    and their pairing u_k, v_k are N's own; only how far the step goes along each is scrambled:

    - ``spectrum="uniform"``: tau uniform on [0, 1], independent of sigma;
    - ``spectrum="permuted"``: N's own sigma, each given to another direction at random.

    Singular values that are zero but for rounding stay zero, as in Muon. The draw is a pure
    function of ``seed``, the weight's name (its place, where parameters are not named) and its
    number of steps, so an interrupted run continues as it would have. How it is computed, and with
    what error: :mod:`optimizers.scrambled`.
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
