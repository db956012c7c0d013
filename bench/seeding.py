"""Independent random streams of one run, all derived from its seed.

Initialisation, data order, augmentation, validation split and in-model noise each get a stream of
their own, so that changing how one of them draws leaves the others as they were.
"""

from __future__ import annotations

import hashlib

import torch


def derive(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for ``purpose`` (for example ``"order", epoch``), stable everywhere."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a CPU generator for ``purpose``; CPU so that every device sees the same numbers."""
    return torch.Generator().manual_seed(derive(seed, *purpose))
