"""Independent random streams of one run, all derived from its seed.

Initialisation, data order, augmentation, validation split and in-model noise each get a stream of
their own, so that changing how one of them draws leaves the others as they were.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch


def derive(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for ``purpose`` (for example ``"order", epoch``), stable everywhere."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def noise_seed(seed: int, rank: int = 0, step: int = 0) -> int:
    """Return the seed of dropout and the like: each rank's own, and a follower's at each start."""
    return derive(seed, "noise", *((rank, step) if rank else ()))


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a CPU generator for ``purpose``; CPU so that every device sees the same numbers."""
    return torch.Generator().manual_seed(derive(seed, *purpose))


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Return torch's global random state, and the GPU's where ``device`` is one."""
    state = {"random": torch.get_rng_state()}
    if device.type == "cuda":
        state["random_cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Continue from what :func:`random_state` gave, as far as ``device`` has it."""
    torch.set_rng_state(state["random"])
    if device.type == "cuda" and "random_cuda" in state:
        torch.cuda.set_rng_state(state["random_cuda"], device)
