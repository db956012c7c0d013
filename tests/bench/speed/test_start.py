"""What the processes that measure a start are asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import options
from bench.errors import UserError
from bench.speed.epoch import EpochOptions
from bench.speed.start import arguments, starts


def test_the_same_run_but_its_first_steps_only() -> None:
    asked = EpochOptions.model_validate(
        {
            "model": "convnet",
            "optimizer": ["adamw", "muon:ns_steps=2"],
            "overrides": ["dataset.count=200"],
            "start": True,
            "epochs": 7,
        }
    )
    words = arguments({**asked.model_dump(mode="json"), "out": Path("x.json")})
    again = options.parse(EpochOptions, words, prog="", description="")
    same = {"plain": False, "profile": False, "start": False, "epochs": 1, "steps": 4}
    assert again == asked.model_copy(update={**same, "out": Path("x.json")})


@pytest.mark.slow
def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(UserError, match=r"empty cache failed: error: .*resnet19"):
        starts(EpochOptions.model_validate({"model": "resnet19", "device": "cpu"}).model_dump())
