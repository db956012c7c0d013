"""Which runs an optimizer is judged by: those of a report, beside the other's of the same seed."""

from __future__ import annotations

from collections import Counter

import pandas as pd

from analysis.run.seeds import prepared

_ALIKE = ["dataset", "model", "sweep", "seed"]


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
    return [tuple(map(str, row)) for row in runs[_ALIKE].itertuples(index=False)]
