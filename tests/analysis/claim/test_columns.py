from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.claim.columns import column

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
