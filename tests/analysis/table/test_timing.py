from __future__ import annotations

import json
from typing import Any

import pytest

from analysis.table.model import Comparable
from analysis.table.timing import comparable, far_apart, is_timing, whose


def run(
    device: str | None = "H100", source: str = "v1", target: str = "t.Muon", **more: Any
) -> Any:
    return {
        "provenance.device": device,
        "provenance.optimizer_source": json.dumps({target: source}),
        "config.optimizer._target_": target,
        "optimizer": "muon",
        "variant": "one",
        "cuda_graph": True,
        "id": "x",
        **more,
    }


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"device": "H200"}, "2 device models (H100, H200)"),
        ({"device": None}, "2 device models (H100, a device not recorded)"),
        ({"source": "v2"}, "2 versions of the code of t.Muon"),
        ({"cuda_graph": False}, "1 of 2 runs of muon had no CUDA graph"),
    ],
)
def test_what_is_not_mixed(other: dict[str, Any], why: str) -> None:
    found = comparable([run(), run(**other)])
    assert why in str(found.mixed)
    assert not found.apart
    assert not found.includes(run())


@pytest.mark.parametrize(
    "other",
    [
        {"provenance.packed": False},
        {"provenance.packed": 1.0},
        {"provenance.packed": None},
        {"source": "v2", "target": "t.AdamW"},  # another optimizer is other code
        {"cuda_graph": False, "variant": "another"},  # what it can be captured with is its own
        {"cuda_graph": None},
    ],
)
def test_what_is_alike(other: dict[str, Any]) -> None:
    assert comparable([run(), run(**other)]) == Comparable()
    assert comparable([]) == Comparable()
    assert comparable([run(device=None), run(device=None)]) == Comparable()


def test_runs_that_shared_their_device_stand_apart_from_those_that_had_it_alone() -> None:
    alone, packed = run(id="x"), run(id="y", **{"provenance.packed": 3.0})
    again = run(id="z", **{"provenance.packed": True})
    found = comparable([alone, packed, alone, again])
    assert found == Comparable(frozenset({"y", "z"}))
    assert [found.includes(one) for one in (alone, packed, again)] == [True, False, False]
    rows = {"a": [alone], "b": [packed], "c": [alone, again], "d": []}
    assert whose(rows, found.apart) == "b; 1 of 2 runs of c"
    assert comparable([packed, again]) == Comparable() == comparable([alone])
    other = run(id="w", device="H200")
    assert "2 device models" in str(comparable([alone, packed, other]).mixed)
    assert comparable([alone, run("H200", id="v", **{"provenance.packed": 2.0})]).mixed is None


def test_names_of_times() -> None:
    assert all(map(is_timing, ["seconds_per_epoch", "clock/step_seconds", "samples_per_second"]))
    assert is_timing("optimizer/seconds_per_step")
    assert all(map(is_timing, ["energy/joules", "energy/joules_per_epoch", "target/joules"]))
    assert not any(map(is_timing, ["test/accuracy", "train/loss", "best/epoch"]))


def test_seconds_are_far_apart_from_five_times_on() -> None:
    assert not far_apart([]) and not far_apart([2.0, 10.0])
    assert far_apart([10.1, 2.0])
