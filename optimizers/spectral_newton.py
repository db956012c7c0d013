"""Spectral Newton: momentum, with each singular value sigma sent to sigma / (sigma^alpha + d)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optimizers import base
from optimizers.exponents import check_alpha, layer_alphas
from optimizers.math.fits import transfer_peak
from optimizers.math.methods import METHODS, NORMALIZATIONS
from optimizers.math.stacks import (
    SharedTransfer,
    product_dtype,
    share_transfer,
    transfer_stacks,
    with_norm,
)
from optimizers.math.transfer import (
    shape_scale,
    spectral_transfer,
    transfer_amplitude,
    with_frobenius_norm,
)
from optimizers.matrix_optimizer import (
    ADAMW,
    AdamWSettings,
    MatrixOptimizer,
    MatrixStack,
    Params,
    StackPlace,
)

SHARED_NORMALIZATIONS = ("schatten8", "frobenius")
SCALES = ("raw", "amplitude", "frobenius")


class SpectralNewton(MatrixOptimizer):
    """Spectral Newton for the hidden matrices, AdamW for everything else.

    For a matrix W (m x n) with gradient G, a convolution taken as (out, in*kh*kw)::

        M <- mu M + (1 - mu) G                        momentum
        N  = mu M + (1 - mu) G                        Nesterov (N = M without)
        N / norm = U diag(sigma) V^T                  `normalize`
        O  = U diag(T(sigma)) V^T,  T(sigma) = sigma / (sigma^alpha + damping)
        O <- c O                                      `scale`
        W <- (1 - lr weight_decay) W - lr O

    ``normalize``: none, frobenius, rms, spectral (sigma_1 = 1) or schatten8, a bound on sigma_1
    that costs one product, as in :func:`optimizers.math.transfer.spectral_transfer`.

    ``scale``: "raw" c = 1; "amplitude" divides by the maximum of T over [0, sigma_1], so that the
    update's spectral norm is at most 1; "frobenius" gives the update the Frobenius norm
    sqrt(min(m, n)) of an orthogonal matrix, times Muon's sqrt(max(1, m/n)), so that a learning rate
    tuned for Muon carries over.

    ``alpha``: a number; a mapping from layer type (conv, linear, ..., default) to a number, for
    which the groups must come from :func:`optimizers.partition.hidden_matrices`; or "measured",
    each layer's alpha from the ``exponents`` file, ``fallback_alpha`` where it has none that is
    reliable and > 0 (one warning names these layers). ``exponents`` is not read otherwise.

    The paper's own setting (the preset ``spectral_newton_paper``) is ``damping=0.1,
    normalize="none", scale="raw"``, alpha 2 for convolutions and 1 for transformers; it leaves
    momentum, learning rate and the scale of sigma open.

    ``params`` and the ``adamw_*`` hyperparameters are explained in :class:`MatrixOptimizer`.
    Momentum has the dtype of its weight, and O is float32 or wider; on CUDA the products of
    "schatten8" and "frobenius" are in float16 where a polynomial serves.
    Source: Calvo 2026 (arXiv 2606.02596), section 7.3. Compared with
    :func:`optimizers.reference.spectral_newton`.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 0.02,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        alpha: float | str | Mapping[str, float] = 2.0,
        damping: float = 0.03,
        normalize: str = "schatten8",
        scale: str = "frobenius",
        method: str = "auto",
        tolerance: float = 0.01,
        weight_decay: float = 0.0,
        compile: bool = False,
        exponents: str | Path | None = None,
        fallback_alpha: float = 2.0,
        adamw_lr: float = ADAMW.adamw_lr,
        adamw_betas: tuple[float, float] = ADAMW.adamw_betas,
        adamw_eps: float = ADAMW.adamw_eps,
        adamw_weight_decay: float = ADAMW.adamw_weight_decay,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            # Plain containers only: the state must load with weights_only=True.
            "alpha": dict(alpha) if isinstance(alpha, Mapping) else alpha,
            "damping": damping,
            "normalize": normalize,
            "scale": scale,
            "method": method,
            "tolerance": tolerance,
            "weight_decay": weight_decay,
            "compile": compile,
            "exponents": None if exponents is None else str(exponents),
            "fallback_alpha": fallback_alpha,
            **AdamWSettings(adamw_lr, adamw_betas, adamw_eps, adamw_weight_decay)._asdict(),
        }
        super().__init__(params, defaults)

    def check_hyperparameters(self, values: dict[str, Any]) -> None:
        """Refuse impossible hyperparameters."""
        super().check_hyperparameters(values)
        check_alpha(values["alpha"], values["exponents"])
        base.positive("fallback_alpha", values["fallback_alpha"])
        base.positive("damping", values["damping"])
        base.choice("normalize", values["normalize"], NORMALIZATIONS)
        base.choice("scale", values["scale"], SCALES)
        base.choice("method", values["method"], METHODS)
        base.positive("tolerance", values["tolerance"])

    def complete_group(self, group: dict[str, Any]) -> None:
        """Settle the alpha of each matrix of a group."""
        super().complete_group(group)
        if group["algorithm"] == "matrix":
            # Parallel to the parameters, so that a checkpoint keeps the alphas it ran with.
            group["alphas"] = layer_alphas(group)

    def keys(self, group: dict[str, Any]) -> list[float]:
        """The alpha of each parameter."""
        alphas: list[float] = group["alphas"]
        return alphas

    def plan(
        self, places: Sequence[StackPlace], group: dict[str, Any]
    ) -> list[SharedTransfer] | None:
        """Fit the polynomials of method "polynomial", once; None where it is not used."""
        method, normalize = group["method"], group["normalize"]
        if method == "auto" and not all(place.device.type == "cuda" for place in places):
            return None
        if method not in ("auto", "polynomial") or normalize not in SHARED_NORMALIZATIONS:
            return None
        try:
            return share_transfer(
                [(len(place.indices), place.rows, place.cols) for place in places],
                [place.key for place in places],
                group["damping"],
                group["tolerance"],
                [place.device for place in places],
            )
        except ValueError:
            if method == "auto":
                return None
            raise

    @staticmethod
    def directions(
        stacks: Sequence[MatrixStack],
        group: dict[str, Any],
        plan: list[SharedTransfer] | None,
    ) -> list[Tensor]:
        """The update rule from `normalize` on, in the order of the class docstring."""
        damping, normalize = group["damping"], group["normalize"]
        if plan is None:
            wide = [matrix.to(_wide(matrix)) for matrix, _ in stacks]
            transferred = [
                spectral_transfer(matrix, alpha, damping, normalize, group["method"])
                for matrix, (_, alpha) in zip(wide, stacks, strict=True)
            ]
        else:
            matrices = [matrix for matrix, _ in stacks]
            transferred = transfer_stacks(matrices, plan, normalize, product_dtype(matrices[0]))
        return [
            _scaled(update, stack, group, exact=plan is None)
            for update, stack in zip(transferred, stacks, strict=True)
        ]


def _wide(matrix: Tensor) -> torch.dtype:
    return torch.promote_types(matrix.dtype, torch.float32)


def _scaled(update: Tensor, stack: MatrixStack, group: dict[str, Any], *, exact: bool) -> Tensor:
    """Apply `scale`: return c O."""
    rows, cols = update.shape[-2:]
    damping, alpha = group["damping"], stack.key
    if group["scale"] == "amplitude" and exact:
        amplitude = transfer_amplitude(stack.momentum, alpha, damping, group["normalize"])
        update = update / amplitude
    elif group["scale"] == "amplitude":  # sigma <= 1 in a shared evaluation
        update = update / transfer_peak(alpha, damping)
    elif group["scale"] == "frobenius":
        factor = math.sqrt(min(rows, cols)) * shape_scale(rows, cols, "original")
        scale = with_frobenius_norm if exact else with_norm
        update = scale(update, factor)
    return update.to(_wide(stack.momentum))
