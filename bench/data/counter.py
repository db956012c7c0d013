"""Counter-based random numbers: a pure function of (key, index), the same bits on every device.

No generator and no state: the numbers of a sample do not depend on which samples are drawn beside
it, in which process, or on what was drawn before. Everything is integer arithmetic in int64 that
cannot overflow, of fixed shape and without host synchronisation, so it can be compiled and
captured. Based on the 32-bit finaliser of C. Wellons' hash prospector ("lowbias32").
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.seeding import derive

_WORD = 0xFFFFFFFF
_LANE = 0x9E3779B9  # the golden ratio in 32 bits keeps lanes of neighbouring samples apart


def random_words(index: Tensor, lanes: int, seed: int, *purpose: str | int) -> Tensor:
    """Return uniform integers in [0, 2^32), int64 [N, lanes].

    Args:
        index: int64 [N] in [0, 2^32), which sample; its device is the result's.
        lanes: numbers a sample.
        seed: the run's seed.
        purpose: what the numbers are for, as in `bench.seeding.derive`.
    """
    key = derive(seed, *purpose)
    lane = torch.arange(lanes, device=index.device) * _LANE & _WORD
    words = _mixed(index[:, None] ^ (key & _WORD))
    return _mixed(_mixed(words ^ key >> 32) ^ lane)


def below(words: Tensor, bound: int) -> Tensor:
    """Return ``words`` of [0, 2^32) scaled down to integers in [0, bound), bound up to 2^31."""
    return words * bound >> 32


def uniform(words: Tensor) -> Tensor:
    """Return ``words`` of [0, 2^32) as float64 in [0, 1), exactly."""
    return words.double() * 2.0**-32


def _mixed(words: Tensor) -> Tensor:
    """Map [0, 2^32) onto itself so that each input bit changes about half of the output's."""
    words = _times(words ^ words >> 16, 0x7FEB352D)
    words = _times(words ^ words >> 15, 0x846CA68B)
    return words ^ words >> 16


def _times(words: Tensor, factor: int) -> Tensor:
    """Return the product modulo 2^32, in halves of at most 48 bits so that none overflows."""
    high = ((words >> 16) * factor & 0xFFFF) << 16
    return high + (words & 0xFFFF) * factor & _WORD
