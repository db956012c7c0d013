"""Launch options without their prefix."""

from __future__ import annotations

from bench.compose import spelled_out


def test_only_launch_options_are_spelled_out() -> None:
    words = ["-m", "pack=4", "seed=0,1", "retry=oom", "trainer.pack=1", "wait", "time=60"]
    assert spelled_out(words) == [
        "-m",
        "hydra.launcher.pack=4",
        "seed=0,1",
        "hydra.launcher.retry=oom",
        "trainer.pack=1",
        "wait",
        "hydra.launcher.time=60",
    ]
