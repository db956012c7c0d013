"""Columns that claims are about and that follow from those of the exponents table."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

_QUARTERS = [f"alpha_quarter{i}" for i in range(1, 5)]


def column(table: pd.DataFrame, name: str) -> pd.Series[float]:
    """Return column ``name`` of ``table`` as floats (true is 1), derived where need be.

    Raises:
        KeyError: the table has neither this column nor those that it follows from.
    """
    if name not in table.columns and name in _DERIVED:
        return _DERIVED[name](table)
    values = pd.to_numeric(table[name], errors="coerce").astype("Float64")
    return values.astype("float64").replace([np.inf, -np.inf], np.nan)


def _won_by(model: str) -> Callable[[pd.DataFrame], pd.Series[float]]:
    def won(table: pd.DataFrame) -> pd.Series[float]:
        winner = table["rank_model"]
        return (winner == model).astype("float64").where(winner.notna())

    return won


def _less(left: str, right: str) -> Callable[[pd.DataFrame], pd.Series[float]]:
    def less(table: pd.DataFrame) -> pd.Series[float]:
        a, b = column(table, left), column(table, right)
        return (a < b).astype("float64").where(a.notna() & b.notna())

    return less


def _in_band(name: str, low: float, high: float) -> Callable[[pd.DataFrame], pd.Series[float]]:
    def inside(table: pd.DataFrame) -> pd.Series[float]:
        values = column(table, name)
        return values.between(low, high).astype("float64").where(values.notna())

    return inside


def _quarter_spread(table: pd.DataFrame) -> pd.Series[float]:
    quarters = pd.concat([column(table, name) for name in _QUARTERS], axis=1)
    spread = quarters.max(axis=1) - quarters.min(axis=1)
    return spread.where(quarters.notna().all(axis=1))


def _leverage(table: pd.DataFrame) -> pd.Series[float]:
    return (column(table, "alpha") - column(table, "alpha_without_first")).abs()


def _factor_match(table: pd.DataFrame) -> pd.Series[float]:
    """Whether either factor's spectrum has the gradient's rank model, as the preprint counts."""
    models = table[["rank_model", "delta_model", "input_model"]]
    own = models["rank_model"]
    either = (models["delta_model"] == own) | (models["input_model"] == own)
    return either.astype("float64").where(models.notna().all(axis=1))


def _effective_rank_rule(table: pd.DataFrame) -> pd.Series[float]:
    """Whether an effective rank of C_A below 10 goes with exponential, another with log-normal."""
    rank, model = column(table, "input_rank"), table["rank_model"]
    told = rank.lt(10).map({True: "exponential", False: "lognormal"})
    return (told == model).astype("float64").where(rank.notna() & model.notna())


def _distance(table: pd.DataFrame) -> pd.Series[float]:
    return (column(table, "alpha") - 2).abs()


def _error(table: pd.DataFrame) -> pd.Series[float]:
    return column(table, "triangle_relative_error").abs()


_DERIVED: dict[str, Callable[[pd.DataFrame], pd.Series[float]]] = {
    "identity_error": _error,
    "better_than_noise": _less("identity_error", "null_noise_error"),
    "power_law_won": _won_by("power_law"),
    "exponential_won": _won_by("exponential"),
    "lognormal_won": _won_by("lognormal"),
    "weight_gamma_below_s": _less("weight_gamma", "s"),
    "weight_tail_below_s": _less("weight_tail", "s"),
    "alpha_near_two": _in_band("alpha", 1.85, 2.15),
    "alpha_quarter_spread": _quarter_spread,
    "alpha_leverage": _leverage,
    "alpha_distance": _distance,
    "factor_match": _factor_match,
    "effective_rank_rule": _effective_rank_rule,
    "pr_h_in_range": _in_band("pr_h", 1.0, 1.8),
    "pr_sigma_in_range": _in_band("pr_sigma", 1.8, 58.0),
}
