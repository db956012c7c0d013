"""Muon: momentum, orthogonalised by a Newton-Schulz iteration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from optimizers import base
from optimizers.math.polar import FORMS, MUON_COEFFICIENTS, newton_schulz
from optimizers.math.stacks import Bucket, polar_stacks, product_dtype, share
from optimizers.math.transfer import SHAPE_SCALES, shape_scale
from optimizers.matrix_optimizer import (
    ADAMW,
    AdamWSettings,
    MatrixOptimizer,
    MatrixStack,
    Params,
    StackPlace,
)


class Muon(MatrixOptimizer):
    """Muon for the hidden matrices, AdamW for everything else.

    For a matrix W (m x n) with gradient G, a convolution taken as (out, in*kh*kw)::

        M <- mu M + (1 - mu) G                         momentum
        N  = mu M + (1 - mu) G                         Nesterov (N = M without)
        O  = U V^T approximately, N = U diag(sigma) V^T    `ns_steps` Newton-Schulz steps
        W <- (1 - lr weight_decay) W - lr c(m, n) O

    ``scale`` chooses c(m, n): "original" sqrt(max(1, m/n)), "match_rms_adamw" 0.2 sqrt(max(m, n)).
    ``params`` and the ``adamw_*`` hyperparameters are explained in :class:`MatrixOptimizer`.

    ``form``: "direct" multiplies each stack of equal shapes by its own Gram matrix, in every step;
    "gram" iterates on Gram matrices that all stacks of one short side share
    (:func:`optimizers.math.stacks.polar_stacks`), in float16 on CUDA and at least float32
    elsewhere; "auto" is gram on CUDA, half the time of direct there, and direct on CPU.

    Source: Jordan et al., "Muon" (2024). Compared with :func:`optimizers.reference.muon` and with
    torch.optim.Muon, which takes 2-D weights only and always orthogonalises in bfloat16 (here:
    direct on CUDA; on CPU in the weight's dtype).
    """

    def __init__(
        self,
        params: Params,
        lr: float = 0.02,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        ns_coefficients: tuple[float, float, float] = MUON_COEFFICIENTS,
        scale: str = "original",
        form: str = "auto",
        weight_decay: float = 0.0,
        compile: bool = False,
        adamw_lr: float = ADAMW.adamw_lr,
        adamw_betas: tuple[float, float] = ADAMW.adamw_betas,
        adamw_eps: float = ADAMW.adamw_eps,
        adamw_weight_decay: float = ADAMW.adamw_weight_decay,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_steps": ns_steps,
            "ns_coefficients": base.numbers("ns_coefficients", ns_coefficients, 3),
            "scale": scale,
            "form": form,
            "weight_decay": weight_decay,
            "compile": compile,
            **AdamWSettings(adamw_lr, adamw_betas, adamw_eps, adamw_weight_decay)._asdict(),
        }
        super().__init__(params, defaults)

    def check_hyperparameters(self, values: dict[str, Any]) -> None:
        """Refuse impossible hyperparameters."""
        super().check_hyperparameters(values)
        base.whole("ns_steps", values["ns_steps"])
        base.numbers("ns_coefficients", values["ns_coefficients"], 3)
        base.choice("scale", values["scale"], SHAPE_SCALES)
        base.choice("form", values["form"], FORMS)

    def plan(self, places: Sequence[StackPlace], group: dict[str, Any]) -> list[Bucket] | None:
        """Sort the stacks for the shared evaluation; None where it is not used."""
        devices = [place.device for place in places]
        automatic = all(device.type == "cuda" for device in devices)
        if group["form"] == "direct" or (group["form"] == "auto" and not automatic):
            return None
        return share([(len(place.indices), place.rows, place.cols) for place in places], devices)

    @staticmethod
    def directions(
        stacks: Sequence[MatrixStack], group: dict[str, Any], plan: list[Bucket] | None
    ) -> list[Tensor]:
        """The update rule from O on, in the order of the class docstring."""
        matrices = [stack.momentum for stack in stacks]
        steps, quintic = group["ns_steps"], group["ns_coefficients"]
        if plan is None:
            orthogonal = [newton_schulz(matrix, steps, quintic) for matrix in matrices]
        else:
            dtype = product_dtype(matrices[0])
            orthogonal = polar_stacks(matrices, plan, [quintic] * steps, dtype)
        return [
            matrix * shape_scale(matrix.shape[-2], matrix.shape[-1], group["scale"])
            for matrix in orthogonal
        ]
