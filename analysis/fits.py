"""Fits of gradient spectra and directional curvatures: exponents, rank models, effective ranks.

Conventions (Calvo 2026, arXiv 2606.02596, as its stored numbers define them): natural logarithms,
ordinary least squares with intercept, R2 and residuals in log space. Values that have no
logarithm (zero, negative, NaN, infinite) are dropped, and ``n_valid`` says how many are left.

Every function takes array-likes of shape [n], computes in float64, and raises ValueError for an
input that is not one-dimensional. numpy and scipy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import zeta

Array: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]
RankModel: TypeAlias = Literal["power_law", "exponential", "lognormal"]

_EPS = float(np.finfo(np.float64).eps)
_NAN = float("nan")


@dataclass(frozen=True)
class PowerLawFit:
    """A straight line in log-log space.

    Attributes:
        exponent: the slope, with the sign that the fitting function documents; NaN where fewer
            than two points are left or all abscissae are equal.
        log_prefactor: the intercept (natural logarithm).
        r2: 1 - RSS/TSS in log space; NaN where the ordinate is constant (TSS = 0).
        stderr: standard error of the exponent, sqrt(RSS / (n_valid - 2) / Sxx); NaN where
            n_valid < 3.
        n_valid: how many points entered.
    """

    exponent: float
    log_prefactor: float
    r2: float
    stderr: float
    n_valid: int


@dataclass(frozen=True)
class RankFit:
    """One model of ln sigma against the rank k.

    Attributes:
        coefficients: ``log_c`` and ``gamma`` (power_law), ``beta`` (exponential), or ``lin`` and
            ``quad`` (lognormal).
        rss: residual sum of squares of ln sigma.
        aic: n ln(RSS/n) + 2p.
        bic: n ln(RSS/n) + p ln n.

    All are NaN where no more points than coefficients are left (n <= p).
    """

    coefficients: dict[str, float]
    rss: float
    aic: float
    bic: float


@dataclass(frozen=True)
class Triangle:
    """The identity s = alpha * gamma of one layer.

    Attributes:
        alpha, gamma, s: the three exponents.
        predicted_s: alpha * gamma.
        error: abs(s - alpha * gamma).
        relative_error: error / s; NaN where s = 0.
        alpha_fit, gamma_fit, s_fit: the fits they come from.
    """

    alpha: float
    gamma: float
    s: float
    predicted_s: float
    error: float
    relative_error: float
    alpha_fit: PowerLawFit
    gamma_fit: PowerLawFit
    s_fit: PowerLawFit


def fit_alpha(sigma: ArrayLike, h: ArrayLike) -> PowerLawFit:
    """Fit h ~ sigma^alpha: the exponent is the slope of ln h on ln sigma.

    Pairs stay as they are given; a pair counts where sigma > 0 and h > 0.

    Args:
        sigma: singular values of the gradient, [n].
        h: directional curvatures along the same directions, [n].

    Raises:
        ValueError: the lengths differ.
    """
    x, y = _pair(sigma, h)
    return _line(np.log(x), np.log(y))


def fit_gamma(sigma: ArrayLike) -> PowerLawFit:
    """Fit sigma_k ~ k^(-gamma): the exponent is minus the slope of ln sigma on ln k, k = 1..n.

    Args:
        sigma: singular values, descending as an SVD gives them, [n]. A dropped value leaves the
            ranks of the others as they were.
    """
    rank, log_sigma = _ranked(sigma)
    return _decay(np.log(rank), log_sigma)


def fit_s(h: ArrayLike) -> PowerLawFit:
    """Fit h_(k) ~ k^(-s): minus the slope of ln h on ln k, h > 0 sorted descending and re-ranked.

    Args:
        h: directional curvatures in any order, [n]; values that are not positive are dropped
            before the ranking.
    """
    rank, log_h = _ranked(np.sort(_positive(h))[::-1])
    return _decay(np.log(rank), log_h)


def triangle(sigma: ArrayLike, h: ArrayLike) -> Triangle:
    """Compare s with alpha * gamma (Calvo 2026, the spectral triangle) on one layer.

    The three slopes are taken over the same directions, so a part of the agreement is forced.

    Raises:
        ValueError: the lengths of ``sigma`` and ``h`` differ.
    """
    alpha, gamma, s = fit_alpha(sigma, h), fit_gamma(sigma), fit_s(h)
    predicted = alpha.exponent * gamma.exponent
    error = abs(s.exponent - predicted)
    return Triangle(
        alpha=alpha.exponent,
        gamma=gamma.exponent,
        s=s.exponent,
        predicted_s=predicted,
        error=error,
        relative_error=error / s.exponent if s.exponent != 0 else _NAN,
        alpha_fit=alpha,
        gamma_fit=gamma,
        s_fit=s,
    )


def rank_models(sigma: ArrayLike) -> dict[RankModel, RankFit]:
    """Fit three models of ln sigma against the rank k = 1..n.

    power_law: log_c - gamma ln k;  exponential: log_c - beta k;
    lognormal: log_c + lin ln k + quad (ln k)^2.

    In AIC and BIC, an RSS below the rounding level of ln sigma counts as that level: a spectrum
    that follows a law exactly is then not won by the model with most coefficients.

    Args:
        sigma: singular values, descending, [n]; a dropped value leaves the ranks as they were.
    """
    k, y = _ranked(sigma)
    t = np.log(k)
    power_law = _rank_fit(y, {"log_c": np.ones_like(t), "gamma": -t})
    exponential = _rank_fit(y, {"log_c": np.ones_like(t), "beta": -k})
    lognormal = _rank_fit(y, {"log_c": np.ones_like(t), "lin": t, "quad": t**2})
    return {"power_law": power_law, "exponential": exponential, "lognormal": lognormal}


def best_rank_model(sigma: ArrayLike) -> RankModel | None:
    """Return the model of smallest BIC (the simpler one on a tie); None if none can be fitted."""
    models = rank_models(sigma)
    fitted = [name for name, fit in models.items() if not np.isnan(fit.bic)]
    return min(fitted, key=lambda name: models[name].bic, default=None)


def participation_ratio(v: ArrayLike) -> float:
    """Return (sum v)^2 / sum v^2 of all of ``v``; NaN where v is empty, zero or not finite.

    For curvatures the preprint's PR_h takes the positive ones: pass ``h[h > 0]``.
    """
    values = _vector("v", v)
    scale = float(np.max(np.abs(values), initial=0.0))
    if scale == 0 or not np.isfinite(scale):
        return _NAN
    values = values / scale  # squares of tiny values would underflow
    return float(values.sum() ** 2 / (values**2).sum())


def predicted_effective_rank(s: float, n: int) -> float:
    """Return the participation ratio of k^(-s), k = 1..n (s = alpha * gamma in the preprint).

    Raises:
        ValueError: n < 1.
    """
    if n < 1:
        raise ValueError(f"predicted_effective_rank: n must be at least 1, got {n}")
    log_k = np.log(np.arange(1, n + 1, dtype=np.float64))
    return participation_ratio(np.exp(-s * log_k - np.max(-s * log_k)))


def zeta_bound(s: float) -> float:
    """Return zeta(s)^2 / zeta(2s) for s > 1; infinite (no bound) for s <= 1.

    It is the participation ratio of k^-s over all k, and bounds that of its first n terms. The
    preprint says it of PR_h: true of curvatures that are a power law, and to be seen of others.
    """
    if np.isnan(s):
        return _NAN
    return float(zeta(s) ** 2 / zeta(2 * s)) if s > 1 else float("inf")


def entropy_rank(h: ArrayLike) -> float:
    """Return exp(-sum p ln p), p = h / sum h over the positive h; NaN where there is none."""
    values = _positive(h)
    if values.size == 0:
        return _NAN
    p = values / values.max()
    p /= p.sum()
    p = p[p > 0]  # p ln p is 0 where p underflows
    return float(np.exp(-np.sum(p * np.log(p))))


def quantile_rank(h: ArrayLike, q: float) -> int:
    """Return the smallest m whose m largest positive h hold the share q of their sum.

    q = 0.95 and 0.99 give the 95 % and 99 % ranks; 0 where no h is positive.

    Raises:
        ValueError: q is not in (0, 1].
    """
    if not 0 < q <= 1:
        raise ValueError(f"quantile_rank: q must be in (0, 1], got {q}")
    values = np.sort(_positive(h))[::-1]
    if values.size == 0:
        return 0
    total = np.cumsum(values / values[0])
    return int(np.searchsorted(total, q * total[-1])) + 1


def log_correlation(x: ArrayLike, y: ArrayLike) -> float:
    """Return Pearson's correlation of ln x and ln y over the pairs where both are positive.

    NaN where fewer than two pairs are left or one side is constant.

    Raises:
        ValueError: the lengths differ.
    """
    left, right = (np.log(side) for side in _pair(x, y))
    if left.size < 2 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return _NAN
    return float(np.corrcoef(left, right)[0, 1])


def _vector(name: str, values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {array.shape}")
    return array


def _usable(values: Array) -> Mask:
    """Return where a value has a logarithm."""
    return (values > 0) & np.isfinite(values)


def _positive(h: ArrayLike) -> Array:
    values = _vector("h", h)
    return values[_usable(values)]


def _pair(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    """Return the pairs of which both sides have a logarithm."""
    left, right = _vector("the first argument", x), _vector("the second argument", y)
    if left.size != right.size:
        raise ValueError(f"the two inputs must pair up, got lengths {left.size} and {right.size}")
    keep = _usable(left) & _usable(right)
    return left[keep], right[keep]


def _ranked(values: ArrayLike) -> tuple[Array, Array]:
    """Return the ranks k (from 1) and ln value of those values that have a logarithm."""
    array = _vector("sigma", values)
    keep = _usable(array)
    return np.arange(1, array.size + 1, dtype=np.float64)[keep], np.log(array[keep])


def _line(x: Array, y: Array) -> PowerLawFit:
    """Fit y = log_prefactor + exponent x by ordinary least squares."""
    n = int(x.size)
    if n < 2 or np.ptp(x) == 0:
        return PowerLawFit(_NAN, _NAN, _NAN, _NAN, n)
    dx, dy = x - x.mean(), y - y.mean()
    sxx = float(dx @ dx)
    slope = float(dx @ dy) / sxx
    residual = dy - slope * dx
    rss, tss = float(residual @ residual), float(dy @ dy)
    return PowerLawFit(
        exponent=slope,
        log_prefactor=float(y.mean() - slope * x.mean()),
        r2=1 - rss / tss if np.ptp(y) > 0 else _NAN,
        stderr=float(np.sqrt(rss / (n - 2) / sxx)) if n > 2 else _NAN,
        n_valid=n,
    )


def _decay(log_rank: Array, log_value: Array) -> PowerLawFit:
    """Fit log_value = log_prefactor - exponent log_rank."""
    return _line(-log_rank, log_value)


def _rank_fit(y: Array, columns: dict[str, Array]) -> RankFit:
    """Fit y by least squares on the named columns."""
    n, p = y.size, len(columns)
    if n <= p:
        return RankFit(dict.fromkeys(columns, _NAN), _NAN, _NAN, _NAN)
    design = np.stack(list(columns.values()), axis=1)
    solution = np.linalg.lstsq(design, y, rcond=None)[0]
    residual = y - design @ solution
    rss = float(residual @ residual)
    rounding = n * (16 * _EPS * max(1.0, float(np.max(np.abs(y))))) ** 2
    log_variance = n * float(np.log(max(rss, rounding) / n))
    coefficients = {name: float(value) for name, value in zip(columns, solution, strict=True)}
    return RankFit(coefficients, rss, log_variance + 2 * p, log_variance + p * float(np.log(n)))
