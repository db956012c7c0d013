from __future__ import annotations

from typing import Any

import pytest

from analysis.run.filters import Filters
from analysis.run.frame import STATES, RunRecord

DONE = RunRecord("a", "done", {"sweep": "grid", "tracker": {"tags": ["first", "x"]}})


@pytest.mark.parametrize(
    ("filters", "asked"),
    [
        (Filters(), {}),
        (Filters("grid"), {"group": "grid"}),
        (Filters(tags=("a", "b")), {"tags": {"$in": ["a", "b"]}}),
        (Filters(states=("done",)), {"summary_metrics.state": {"$in": ["diverged", "done"]}}),
        (
            Filters("grid", ("a",), ("failed",)),
            {
                "group": "grid",
                "tags": {"$in": ["a"]},
                "summary_metrics.state": {"$in": ["diverged", "done", "failed"]},
            },
        ),
        (Filters(states=("done", "running")), {}),
    ],
)
def test_what_a_server_is_asked(filters: Filters, asked: dict[str, Any]) -> None:
    assert filters.query() == asked


@pytest.mark.parametrize(
    ("filters", "fits"),
    [
        (Filters(), True),
        (Filters("grid", ("x", "y"), ("failed", "done")), True),
        (Filters("other"), False),
        (Filters(tags=("y",)), False),
        (Filters(states=("failed", "running")), False),
    ],
)
def test_which_runs_fit(filters: Filters, fits: bool) -> None:
    assert filters.fits(DONE) is fits


def test_a_run_without_a_config_has_no_tags_and_no_sweep() -> None:
    lost = RunRecord("a", "unreadable")
    assert Filters().fits(lost)
    assert Filters(states=("unreadable",)).fits(lost)
    assert not Filters("grid").fits(lost)
    assert not Filters(tags=("x",)).fits(lost)


def test_an_unknown_state_names_the_nearest_or_all() -> None:
    with pytest.raises(ValueError, match="unknown state 'failled'; the nearest is 'failed'"):
        Filters(states=("failled",))
    with pytest.raises(ValueError, match=f"unknown state 'xyz'; known: {', '.join(STATES)}"):
        Filters(states=("xyz",))
