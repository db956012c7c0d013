"""The numbers that the preprint stored, recomputed from its stored arrays."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import fits

PATH = Path(__file__).parents[3] / "shared" / "paper" / "oracle_public.json"
EXACT = {"f64": 1e-9, "f32log": 3e-7}  # f32log: the stored number took ln of float32 values
BIC = {"f64": 1e-9, "f32log": 5e-4}


def _records() -> list[Any]:
    if not PATH.is_file():
        reason = "the preprint's stored arrays (../shared/paper/oracle_public.json) are not here"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="absent")]
    return [
        pytest.param(record, id=f"{record['kind']}-{record['file']}-{record['id']}")
        for record in json.loads(PATH.read_text())
    ]


def _alpha(sigma: list[float], h: list[float]) -> dict[str, float]:
    fit = fits.fit_alpha(sigma, h)
    return {"alpha": fit.exponent, "r2_alpha": fit.r2, "n_valid": fit.n_valid}


def _triangle(sigma: list[float], h: list[float]) -> dict[str, float]:
    found = fits.triangle(sigma, h)
    return {
        "alpha": found.alpha,
        "r2_alpha": found.alpha_fit.r2,
        "gamma": found.gamma,
        "r2_gamma": found.gamma_fit.r2,
        "s_hessian": found.s,
        "r2_s_hessian": found.s_fit.r2,
        "predicted_s": found.predicted_s,
        "triangle_error": found.error,
        "triangle_relative_error": found.relative_error,
    }


def _rank_models(sigma: list[float]) -> dict[str, Any]:
    models = fits.rank_models(sigma)
    numbers: dict[str, Any] = {"best": fits.best_rank_model(sigma)}
    for name, fit in models.items():
        numbers |= {key: value for key, value in fit.coefficients.items() if key != "log_c"}
        numbers |= {f"{name}.log_c": fit.coefficients["log_c"], f"{name}.rss": fit.rss}
        numbers |= {f"{name}.aic": fit.aic, f"{name}.bic": fit.bic}
    numbers["delta_exp_minus_pl"] = models["exponential"].bic - models["power_law"].bic
    assert numbers["gamma"] == pytest.approx(fits.fit_gamma(sigma).exponent, rel=1e-12)
    return numbers


COMPUTE = {
    "alpha": _alpha,
    "triangle": _triangle,
    "rankmodels": _rank_models,
    "rankmodels_full": _rank_models,
    "powerlaw_pr": lambda s, n: {"predicted_eff_rank": fits.predicted_effective_rank(s, n)},
    "logcorr": lambda h_kron, sigma: {"corr": fits.log_correlation(h_kron, np.square(sigma))},
}


@pytest.mark.parametrize("record", _records())
def test_stored_numbers_are_reproduced(record: dict[str, Any]) -> None:
    found = COMPUTE[record["kind"]](**record["inputs"])
    for name, stored in record["expected"].items():
        if isinstance(stored, str):
            assert found[name] == stored
            continue
        is_bic = name.endswith((".bic", ".aic")) or name.startswith("delta_")
        tolerance = (BIC if is_bic else EXACT)[record["mode"]]
        assert found[name] == pytest.approx(stored, abs=tolerance, rel=1e-9), name


@pytest.mark.skipif(not PATH.is_file(), reason="the preprint's stored arrays are not here")
def test_every_kind_is_covered() -> None:
    records = json.loads(PATH.read_text())
    assert len(records) == 164
    assert {record["kind"] for record in records} == set(COMPUTE)
