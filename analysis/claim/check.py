"""The verdict on a claim, from what was measured; no measurement, no verdict.

An optimizer is judged by the runs of a report, paired with the other optimizer's by seed.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest

from analysis.claim.model import Claim, Quantity, Range, Rule, column
from analysis.run.frame import prepared
from analysis.run.measured import Measured, last_epochs
from analysis.stats import NO_INTERVAL, Interval
from analysis.table.select import records
from analysis.table.timing import SECONDS, comparable, is_timing

Array = NDArray[np.float64]
Verdict = Literal["holds", "fails", "not measured"]
DRAWS = 1000
_PAIRED_BY = ["dataset", "model", "sweep", "seed"]


def reported(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the finished runs of ``runs`` that are none of tuning, nor prepared others.

    What a tuning run reached says how bad some of the settings were that nobody chose.
    """
    return runs[(runs["state"] == "done") & ~prepared(runs)]


def in_pairs(first: pd.DataFrame, second: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the runs that have one of the same dataset, model, sweep and seed on the other side.

    So studies of different length, or seeds that only one side has, move no difference. Nor does
    a map of settings: where a side has several such runs, none of them is what the other is to be
    compared with.
    """
    keys = [_single(side) for side in (first, second)]
    both = keys[0] & keys[1]
    kept = [side.loc[[key in both for key in _keys(side)]] for side in (first, second)]
    return kept[0], kept[1]


def _single(runs: pd.DataFrame) -> set[tuple[str, ...]]:
    return {key for key, count in Counter(_keys(runs)).items() if count == 1}


def _keys(runs: pd.DataFrame) -> list[tuple[str, ...]]:
    return [tuple(map(str, row)) for row in runs[_PAIRED_BY].itertuples(index=False)]


# Along the last axis, without NaN.
_STATISTICS: dict[str, Callable[..., Any]] = {
    "mean": partial(np.nanmean, axis=-1),
    "median": partial(np.nanmedian, axis=-1),
    "sd": partial(np.nanstd, axis=-1, ddof=1),
    "min": partial(np.nanmin, axis=-1),
    "max": partial(np.nanmax, axis=-1),
    "share": partial(np.nanmean, axis=-1),
}


def _statistic(name: str, values: Array) -> Array:
    """Return a statistic of values [..., n], without NaN; NaN for the sd of a single value."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(_STATISTICS[name](values))


@dataclass(frozen=True)
class Estimate:
    """A statistic of ``n`` values (of layers at epochs, or of runs), with its 95 % interval.

    ``reliable``: the same over the layers whose exponents are marked reliable, NaN where the table
    has no such mark; ``unreliable`` counts the others.
    """

    value: float
    interval: Interval
    n: int
    runs: tuple[str, ...]
    data: tuple[str, ...]
    unreliable: int
    reliable: float


@dataclass(frozen=True)
class Missing:
    """Why a quantity has no value: what is missing, and the names and numbers of the case."""

    what: Literal["table", "column", "rows", "values", "number", "pairs", "timing"]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Result:
    """The verdict on one claim. ``decided`` is false where the interval allows the other one.

    Where it is not measured, ``missing`` says why, or the claim itself does.
    """

    claim: Claim
    verdict: Verdict
    estimate: Estimate | None = None
    versus: Estimate | None = None  # both sides of a comparison: ours = first against second
    ours: float = float("nan")
    interval: Interval = NO_INTERVAL
    decided: bool = True
    nulls: dict[str, tuple[float, Interval]] = field(default_factory=dict)
    missing: Missing | None = None


class _NotMeasuredError(Exception):
    def __init__(self, what: Any, **facts: Any) -> None:
        super().__init__(what)
        self.missing = Missing(what, facts)


def check(claim: Claim, measured: Measured, *, other_data: bool = False) -> Result:
    """Judge ``claim``.

    It holds where the estimate lies in the accepted values of its rule, fails where it does not,
    and is not measured where columns, layers or runs are missing, or fewer than it asks for.

    Args:
        claim: what to judge.
        measured: what there is.
        other_data: whether to test it on all datasets that are there, not on the stated one.
    """
    quantity = claim.quantity
    if quantity is None or claim.rule is None:
        return Result(claim, "not measured")
    try:
        if quantity.versus is None:
            first, _ = _estimate(quantity, quantity.where, quantity.when, measured, other_data)
            ours, interval, second = first.value, first.interval, None
        else:
            first, second, ours, interval = _compared(quantity, measured, other_data)
        if not np.isfinite(ours):
            raise _NotMeasuredError("number", statistic=quantity.statistic, n=first.n)
        nulls = {name: _null(quantity, name, measured, other_data) for name in claim.nulls}
    except _NotMeasuredError as error:
        return Result(claim, "not measured", missing=error.missing)
    low, high = claim.rule.ends
    verdict: Verdict = "holds" if low <= ours <= high else "fails"
    decided = _decided(claim.rule, interval)
    return Result(claim, verdict, first, second, ours, interval, decided, nulls)


def _compared(
    quantity: Quantity, measured: Measured, other_data: bool
) -> tuple[Estimate, Estimate, float, Interval]:
    """Return both sides of a comparison, how they are related, and the interval of that."""
    assert quantity.versus is not None
    where = {**quantity.where, **quantity.versus}
    when = str(where.pop("when", quantity.when))
    other_data = other_data and "dataset" not in quantity.versus  # else both sides are the same
    seed = 1
    if set(quantity.versus) == {"when"} and quantity.table != "runs":
        table: pd.DataFrame = getattr(measured, quantity.table)
        both = [set(_at(table, time, quantity.table)["run"]) for time in (quantity.when, when)]
        kept = table[table["run"].isin(both[0] & both[1])]
        measured = replace(measured, **{quantity.table: kept})
        seed = 0  # the same runs on both sides are drawn together
    elif "optimizer" in quantity.versus:
        measured = _paired(quantity, where, measured, other_data)
    first, draws = _estimate(quantity, quantity.where, quantity.when, measured, other_data)
    second, others = _estimate(quantity, where, when, measured, other_data, seed=seed)
    ours = float(_related(quantity, first.value, second.value))
    return first, second, ours, _percentiles(_related(quantity, draws, others))


def _paired(
    quantity: Quantity, where: dict[str, Any], measured: Measured, other_data: bool
) -> Measured:
    """Return ``measured`` with the runs of two optimizers alone that stand beside each other."""
    sides = [
        select(quantity, wanted, quantity.when, measured, other_data)
        for wanted in (quantity.where, where)
    ]
    if any(side.empty for side in sides):
        return measured  # whoever takes the estimates says which side it is
    kept, apart = _pairs(sides), frozenset[str]()
    if is_timing(quantity.column):
        used = measured.runs[measured.runs["id"].isin(kept)]
        apart = comparable(records(used, SECONDS)).apart
        kept = _pairs([side[side["run"].isin(kept - apart)] for side in sides])
    if not kept:
        raise _NotMeasuredError("pairs", apart=bool(apart))
    runs = measured.runs[measured.runs["id"].isin(kept)]
    if is_timing(quantity.column) and (why := comparable(records(runs, SECONDS)).mixed):
        raise _NotMeasuredError("timing", column=quantity.column, why=why)
    return replace(measured, runs=runs)


def _pairs(sides: Sequence[pd.DataFrame]) -> set[str]:
    """Return the ids of the runs that have one beside them on the other side."""
    return {run for side in in_pairs(*sides) for run in side["run"]}


def select(
    quantity: Quantity, where: dict[str, Any], when: str, measured: Measured, other_data: bool
) -> pd.DataFrame:
    """Return the rows that a quantity is taken over, those of unknown origin left out.

    Raises:
        _NotMeasuredError: a condition on a column that is not there.
    """
    if quantity.table == "runs":
        table = reported(measured.runs).rename(columns={"id": "run"})
    else:
        table = _at(getattr(measured, quantity.table), when, quantity.table)
    for name, wanted in where.items():
        if other_data and name == "dataset":
            continue
        if name not in table.columns:
            raise _NotMeasuredError("column", column=name)
        options = wanted if isinstance(wanted, list) else [wanted]
        fits = [any(_fits(value, option) for option in options) for value in table[name]]
        table = table.loc[fits]
    return table


def _at(table: pd.DataFrame, when: str, name: str) -> pd.DataFrame:
    if table.empty:
        raise _NotMeasuredError("table", table=name)
    if when == "start":
        return table[table["epoch"] == 0]
    if when == "any":
        return table
    last = last_epochs(table)
    return last[last["epoch"] > 0] if when == "trained" else last


def _fits(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, str):
        return isinstance(value, str) and fnmatchcase(value, wanted)
    if isinstance(wanted, Range):
        return value in wanted
    return bool(pd.notna(value)) and bool(value == wanted)


def _estimate(
    quantity: Quantity,
    where: dict[str, Any],
    when: str,
    measured: Measured,
    other_data: bool,
    *,
    seed: int = 0,
) -> tuple[Estimate, Array]:
    """Return the estimate, and its values on resampled runs and layers [draws]."""
    rows = select(quantity, where, when, measured, other_data)
    asked = {name: v for name, v in where.items() if not other_data or name != "dataset"}
    if rows.empty:
        raise _NotMeasuredError("rows", table=quantity.table, where=asked, when=when)
    try:
        values = column(rows, quantity.column).dropna()
    except KeyError as error:
        raise _NotMeasuredError("column", column=error.args[0]) from None
    if len(values) < quantity.at_least:
        raise _NotMeasuredError(
            "values", n=len(values), column=quantity.column, table=quantity.table, where=asked,
            needed=quantity.at_least,
        )  # fmt: skip
    used, given = rows.loc[values.index], np.asarray(values, dtype=np.float64)
    groups = [
        np.asarray(group, dtype=np.float64) for _, group in values.groupby(used["run"], sort=True)
    ]
    draws = _resampled(groups, quantity.statistic, seed)
    interval = _interval(quantity.statistic, given, draws)
    good = _reliable(used)
    kept = given[good]
    estimate = Estimate(
        value=float(_statistic(quantity.statistic, given)),
        interval=interval,
        n=len(values),
        runs=tuple(sorted(set(used["run"]))),
        data=tuple(sorted({f"{m or '?'}/{d or '?'}" for m, d in
                           zip(used["model"], used["dataset"], strict=True)})),
        unreliable=int((~good).sum()),
        reliable=float(_statistic(quantity.statistic, kept)) if len(kept) else float("nan"),
    )  # fmt: skip
    return estimate, draws


def _reliable(rows: pd.DataFrame) -> NDArray[np.bool_]:
    if "reliable" not in rows.columns:
        return np.ones(len(rows), dtype=bool)
    return rows["reliable"].to_numpy(dtype=bool)


def _resampled(groups: list[Array], statistic: str, seed: int) -> Array:
    """Return the statistic of runs drawn with replacement, and of layers drawn within each."""
    rng, runs = np.random.default_rng(seed), len(groups)
    sizes = np.array([len(group) for group in groups])
    padded = np.zeros((runs, sizes.max()))
    for row, group in zip(padded, groups, strict=True):
        row[: len(group)] = group
    drawn = rng.integers(runs, size=(DRAWS, runs))
    size = sizes[drawn][..., None]
    picks = (rng.random((DRAWS, runs, sizes.max())) * size).astype(np.int64)
    values = padded[drawn[..., None], picks]
    values[np.arange(sizes.max()) >= size] = np.nan  # beyond what the drawn run has
    return _statistic(statistic, values.reshape(DRAWS, -1))


def _interval(statistic: str, values: Array, draws: Array) -> Interval:
    if statistic in ("min", "max") or len(values) < 2:  # the bootstrap knows nothing of extremes
        return NO_INTERVAL
    if statistic == "share" and set(values) <= {0.0, 1.0}:  # also where all say the same
        exact = binomtest(int(values.sum()), len(values)).proportion_ci(0.95)
        return Interval(float(exact.low), float(exact.high))
    return _percentiles(draws)


def _percentiles(draws: Array) -> Interval:
    usable = draws[np.isfinite(draws)]
    if len(usable) < DRAWS / 2 or np.ptp(usable) == 0:
        return NO_INTERVAL
    low, high = np.quantile(usable, [0.025, 0.975])
    return Interval(float(low), float(high))


def _related(quantity: Quantity, left: Any, right: Any) -> Any:
    if quantity.relation == "difference":
        return np.subtract(left, right)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(left, right)


def _decided(rule: Rule, interval: Interval) -> bool:
    """Return whether the whole interval lies inside the accepted values, or outside on one side."""
    low, high = rule.ends
    if np.isnan(interval.low):
        return True
    inside = low <= interval.low and interval.high <= high
    return inside or interval.high < low or interval.low > high


def _null(
    quantity: Quantity, name: str, measured: Measured, other_data: bool
) -> tuple[float, Interval]:
    """Return the same statistic of a null model's column."""
    of_null = quantity.model_copy(update={"column": name, "at_least": 1})
    try:
        estimate, _ = _estimate(of_null, quantity.where, quantity.when, measured, other_data)
    except _NotMeasuredError:
        return float("nan"), NO_INTERVAL
    return estimate.value, estimate.interval
