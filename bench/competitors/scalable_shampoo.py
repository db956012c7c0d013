"""pytorch-optimizer's ScalableShampoo, with a state that a checkpoint can hold.

Theirs keeps an object for each parameter's factors and one for its graft. torch.load refuses
objects (weights_only=True), and load_state_dict moves nothing that is in one to a device.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import pytorch_optimizer
import torch
from torch import Tensor

_Kept: TypeAlias = Tensor | list[Tensor]
_OBJECTS = ("pre_conditioner", "graft")


class ScalableShampoo(pytorch_optimizer.ScalableShampoo):
    """Shampoo in blocks, with averages and grafting (Anil et al., 2020); options as theirs.

    In the state dict an object is a dict of its tensors. All else in it follows from options and
    shapes, and comes from them when the state is loaded.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return the state as torch's optimizers do: tensors, numbers and plain containers."""
        held = super().state_dict()
        return {**held, "state": {key: _plain(state) for key, state in held["state"].items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what :meth:`state_dict` gave, of parameters of the same shapes.

        Raises:
            ValueError: the state is of other blocks, or of a graft with other tensors.
        """
        states = state_dict["state"]
        # torch would cast the factors, which are wider than bfloat16 weights, to the weights' type.
        rest = {key: _without_objects(state) for key, state in states.items()}
        super().load_state_dict({**state_dict, "state": rest})
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            for param, key in zip(group["params"], saved["params"], strict=True):
                if key in states:
                    self._make_objects(param, group)
                    for name in _OBJECTS:
                        _fill(self.state[param][name], states[key][name], param.device)

    def _make_objects(self, param: Tensor, group: dict[str, Any]) -> None:
        """Let the package make the objects of ``param``, as at its first step."""
        loaded, grad = self.state.pop(param), param.grad
        param.grad = torch.zeros_like(param)  # the package passes over those without one
        try:
            self.init_group({**group, "params": [param]})
        finally:
            param.grad = grad
        self.state[param].update(loaded)


def _without_objects(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name not in _OBJECTS}


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    return {
        name: dict(_tensors(value)) if name in _OBJECTS else value for name, value in state.items()
    }


def _tensors(of: object) -> Iterator[tuple[str, _Kept]]:
    """The attributes that are a tensor or a list of tensors.

    A root fresh from the package's Newton iterations is an inference tensor, which nobody could
    change in place later; a copy is an ordinary one.
    """
    for name, value in vars(of).items():
        if isinstance(value, Tensor):
            yield name, _ordinary(value)
        elif isinstance(value, list) and all(isinstance(item, Tensor) for item in value):
            yield name, [_ordinary(item) for item in value]


def _ordinary(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.is_inference() else tensor


def _fill(made: object, saved: dict[str, _Kept], device: torch.device) -> None:
    """Give a new object the tensors that another one had."""
    own = dict(_tensors(made))
    if _shapes(own) != _shapes(saved):
        raise ValueError(
            f"the saved state is of other options: its {type(made).__name__} has "
            f"{_shapes(saved)}, here {_shapes(own)}"
        )
    for name, kept in saved.items():
        moved = [item.to(device) for item in kept] if isinstance(kept, list) else kept.to(device)
        setattr(made, name, moved)


def _shapes(tensors: dict[str, _Kept]) -> dict[str, list[int] | list[list[int]]]:
    return {
        name: [list(item.shape) for item in kept] if isinstance(kept, list) else list(kept.shape)
        for name, kept in tensors.items()
    }
