"""How many samples a pass may take: from what autograd keeps of one sample, and the memory free."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_CPU_BUDGET = 2**30  # bytes; larger passes are no faster there
_CUDA_SHARE = 0.6  # of what is free


def samples_that_fit(model: nn.Module, inputs: Tensor, copies: float) -> int:
    """Return how many samples like ``inputs`` [1, ...] one pass may take, at least 1.

    Args:
        model: on its device, in the dtype it is to run in.
        inputs: one sample on the same device.
        copies: how many times the measurement holds what a forward pass keeps for backward.
    """
    held = saved_bytes(model, inputs.clone())  # not a slice, which keeps the whole batch
    return max(1, int(_budget(inputs.device) / (copies * max(held, 1))))


def saved_bytes(model: nn.Module, inputs: Tensor) -> int:
    """Return the bytes that autograd keeps of one forward pass, weights not counted."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = model(inputs)
        del outputs
    return sum(kept.values())


def _budget(device: torch.device) -> float:
    if device.type != "cuda":
        return _CPU_BUDGET
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return _CUDA_SHARE * (free + unused)
