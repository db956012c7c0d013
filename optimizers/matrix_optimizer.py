"""Base of optimizers that transform the momentum of hidden matrices and leave the rest to AdamW."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from optimizers import checks
from optimizers.matrix_functions import as_matrix

Params: TypeAlias = Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]


@dataclass
class MatrixBatch:
    """Weights of one matrix shape, stepped together."""

    rows: int
    cols: int
    key: Any = None
    params: list[Tensor] = field(default_factory=list)
    buffers: list[Tensor] = field(default_factory=list)

    def momentum(self, momentum: float, nesterov: bool) -> Tensor:
        """Update M <- mu M + (1 - mu) G and return a stack ``[k, rows, cols]`` of it.

        With ``nesterov`` the stack holds mu M + (1 - mu) G, one step ahead. It is a copy: whatever
        is done to it leaves the momentum buffers alone.
        """
        ahead = []
        for param, buffer in zip(self.params, self.buffers, strict=True):
            assert param.grad is not None
            buffer.lerp_(param.grad, 1 - momentum)
            ahead.append(param.grad.lerp(buffer, momentum) if nesterov else buffer)
        return torch.stack([as_matrix(matrix) for matrix in ahead])

    def apply(self, update: Tensor, lr: float, weight_decay: float, scale: float = 1.0) -> None:
        """W <- (1 - lr weight_decay) W - lr scale update, for ``update`` ``[k, rows, cols]``."""
        for param, matrix in zip(self.params, update.unbind(), strict=True):
            param.mul_(1 - lr * weight_decay)
            param.add_(matrix.reshape(param.shape), alpha=-lr * scale)


class MatrixOptimizer(Optimizer, ABC):
    """A torch optimizer with two algorithms; each parameter group says which one steps it.

    ``params`` is what every torch optimizer takes: parameters, named parameters, or groups. A group
    with ``algorithm: "matrix"`` is stepped by :meth:`step_matrices`; one with
    ``algorithm: "adamw"`` by torch's AdamW, from the ``adamw_*`` hyperparameters unless the group
    has an ``lr`` or ``weight_decay`` of its own. Where no algorithm is given, parameters of two or
    more dimensions are matrices and the rest AdamW's, and the group's own ``lr`` and
    ``weight_decay`` are the matrices'. :func:`optimizers.partition.hidden_matrices` makes groups
    that also tell heads and embeddings apart.

    Each group's ``lr`` is what learning-rate schedulers scale. The state is one momentum buffer a
    matrix, and AdamW's two moments elsewhere.

    Raises ValueError for an impossible hyperparameter, by name, and RuntimeError on a sparse
    gradient.
    """

    def __init__(self, params: Params, defaults: dict[str, Any]) -> None:
        defaults["adamw_betas"] = checks.numbers("adamw_betas", defaults["adamw_betas"], 2)
        self.check_hyperparameters(defaults)
        super().__init__(params, defaults)

    @abstractmethod
    def step_matrices(self, group: dict[str, Any]) -> None:
        """Step the matrices of one group; gradients are off."""

    def check_hyperparameters(self, values: dict[str, Any]) -> None:
        """Refuse impossible hyperparameters, of the defaults or of a complete group."""
        for name in ("lr", "weight_decay", "adamw_lr", "adamw_weight_decay"):
            checks.not_negative(name, values[name])
        checks.fraction("momentum", values["momentum"])
        for i, beta in enumerate(checks.numbers("adamw_betas", values["adamw_betas"], 2)):
            checks.fraction(f"adamw_betas[{i}]", beta)
        checks.positive("adamw_eps", values["adamw_eps"])

    def complete_group(self, group: dict[str, Any]) -> None:
        """Refuse parameters that the group's algorithm cannot step; may add derived values."""
        for param in group["params"]:
            if group["algorithm"] == "matrix" and param.ndim < 2:
                shape = tuple(param.shape)
                raise ValueError(f"a parameter of shape {shape} cannot have algorithm 'matrix'")
            if param.is_complex():
                raise ValueError(f"{type(self).__name__} does not support complex parameters")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, split by dimensions where it names no algorithm; see the class."""
        if "algorithm" in param_group:
            self._add_labelled(dict(param_group))
            return
        params = param_group["params"]
        if isinstance(params, set):
            raise TypeError("params must be ordered; a set is not")
        params = [params] if isinstance(params, Tensor) else list(params)
        parts: dict[str, list[Any]] = {"matrix": [], "adamw": []}
        for param in params:
            tensor = param[1] if isinstance(param, tuple) else param
            parts["matrix" if getattr(tensor, "ndim", 0) >= 2 else "adamw"].append(param)
        own = {
            key: value for key, value in param_group.items() if key not in ("lr", "weight_decay")
        }
        for algorithm, part in parts.items():
            base = param_group if algorithm == "matrix" else own
            if part:
                self._add_labelled({**base, "params": part, "algorithm": algorithm})

    def _add_labelled(self, group: dict[str, Any]) -> None:
        if checks.choice("algorithm", group["algorithm"], ("matrix", "adamw")) == "adamw":
            for key in ("lr", "weight_decay"):
                adamw_key = f"adamw_{key}"
                group.setdefault(key, group.get(adamw_key, self.defaults[adamw_key]))
        super().add_param_group(group)
        try:
            self.check_hyperparameters(self.param_groups[-1])
            self.complete_group(self.param_groups[-1])
        except Exception:
            self.param_groups.pop()
            raise

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Step every group; ``closure``, if given, re-evaluates the model and returns the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["algorithm"] == "matrix":
                self.step_matrices(group)
            else:
                self._step_adamw(group)
        return loss

    def batches(
        self, group: dict[str, Any], keys: Sequence[Hashable] | None = None
    ) -> Iterator[MatrixBatch]:
        """Gather a group's matrices that have gradients by shape, dtype, device and key.

        ``keys``, one a parameter, keeps parameters apart that must be stepped differently.
        """
        found: dict[Hashable, MatrixBatch] = {}
        for i, param in enumerate(group["params"]):
            if not self._has_gradient(param):
                continue
            state = self.state[param]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(param)
            rows, cols = as_matrix(param).shape
            key = None if keys is None else keys[i]
            place = (rows, cols, param.dtype, param.device, key)
            batch = found.setdefault(place, MatrixBatch(rows, cols, key))
            batch.params.append(param)
            batch.buffers.append(state["momentum_buffer"])
        yield from found.values()

    def _step_adamw(self, group: dict[str, Any]) -> None:
        params = [param for param in group["params"] if self._has_gradient(param)]
        for param in params:
            state = self.state[param]
            if not state:
                state["step"] = torch.tensor(0.0)
                state["exp_avg"] = torch.zeros_like(param)
                state["exp_avg_sq"] = torch.zeros_like(param)
        beta1, beta2 = group["adamw_betas"]
        adamw(
            params,
            [param.grad for param in params],
            [self.state[param]["exp_avg"] for param in params],
            [self.state[param]["exp_avg_sq"] for param in params],
            [],
            [self.state[param]["step"] for param in params],
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["adamw_eps"],
            maximize=False,
        )

    def _has_gradient(self, param: Tensor) -> bool:
        if param.grad is not None and param.grad.is_sparse:
            raise RuntimeError(
                f"{type(self).__name__} does not support sparse gradients; "
                "build the embedding with sparse=False"
            )
        return param.grad is not None
