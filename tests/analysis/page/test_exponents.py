from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.page.exponents import along_training, figures_along_training


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


def two_layers(epochs: list[float], *, model: str = "m", runs: int = 2) -> pd.DataFrame:
    """Two layers a run and epoch, whose exponents rise with the epoch; the error is twice noise."""
    rows = [
        {"run": f"{model}{run}", "model": model, "dataset": "d", "optimizer": "o", "epoch": epoch,
         "alpha": 1 + epoch + 0.1 * run + 0.01 * layer, "gamma": 1.0, "s": np.nan,
         "reliable": True, "triangle_relative_error": 0.04, "null_noise_error": 0.02}
        for epoch in epochs for run in range(runs) for layer in range(2)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_line_a_network_and_its_null_dashed() -> None:
    both = pd.concat([two_layers([0, 1, 5]), two_layers([0, 1, 5], model="n")])
    found = {name: figure.axes[0] for name, _, figure in figures_along_training(both)}
    assert list(found) == ["alpha", "gamma", "identity"]  # s is nowhere known
    first, second = found["alpha"].lines
    assert [first.get_label(), second.get_label()] == ["m / d / o", "n / d / o"]
    assert list(first.get_xdata()) == [0, 1, 5]
    assert first.get_ydata() == pytest.approx([1.055, 2.055, 6.055])  # over layers, then runs
    pairs = [(one.get_color(), one.is_dashed()) for one in found["identity"].lines]
    assert [dashed for _, dashed in pairs] == [False, True] * 2
    assert pairs[0][0] == pairs[1][0] != pairs[2][0]
    assert found["identity"].lines[0].get_ydata() == pytest.approx([4, 4, 4])


def test_two_epochs_are_told_by_the_table() -> None:
    assert list(figures_along_training(two_layers([0, 8]))) == []
    both = pd.concat([two_layers([0, 8]), two_layers([0, 1, 5], model="n")])
    for _, _, figure in figures_along_training(both):
        assert all("n / d / o" in str(one.get_label()) for one in figure.axes[0].lines)


def test_a_network_known_at_one_epoch_is_not_in_the_legend() -> None:
    early = two_layers([0, 1, 5], model="n")
    early.loc[early["epoch"] > 0, "alpha"] = np.nan
    both = pd.concat([two_layers([0, 1, 5]), early])
    found = {name: [one.get_label() for one in figure.axes[0].lines]
             for name, _, figure in figures_along_training(both)}  # fmt: skip
    assert found["alpha"] == ["m / d / o"]
    assert found["gamma"] == ["m / d / o", "n / d / o"]


def test_networks_beyond_the_colours_are_counted_in_the_title() -> None:
    nine = pd.concat([two_layers([0, 1, 5], model=f"m{k}") for k in range(9)])
    titles = [title for _, title, _ in figures_along_training(nine)]
    assert titles and all(title.endswith("; the first 8 of 9 networks") for title in titles)
    assert not any(
        "first" in title for _, title, _ in figures_along_training(two_layers([0, 1, 5]))
    )
