"""Two optimizers as one: any matrix optimizer for the hidden matrices, any other for the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from torch import Tensor
from torch.optim import Optimizer

from optimizers import base
from optimizers.base import ClosureOptimizer

Group: TypeAlias = dict[str, Any]
Factory: TypeAlias = Callable[[list[Group]], Optimizer]


class Paired(ClosureOptimizer):
    """``matrix`` steps the groups with ``algorithm: "matrix"``, ``other`` steps all other groups.

    Both are called with a list of groups and return a torch optimizer, such as
    ``functools.partial(torch.optim.Muon, momentum=0.95)``. ``params`` are labelled groups, as
    :func:`optimizers.partition.hidden_matrices` makes them. ``lr`` is the learning rate of the
    matrix groups; the others keep that of ``other``.

    With ``flatten``, ``matrix`` sees a weight of more than two dimensions as the matrix
    ``[out, in*kh*kw]``: for optimizers that take 2-D weights only. Its state has that shape then.

    It is one optimizer to its user: ``param_groups`` and ``state`` are those of the two, one
    ``state_dict`` holds both, and schedulers scale each group's own ``lr``.

    Raises ValueError for groups without ``algorithm``, a parameter in two groups, or a saved state
    of other groups; otherwise whatever the two raise.
    """

    def __init__(
        self,
        params: Iterable[Group],
        lr: float = 0.02,
        *,
        matrix: Factory,
        other: Factory,
        flatten: bool = False,
    ) -> None:
        base.not_negative("lr", lr)
        self._factories = {"matrix": matrix, "other": other}
        self._parts: dict[str, Optimizer] = {}
        self._flatten = flatten
        super().__init__(params, {"lr": lr})

    def add_param_group(self, param_group: Group) -> None:
        """Add a labelled group; it goes to one of the two optimizers."""
        if "algorithm" not in param_group:
            raise ValueError(
                "Paired needs groups with 'algorithm': pass "
                "optimizers.partition.hidden_matrices(model) as the parameters"
            )
        group, kind = dict(param_group), _kind(param_group)
        group["params"] = _listed(group["params"])
        tensors = [item[1] if isinstance(item, tuple) else item for item in group["params"]]
        held = {id(param) for each in self.param_groups for param in each["params"]}
        if any(id(tensor) in held for tensor in tensors):
            raise ValueError("some parameters appear in more than one parameter group")
        if kind == "matrix":
            group.setdefault("lr", self.defaults["lr"])
        with self._shapes(kind, tensors):
            part = self._parts.get(kind)
            if part is None:
                part = self._parts[kind] = self._factories[kind]([group])
            else:
                part.add_param_group(group)
        self.param_groups.append(part.param_groups[-1])
        self._share_state()

    def update(self) -> None:
        """Step both."""
        for kind, part in self._parts.items():
            tensors = [param for group in part.param_groups for param in group["params"]]
            with self._shapes(kind, tensors):
                part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a saved state; each of the two loads its own groups, in its own way."""
        groups: list[Group] = state_dict["param_groups"]
        if [_kind(group) for group in groups] != [_kind(group) for group in self.param_groups]:
            raise ValueError("the saved parameter groups are not those of this optimizer")
        for kind, part in self._parts.items():
            own = [group for group in groups if _kind(group) == kind]
            indices = {index for group in own for index in group["params"]}
            state = {i: value for i, value in state_dict["state"].items() if i in indices}
            part.load_state_dict({"state": state, "param_groups": own})
        fresh = {kind: iter(part.param_groups) for kind, part in self._parts.items()}
        self.param_groups = [next(fresh[_kind(group)]) for group in groups]
        self._share_state()

    def _share_state(self) -> None:
        """Make one mapping of the states; the two then find theirs in it."""
        state: defaultdict[Tensor, Any] = defaultdict(dict)
        for part in self._parts.values():
            state.update(part.state)
        for optimizer in (self, *self._parts.values()):
            optimizer.state = state

    def __getstate__(self) -> dict[str, Any]:
        # torch keeps its own attributes only; pickling them together keeps what they share.
        own = {key: vars(self)[key] for key in ("_factories", "_parts", "_flatten")}
        return {**super().__getstate__(), **own}

    @contextmanager
    def _shapes(self, kind: str, tensors: list[Tensor]) -> Iterator[None]:
        """Give weights of more than two dimensions the shape of a matrix for a while."""
        flat = self._flatten and kind == "matrix"
        kept = [(each, each.data, each.grad) for each in tensors if flat and each.ndim > 2]
        try:
            for weight, data, grad in kept:
                weight.grad = None  # a gradient must have its weight's shape at any time
                weight.data = data.flatten(1)
                weight.grad = None if grad is None else grad.flatten(1)
            yield
        finally:
            for weight, data, grad in kept:
                if weight.data_ptr() != data.data_ptr():  # no view in channels_last: a copy
                    data.copy_(weight.data.view(data.shape))
                weight.grad = None
                weight.data = data
                weight.grad = grad


def _kind(group: Group) -> str:
    return "matrix" if group.get("algorithm") == "matrix" else "other"


def _listed(params: Any) -> list[Any]:
    if isinstance(params, set):
        raise TypeError("params must be ordered; a set is not")
    return [params] if isinstance(params, Tensor) else list(params)
