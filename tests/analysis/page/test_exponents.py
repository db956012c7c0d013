from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from analysis.page.exponents import along_training


def layers(run: str, epoch: float, alphas: list[float], error: float) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "run": run, "model": "m", "dataset": "d", "optimizer": "o", "epoch": epoch,
            "alpha": alphas, "gamma": 1.0, "s": np.nan, "reliable": np.arange(len(alphas)) == 0,
            "triangle_relative_error": error, "null_noise_error": 0.5,
        }
    )  # fmt: skip


def test_means_over_layers_then_runs_and_medians_of_errors() -> None:
    table = along_training(
        pd.concat(
            [
                layers("b", 2.0, [1.0, 2.0, 3.0], 0.01),
                layers("a", 2.0, [3.0], 0.03),
                layers("a", 0.0, [np.nan, 1.0], np.nan),
            ]
        )
    )
    _, _, start, end = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
    ]
    assert start == ["m", "d", "o", "0", "1", "2 (1)", "1.00", "1.00", "–", "–", "50 %", "–", "–"]
    low, high = stats.t.interval(0.95, 1, 2.5, stats.sem([2.0, 3.0]))
    assert end[3:7] == ["2", "2", "4 (2)", f"2.50 [{low:.2f}, {high:.2f}]"]
    assert end[7] == "1.00 [1.00, 1.00]"
    assert end[9:11] == ["1 %", "50 %"]
