"""The second source's claims change their verdict when the data change."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hessian_tables import blocks, landscape, write
from measured_tables import write_run

from analysis.claim.check import Result, check
from analysis.claim.model import load_claims
from analysis.page.claims import reason
from analysis.run.measured import load

CLAIMS = {claim.id: claim for claim in load_claims() if claim.source.startswith("2510")}
AS_CLAIMED = {"value": 5.0, "key": 4.0}


def verdicts(
    root: Path,
    *,
    start: dict[str, float] = AS_CLAIMED,
    trained: dict[str, float] = AS_CLAIMED,
    constants: dict[float, float] | None = None,
    power: float = 0.0,
    model: str = "vit_micro",
) -> dict[str, Result]:
    for seed in range(3):
        folder = write_run(root, f"run{seed}", [], model=model, dataset="digits", seed=seed)
        both = [blocks(start, epoch=0.0, seed=seed), blocks(trained, seed=seed)]
        windows, points = landscape(constants or {0.0: 0.2, 1.0: 0.6}, power=power, seed=seed)
        tables = {"landscape": windows, "landscape_fits": points}
        write(folder, hessian_blocks=pd.concat(both, ignore_index=True), **tables)
    found = load([str(root)])
    return {name: check(claim, found) for name, claim in CLAIMS.items()}


def test_all_hold_where_the_data_are_as_claimed(tmp_path: Path) -> None:
    found = verdicts(tmp_path)
    assert {name: result.verdict for name, result in found.items()} == dict.fromkeys(found, "holds")
    assert len(found) == 6 and all(result.decided for result in found.values())
    value = found["hessian-value-largest"].estimate
    assert value is not None and (value.n, value.runs) == (3, ("run0", "run1", "run2"))
    null, interval = found["landscape-slope"].nulls["null_exponent"]
    assert null == pytest.approx(1, abs=0.1) and interval.low <= null <= interval.high


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        ({"start": {"value": 4.0, "key": 4.5}}, {"hessian-value-largest-start"}),
        ({"trained": {"value": 4.0, "key": 4.5}}, {"hessian-value-largest"}),
        ({"start": {"value": 5.0, "key": 4.0, "query": 3.0}}, {"hessian-key-value-start"}),
        ({"trained": {"value": 5.0, "key": 4.0, "mlp_down": 3.0}}, {"hessian-key-value"}),
        ({"constants": {0.0: 0.6, 1.0: 0.2}}, {"landscape-distance"}),
        ({"power": 0.7}, {"landscape-slope"}),
    ],
)
def test_each_fails_where_its_data_are_moved(
    tmp_path: Path, change: dict[str, dict[str, float]], failing: set[str]
) -> None:
    found = verdicts(tmp_path, **change)  # type: ignore[arg-type]
    assert {name for name, result in found.items() if result.verdict == "fails"} == failing


def test_another_network_is_no_test_of_them(tmp_path: Path) -> None:
    found = verdicts(tmp_path, model="gpt_mini")
    assert {result.verdict for result in found.values()} == {"not measured"}
    write_run(tmp_path / "bare", "r", [])
    bare = load([str(tmp_path / "bare")])
    assert "spectral-bench hessian-blocks" in reason(check(CLAIMS["hessian-value-largest"], bare))
    assert "spectral-bench landscape" in reason(check(CLAIMS["landscape-slope"], bare))
