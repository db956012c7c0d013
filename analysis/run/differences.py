"""What two sources of the same runs disagree about: the run folder and W&B, for example."""

from __future__ import annotations

import pandas as pd


def differences(
    first: pd.DataFrame, second: pd.DataFrame, *, names: tuple[str, str], metric: str
) -> list[str]:
    """Return one line for each run that only one source has, or that they tell differently.

    Args:
        first: a frame of runs.
        second: another.
        names: what to call the two.
        metric: a summary column to compare, beside the state.
    """
    lines = []
    for ours, theirs, name in ((first, second, names[0]), (second, first, names[1])):
        known = set(theirs["id"])
        lines += [
            f"only in {name}: {run_id} ({state})"
            for run_id, state in zip(ours["id"], ours["state"], strict=True)
            if run_id not in known
        ]
    both = _told(first, metric).merge(_told(second, metric), on="id", how="inner")
    for run_id, *told in both.itertuples(index=False):
        for what, one, other in (("state", told[0], told[2]), (metric, told[1], told[3])):
            if one != other and not (pd.isna(one) and pd.isna(other)):
                lines.append(f"{run_id}: {what} {one} in {names[0]}, {other} in {names[1]}")
    return lines


def _told(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    value = runs[metric] if metric in runs else pd.Series(float("nan"), index=runs.index)
    return pd.DataFrame({"id": runs["id"], "state": runs["state"], "value": value})
