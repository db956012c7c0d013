from __future__ import annotations

import numpy as np
import pytest
from measured_tables import directions

from analysis import fits
from analysis.figure.layers import power_law, rank_profiles

LAYERS = {"conv1": 2.0, "conv2": 1.5, "fc": 1.0}


def test_points_fit_and_left_out_points_are_drawn_apart() -> None:
    table = directions(LAYERS)
    table.loc[[3, 7], "h"] *= -1
    axes = power_law(table).axes[0]
    used, left_out, first, line = axes.lines[:4]
    layer = table[table["layer"] == "conv1"]
    positive = layer[layer["h"] > 0]
    np.testing.assert_array_equal(used.get_ydata(), positive["h"])
    np.testing.assert_array_equal(left_out.get_ydata(), -layer["h"][layer["h"] <= 0])
    np.testing.assert_array_equal(first.get_xdata(), layer["sigma"][:1])
    fit = fits.fit_alpha(layer["sigma"], layer["h"])
    slope = np.diff(np.log(line.get_ydata())) / np.diff(np.log(line.get_xdata()))
    assert slope[0] == pytest.approx(fit.exponent)
    assert axes.get_title() == f"conv1\n{fit.exponent:.2f} ± {fit.stderr:.2f}, R² {fit.r2:.2f}"


def test_an_unreliable_fit_is_marked_and_a_missing_one_said() -> None:
    table = directions(LAYERS)
    table.loc[:12, "h"] = -1.0
    table.loc[20:39, "h"] = -1.0
    titles = [axes.get_title() for axes in power_law(table).axes[:3]]
    assert titles[0].endswith("!") and titles[1] == "conv2\nno fit" and titles[2][-1] != "!"


@pytest.mark.parametrize("winner", ["power_law", "exponential", "lognormal"])
def test_the_winner_is_thick_and_follows_the_spectrum(winner: str) -> None:
    table = directions({"conv1": 2.0, "fc": 1.0})
    k = np.arange(1, 21)
    law = {"power_law": k**-1.0, "exponential": np.exp(-0.2 * k),
           "lognormal": np.exp(-0.3 * np.log(k) ** 2)}[winner]  # fmt: skip
    noisy = law * np.exp(1e-3 * np.cos(np.arange(20)))
    table["sigma"] = np.tile(noisy, 2)
    axes = rank_profiles(table).axes[0]
    thick = max(axes.lines[1:], key=lambda line: line.get_linewidth())
    at = np.interp(k, thick.get_xdata(), thick.get_ydata())
    np.testing.assert_allclose(at, law, rtol=0.02)
    assert axes.get_title().split("\n")[1].replace("-", "").replace(" ", "_") == winner
