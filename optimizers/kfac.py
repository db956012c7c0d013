"""K-FAC: each layer's gradient preconditioned by the Kronecker factors of its curvature."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from optimizers import base
from optimizers.base import ClosureOptimizer
from optimizers.kronecker import Factors, KroneckerFactors, supports
from optimizers.math.transfer import as_matrix
from optimizers.torch_private import named_modules, named_parameters

_FACTORS = ("input_factor", "output_factor")
_INVERSES = ("input_inverse", "output_inverse")


def layers(model: nn.Module) -> list[dict[str, Any]]:
    """Parameter groups for K-FAC: one for each Linear and ungrouped convolution, and the rest.

    A layer's group is ``{"params": [(name, weight), (name, bias)], "algorithm": "matrix",
    "layer": ..., "module": ...}``; :class:`KFAC` takes ``module`` out of it. The rest (norms,
    embeddings, attention's own weights, grouped convolutions, a weight that two modules share)
    has ``algorithm: "adamw"``. Frozen parameters are left out.
    """
    owners = Counter(
        id(parameter)
        for module in model.modules()
        for parameter in module.parameters(recurse=False)
    )
    names = {id(parameter): name for name, parameter in named_parameters(model)}
    groups: list[dict[str, Any]] = []
    placed: set[int] = set()
    for layer, module in named_modules(model):
        own = [p for p in module.parameters(recurse=False) if p.requires_grad]
        weight = getattr(module, "weight", None)
        alone = all(owners[id(parameter)] == 1 for parameter in own)
        if supports(module) and own and own[0] is weight and alone:
            placed |= {id(parameter) for parameter in own}
            params = [(names[id(parameter)], parameter) for parameter in own]
            groups.append(
                {"params": params, "algorithm": "matrix", "layer": layer, "module": module}
            )
    rest = [
        (name, parameter)
        for name, parameter in named_parameters(model)
        if parameter.requires_grad and id(parameter) not in placed
    ]
    return [*groups, {"params": rest, "algorithm": "adamw"}] if rest else groups


class KFAC(ClosureOptimizer):
    """K-FAC with momentum for Linear and ungrouped convolution layers.

    For a layer with gradient G = [dL/dW, dL/dbias], a convolution taken as (out, in*kh*kw)::

        A <- decay A + (1 - decay) C_A / T           every `factor_every` steps
        D <- decay D + (1 - decay) C_delta
        P  = (D + sqrt(damping)/pi I)^-1 G (A + pi sqrt(damping) I)^-1
        nu = min(1, sqrt(kl_clip / sum_layers lr^2 <P, G>))
        M <- mu M + nu P
        W <- (1 - lr weight_decay) W - lr M          the bias without decay

    C_A and C_delta are those of :mod:`optimizers.kronecker` (K-FAC-expand), of the batch that made
    the gradient: ``reduction`` is "mean" where the loss is the mean over the batch, so that its
    errors are multiplied by the batch size, or "sum". The errors are those of the labels, so
    this is the empirical Fisher (as in most implementations), not the model's own.
    pi = sqrt((tr A / dim A) / (tr D / dim D)) shares the damping between the factors. The inverses
    are renewed every ``inverse_every`` steps. A layer that has no factors yet takes its gradient
    as P. ``kl_clip=None`` sets nu = 1.

    ``params`` are the groups of :func:`layers` with ``algorithm: "matrix"``;
    :class:`optimizers.paired.Paired` steps the rest. The state holds factors and inverses in
    float32 or more. A copy or a pickle of the optimizer has the state and no hooks: it gathers no
    new factors. Under several processes (torch.distributed) the factors are those of all processes'
    batches, as DistributedDataParallel's gradients are; all layers' factors are exchanged at each
    step that gathers them. A network must be handed to :func:`layers` before it is first run by
    torch.compile, which looks for hooks once.

    Raises ValueError for an impossible hyperparameter, by name, and for groups without a module.
    Sources: Martens and Grosse 2015 (arXiv 1503.05671), sections 5 and 6.3; Ba et al. 2017
    (Distributed second-order optimization using Kronecker-factored approximations), for kl_clip.
    Compared with :func:`optimizers.reference.kfac`.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 0.05,
        *,
        momentum: float = 0.9,
        damping: float = 0.01,
        decay: float = 0.95,
        factor_every: int = 1,
        inverse_every: int = 10,
        kl_clip: float | None = 1e-3,
        weight_decay: float = 0.0,
        reduction: str = "mean",
    ) -> None:
        for name, value in (("lr", lr), ("weight_decay", weight_decay)):
            base.not_negative(name, value)
        base.fraction("momentum", momentum)
        base.fraction("decay", decay)
        base.positive("damping", damping)
        base.whole("factor_every", factor_every)
        base.whole("inverse_every", inverse_every)
        if kl_clip is not None:
            base.positive("kl_clip", kl_clip)
        self._factors = KroneckerFactors(reduction=reduction, homogeneous=True)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "damping": damping,
            "decay": decay,
            "factor_every": factor_every,
            "inverse_every": inverse_every,
            "kl_clip": kl_clip,
            "weight_decay": weight_decay,
            "steps": 0,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a layer's group, as :func:`layers` makes it, and hook its module."""
        group = dict(param_group)
        module = group.pop("module", None)
        if not isinstance(module, nn.Module) or "layer" not in group:
            raise ValueError(
                "KFAC needs groups with 'layer' and 'module': pass optimizers.kfac.layers(model)"
            )
        super().add_param_group(group)
        self._factors.watch(group["layer"], module)

    def update(self) -> None:
        """Step every layer, all shortened by the same nu."""
        if self._factors.active:
            self._factors.all_reduce()
        directions = [(group, self._directions(group)) for group in self.param_groups]
        clip = _clip(directions)
        for group, parts in directions:
            for param, direction in parts:
                self._apply(group, param, direction * clip)
            group["steps"] += 1
        self._watch_when_due()

    def _directions(self, group: dict[str, Any]) -> list[tuple[Tensor, Tensor]]:
        """(parameter, P) of those of a layer that have gradients."""
        gathered = self._factors.pop(group["layer"])
        weight, *biases = group["params"]
        bias = biases[0] if biases and biases[0].grad is not None else None
        if weight.grad is None:
            return [] if bias is None else [(bias, bias.grad)]
        state = self.state[weight]
        if gathered is not None and gathered.samples:
            _average(state, gathered, group["decay"])
        if "input_factor" in state:
            if "input_inverse" not in state or group["steps"] % group["inverse_every"] == 0:
                _invert(state, group["damping"])
            return _precondition(state, weight, bias)
        return [(weight, weight.grad), *([] if bias is None else [(bias, bias.grad)])]

    def _apply(self, group: dict[str, Any], param: Tensor, direction: Tensor) -> None:
        state = self.state[param]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(param)
        buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(direction)
        if param is group["params"][0]:
            param.mul_(1 - group["lr"] * group["weight_decay"])
        param.add_(buffer, alpha=-group["lr"])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a saved state, its factors in the dtype they were saved in."""
        super().load_state_dict(state_dict)
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            for param, index in zip(group["params"], saved["params"], strict=True):
                for key, value in state_dict["state"].get(index, {}).items():
                    if key in (*_FACTORS, *_INVERSES):  # torch casts all to the parameter's
                        self.state[param][key] = value.clone().to(param.device)
        self._watch_when_due()

    def _watch_when_due(self) -> None:
        self._factors.active = any(g["steps"] % g["factor_every"] == 0 for g in self.param_groups)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_factors" not in vars(self):  # unpickled: there is no network to watch
            self._factors = KroneckerFactors(homogeneous=True)


def damped_inverse(matrix: Tensor, damping: float | Tensor) -> Tensor:
    """(M + damping I)^-1 of a positive semi-definite M ``[n, n]``; NaN for a NaN in it.

    Rounding may leave M slightly indefinite; its negative eigenvalues then count as zero.
    """
    damped = matrix + damping * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    lower, info = torch.linalg.cholesky_ex(damped)
    if int(info) == 0:
        return torch.cholesky_inverse(lower)
    if not bool(damped.isfinite().all()):
        return torch.full_like(matrix, math.nan)
    values, basis = torch.linalg.eigh(matrix.double())
    inverse: Tensor = (basis / (values.clamp(min=0) + damping)) @ basis.mT
    return inverse.to(matrix.dtype)


def _average(state: dict[str, Any], gathered: Factors, decay: float) -> None:
    for key, fresh in zip(_FACTORS, (gathered.input_mean, gathered.output), strict=True):
        state[key] = state[key].lerp_(fresh, 1 - decay) if key in state else fresh


def _invert(state: dict[str, Any], damping: float) -> None:
    """Renew both inverses; pi makes the two dampings fit the sizes of the two factors."""
    means = [state[key].diagonal().mean().clamp(min=1e-30) for key in _FACTORS]
    pi = (means[0] / means[1]).sqrt()
    root = math.sqrt(damping)
    for factor, inverse, share in zip(_FACTORS, _INVERSES, (pi * root, root / pi), strict=True):
        state[inverse] = damped_inverse(state[factor], share)


def _precondition(
    state: dict[str, Any], weight: Tensor, bias: Tensor | None
) -> list[tuple[Tensor, Tensor]]:
    assert weight.grad is not None
    left, right = state["output_inverse"], state["input_inverse"]
    gradient = as_matrix(weight.grad).to(left.dtype)
    if len(right) > gradient.shape[1]:
        last = torch.zeros_like(gradient[:, 0]) if bias is None else bias.grad
        assert last is not None
        gradient = torch.cat([gradient, last.to(left.dtype).unsqueeze(1)], dim=1)
    step = left @ gradient @ right
    columns = weight[0].numel()
    parts = [(weight, step[:, :columns].reshape(weight.shape))]
    return parts if bias is None else [*parts, (bias, step[:, -1])]


def _clip(
    directions: list[tuple[dict[str, Any], list[tuple[Tensor, Tensor]]]],
) -> float | Tensor:
    """nu: how far all steps are shortened, so that the KL divergence they cause stays small."""
    limits = [group["kl_clip"] for group, _ in directions if group["kl_clip"] is not None]
    pairs = [
        (direction * param.grad).sum() * group["lr"] ** 2
        for group, parts in directions
        for param, direction in parts
        if param.grad is not None and group["kl_clip"] is not None
    ]
    if not pairs:
        return 1.0
    change = torch.stack([pair.to(pairs[0]) for pair in pairs]).sum()
    nu: Tensor = (min(limits) / change.clamp(min=1e-30)).sqrt().clamp(max=1.0)
    return nu
