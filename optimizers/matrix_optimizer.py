"""Base of optimizers that transform the momentum of hidden matrices and leave the rest to AdamW.

A step goes from :meth:`MatrixOptimizer.update` through each group to :func:`_matrix_step`, all of
the matrices' arithmetic in one function that can be compiled. A subclass writes ``directions``.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from optimizers import base as checks
from optimizers.base import ClosureOptimizer
from optimizers.math.transfer import as_matrix
from optimizers.torch_private import Step, with_own_code

Params: TypeAlias = Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]

# What changes from step to step, or is an input: a compiled step is not specialised to it.
_NOT_CONSTANT = frozenset({"params", "param_names", "lr", "initial_lr"})


class AdamWSettings(NamedTuple):
    """Hyperparameters of the AdamW part, with the defaults of every MatrixOptimizer."""

    adamw_lr: float = 1e-3
    adamw_betas: tuple[float, float] = (0.9, 0.999)
    adamw_eps: float = 1e-8
    adamw_weight_decay: float = 0.0


ADAMW = AdamWSettings()


class MatrixStack(NamedTuple):
    """Matrices of one shape, dtype, device and key: ``momentum`` is ``[k, rows, cols]``."""

    momentum: Tensor
    key: Any


class StackPlace(NamedTuple):
    """Where the matrices of one stack lie: ``indices`` among a group's params with a gradient."""

    rows: int
    cols: int
    dtype: torch.dtype
    device: torch.device
    key: Any
    indices: tuple[int, ...]


class MatrixOptimizer(ClosureOptimizer):
    """A torch optimizer with two algorithms; each parameter group names the one that steps it.

    ``params`` is what every torch optimizer takes: parameters, named parameters, or groups. A group
    with ``algorithm: "matrix"`` is stepped along :meth:`directions`; one with
    ``algorithm: "adamw"`` by torch's AdamW, from the ``adamw_*`` hyperparameters unless the group
    has an ``lr`` or ``weight_decay`` of its own. Where no algorithm is given, parameters of two or
    more dimensions are matrices and the rest AdamW's, and the group's own ``lr`` and
    ``weight_decay`` are the matrices'. :func:`optimizers.partition.hidden_matrices` makes groups
    that also leave heads and embeddings to AdamW.

    Each group's ``lr`` is what learning-rate schedulers scale; it may be a tensor beside the
    parameters, which a CUDA graph needs. The state is one momentum buffer a matrix, and AdamW's two
    moments elsewhere. ``compile=True`` compiles the matrices' whole step (torch.compile): worth its
    start-up time on a GPU, where the number of kernels rules. No step waits for the device.

    Raises ValueError for an impossible hyperparameter, by name, and RuntimeError on a sparse
    gradient.
    """

    def __init__(self, params: Params, defaults: dict[str, Any]) -> None:
        defaults["adamw_betas"] = checks.numbers("adamw_betas", defaults["adamw_betas"], 2)
        self.check_hyperparameters(defaults)
        super().__init__(params, defaults)

    @staticmethod
    @abstractmethod
    def directions(stacks: Sequence[MatrixStack], group: dict[str, Any], plan: Any) -> list[Tensor]:
        """Return O of each stack, ``[k, rows, cols]``, for W <- (1 - lr weight_decay) W - lr O.

        The momentum in ``stacks`` is a copy (Nesterov's look-ahead included); gradients are off.
        It has constants of ``group``, and what :meth:`plan` made of them, and no ``self``: what is
        compiled serves every optimizer with the same constants.
        """

    def plan(self, places: Sequence[StackPlace], group: dict[str, Any]) -> Any:
        """Return what can be computed once for these stacks; made anew with the hyperparameters."""
        del places, group

    def keys(self, group: dict[str, Any]) -> Sequence[Hashable]:
        """Return one key a parameter; parameters of different keys are in different stacks."""
        return [None] * len(group["params"])

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

    def update(self) -> None:
        """Step matrices along their directions, and the rest by AdamW."""
        for index, group in enumerate(self.param_groups):
            if group["algorithm"] == "matrix":
                self._step_matrices(index, group)
            else:
                self._step_adamw(group)

    def _step_matrices(self, index: int, group: dict[str, Any]) -> None:
        present = tuple(i for i, param in enumerate(group["params"]) if self.has_gradient(param))
        if not present:
            return
        params = [group["params"][i] for i in present]
        for param in params:
            if "momentum_buffer" not in self.state[param]:
                self.state[param]["momentum_buffer"] = torch.zeros_like(param)
        buffers = [self.state[param]["momentum_buffer"] for param in params]
        kernel = self._kernel(index, group, present)
        lr = group["lr"]
        if group["compile"] and not isinstance(lr, Tensor):
            lr = torch.tensor(lr)  # an input; a number would be compiled in
        kernel(params, [param.grad for param in params], buffers, lr)

    def _kernel(self, index: int, group: dict[str, Any], present: tuple[int, ...]) -> Step:
        """Return the step of these parameters, made anew when a hyperparameter has changed."""
        constants = {key: value for key, value in group.items() if key not in _NOT_CONSTANT}
        known: dict[Any, tuple[dict[str, Any], Step]]
        known = self.__dict__.setdefault("_kernels", {})  # copies and pickles come without it
        if (index, present) in known and known[index, present][0] == constants:
            return known[index, present][1]
        places = self._places(group, present)
        kernel: Step = functools.partial(
            _matrix_step,
            directions=functools.partial(
                self.directions, group=constants, plan=self.plan(places, group)
            ),
            group=constants,
            places=places,
        )
        if group["compile"]:
            # One kernel for what is done to every matrix: 6 % of a step on GPT-2, 20 % on
            # ResNet-18, where the number of kernels rules.
            kernel = torch.compile(
                with_own_code(kernel, repr((type(self), constants, places))),
                fullgraph=True,
                dynamic=False,
                options={"combo_kernels": True},
            )
        known[index, present] = constants, kernel
        return kernel

    def _places(self, group: dict[str, Any], present: tuple[int, ...]) -> list[StackPlace]:
        keys = self.keys(group)
        found: dict[StackPlace, list[int]] = {}
        for position, i in enumerate(present):
            param = group["params"][i]
            rows, cols = as_matrix(param).shape
            alike = StackPlace(rows, cols, param.dtype, param.device, keys[i], ())
            found.setdefault(alike, []).append(position)
        return [place._replace(indices=tuple(positions)) for place, positions in found.items()]

    def _step_adamw(self, group: dict[str, Any]) -> None:
        params = [param for param in group["params"] if self.has_gradient(param)]
        if not params:
            return
        fused = all(param.is_cuda for param in params)  # one kernel, and no host synchronisation
        for param in params:
            state = self.state[param]
            if not state:
                state["step"] = torch.tensor(0.0)
                state["exp_avg"] = torch.zeros_like(param)
                state["exp_avg_sq"] = torch.zeros_like(param)
            if fused and not state["step"].is_cuda:
                state["step"] = state["step"].to(param.device)
        beta1, beta2 = group["adamw_betas"]
        adamw(
            params,
            [param.grad for param in params],
            [self.state[param]["exp_avg"] for param in params],
            [self.state[param]["exp_avg_sq"] for param in params],
            [],
            [self.state[param]["step"] for param in params],
            fused=fused,
            capturable=fused,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["adamw_eps"],
            maximize=False,
        )


def _matrix_step(
    params: list[Tensor],
    grads: list[Tensor],
    buffers: list[Tensor],
    lr: float | Tensor,
    *,
    directions: Callable[[Sequence[MatrixStack]], list[Tensor]],
    group: dict[str, Any],
    places: list[StackPlace],
) -> None:
    """One group's step: momentum, direction, decoupled weight decay, update."""
    mu = group["momentum"]
    ahead = []
    for grad, buffer in zip(grads, buffers, strict=True):
        buffer.lerp_(grad, 1 - mu)
        ahead.append(grad.lerp(buffer, mu) if group["nesterov"] else buffer)
    last = [_channels_last(param) for param in params]
    stacks = [
        MatrixStack(
            torch.stack([_in_memory_order(ahead[i], last[i]) for i in place.indices]), place.key
        )
        for place in places
    ]
    for place, update in zip(places, directions(stacks), strict=True):
        for i, matrix in zip(place.indices, update.unbind(), strict=True):
            params[i].mul_(1 - lr * group["weight_decay"])
            params[i].sub_(_as_weight(matrix, params[i], last[i]) * lr)


def _channels_last(param: Tensor) -> bool:
    return param.ndim == 4 and param.is_contiguous(memory_format=torch.channels_last)


def _in_memory_order(weight: Tensor, channels_last: bool) -> Tensor:
    """The weight as a matrix whose columns are in the order of memory: no strided copy.

    An order of the columns is as good as another: the directions' columns follow it.
    """
    return as_matrix(weight.movedim(1, -1) if channels_last else weight)


def _as_weight(matrix: Tensor, param: Tensor, channels_last: bool) -> Tensor:
    if not channels_last:
        return matrix.reshape(param.shape)
    return matrix.reshape(param.movedim(1, -1).shape).movedim(-1, 1)
