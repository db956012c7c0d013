"""Names between a launch and those who use it: its options as typed, what its workers are told."""

from __future__ import annotations

from collections.abc import Sequence

# The variable that tells a process how many share its device.
PACKED = "SPECTRAL_BENCH_PACKED"

# Short for hydra.launcher.<name>: those that a user gives from one launch to the next.
LAUNCH_OPTIONS = ("retry", "wait", "pack", "workers", "fail_fast_after", "time")


def spelled_out(words: Sequence[str]) -> list[str]:
    """Return a command line with short launch options written as Hydra knows them."""
    return [
        f"hydra.launcher.{word}"
        if word.partition("=")[0] in LAUNCH_OPTIONS and "=" in word
        else word
        for word in words
    ]
