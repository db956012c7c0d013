"""The options of a launch, as they may be written without their prefix: ``pack=4``."""

from __future__ import annotations

from collections.abc import Sequence

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
