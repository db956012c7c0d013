"""Which runs a report is of: their seeds tell."""

from __future__ import annotations

import pandas as pd

from bench.tuned import FIRST_TUNING_SEED


def prepared(runs: pd.DataFrame) -> pd.Series[bool]:
    """Return which of ``runs`` tuned, or prepared others (measured their exponents)."""
    return (runs["seed"] >= FIRST_TUNING_SEED).fillna(False).astype(bool)
