from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from analysis.claim.model import Rule, column, load_claims

CLAIM: dict[str, Any] = {
    "id": "one", "source": "1", "statement": "alpha is 2", "stated": "2",
    "rule": {"about": 2, "within": 0.1}, "quantity": {"column": "alpha"},
}  # fmt: skip


def _file(tmp_path: Path, *claims: Any) -> Path:
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump(list(claims)))
    return path


def test_the_shipped_claims_cover_the_whole_list() -> None:
    claims = load_claims()
    numbers = {int(re.split(r"\D", claim.source)[0]) for claim in claims}
    assert numbers == {*range(1, 50), 2510}  # the second source's
    assert all(c.nulls for c in claims if c.quantity and c.quantity.column == "identity_error")


@pytest.mark.parametrize(
    ("rule", "ends"),
    [
        ({"about": 2, "within": 0.5}, (1.5, 2.5)),
        ({"at_least": 1}, (1, float("inf"))),
        ({"at_most": 1}, (float("-inf"), 1)),
        ({"between": [1, 2]}, (1, 2)),
    ],
)
def test_a_rule_says_which_values_it_accepts(rule: Any, ends: tuple[float, float]) -> None:
    assert Rule(**rule).ends == ends


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rule": {}}, "exactly one of"),
        ({"rule": {"at_least": 1, "at_most": 2}}, "exactly one of"),
        ({"rule": {"about": 1}}, "belong together"),
        ({"rule": {"at_least": 1, "within": 1}}, "belong together"),
        ({"rule": {"between": [2, 1]}}, "lower end first"),
        ({"rule": None}, "quantity and rule belong together"),
        ({"reason": "none"}, "or the reason"),
        ({"rule": None, "quantity": None}, "or the reason"),
        ({"quantity": {"column": "alpha", "statistic": "mode"}}, "quantity.statistic"),
        ({"verdict": "holds"}, "verdict"),
    ],
)
def test_a_claim_that_cannot_be_judged_is_refused(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=f"claim one.*{re.escape(told)}"):
        load_claims(_file(tmp_path, CLAIM | change))


def test_a_file_of_claims_is_checked_as_a_whole(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one is there twice"):
        load_claims(_file(tmp_path, CLAIM, CLAIM))
    with pytest.raises(ValueError, match="expected a list"):
        load_claims(_file(tmp_path))
    (tmp_path / "claims.yaml").write_text("a: [")
    with pytest.raises(ValueError, match="not YAML"):
        load_claims(tmp_path / "claims.yaml")


TABLE = pd.DataFrame(
    {
        "alpha": [2.1, 1.0, np.nan],
        "alpha_without_first": [1.6, 1.2, np.nan],
        "s": [2.0, 1.0, 1.0],
        "weight_gamma": [1.0, 1.5, np.nan],
        "triangle_relative_error": [-0.1, 0.2, np.inf],
        "null_noise_error": [0.2, 0.1, 0.1],
        "rank_model": ["lognormal", "power_law", None],
        "zeta_met": pd.array([True, False, None], dtype="boolean"),
        "delta_model": ["lognormal", "lognormal", "lognormal"],
        "input_model": ["exponential", "lognormal", "lognormal"],
        "input_rank": [12.0, 3.0, 3.0],
        "pr_h": [1.8, 0.9, 1.81],
        **{f"alpha_quarter{i}": [2.0 + i, 1.0, np.nan if i == 2 else 1.0] for i in range(1, 5)},
    }
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("s", [2, 1, 1]),
        ("zeta_met", [1, 0, np.nan]),
        ("identity_error", [0.1, 0.2, np.nan]),
        ("better_than_noise", [1, 0, np.nan]),
        ("lognormal_won", [1, 0, np.nan]),
        ("power_law_won", [0, 1, np.nan]),
        ("exponential_won", [0, 0, np.nan]),
        ("weight_gamma_below_s", [1, 0, np.nan]),
        ("alpha_near_two", [1, 0, np.nan]),
        ("alpha_quarter_spread", [3, 0, np.nan]),
        ("alpha_leverage", [0.5, 0.2, np.nan]),
        ("alpha_distance", [0.1, 1.0, np.nan]),
        ("factor_match", [1, 0, np.nan]),
        ("effective_rank_rule", [1, 0, np.nan]),
        ("pr_h_in_range", [1, 0, 0]),
    ],
)
def test_a_column_is_float_and_unknown_stays_unknown(name: str, expected: list[float]) -> None:
    np.testing.assert_allclose(column(TABLE, name).to_numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("name", ["chi_slope", "weight_tail_below_s", "pr_sigma_in_range"])
def test_a_column_whose_source_is_not_there_is_missing(name: str) -> None:
    with pytest.raises(KeyError):
        column(TABLE, name)
