"""What is drawn is what was measured: the numbers are read back from the figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from measured_tables import directions, write_run

from analysis import fits
from analysis.figure import exponents
from analysis.figure.exponents import power_law, rank_profiles
from analysis.measure import exponents as nulls
from analysis.run.measured import Measured, load

LAYERS = {"conv1": 2.0, "conv2": 1.5, "fc": 1.0}


@pytest.fixture
def measured(tmp_path: Path) -> Measured:
    write_run(tmp_path, "r0", [directions(LAYERS, epoch=epoch) for epoch in (0.0, 5.0)])
    return load([str(tmp_path)])


def _scattered(axes: object) -> np.ndarray:
    offsets = [c.get_offsets() for c in axes.collections if hasattr(c, "get_sizes")]  # type: ignore[attr-defined]
    found = np.concatenate([np.asarray(points) for points in offsets if len(points)])
    return found[np.argsort(found[:, 0])]


def test_alpha_is_drawn_against_depth_at_the_last_epoch(measured: Measured) -> None:
    figure = exponents.alpha_depth(measured)
    last = measured.layers[measured.layers["epoch"] == 5]
    np.testing.assert_allclose(_scattered(figure.axes[0]), last[["depth", "alpha"]])


def test_unreliable_layers_are_hollow(measured: Measured) -> None:
    layers = measured.layers.assign(reliable=measured.layers["layer"] != "fc")
    axes = exponents.alpha_depth(Measured(layers, *_rest(measured))).axes[0]
    hollow = [c for c in axes.collections if hasattr(c, "get_sizes") and len(c.get_offsets()) == 1]
    assert [tuple(c.get_facecolor()[0]) for c in hollow] == [(1, 1, 1, 1)]
    np.testing.assert_allclose(hollow[0].get_offsets()[0][0], 1)


def test_the_triangle_stands_beside_its_nulls(measured: Measured) -> None:
    axes = exponents.triangle(measured).axes[0]
    last = measured.layers[measured.layers["epoch"] == 5].sort_values("predicted_s")
    np.testing.assert_allclose(_scattered(axes), last[["predicted_s", "s"]])
    bars = next(c for c in axes.collections if hasattr(c, "get_segments"))
    fc = measured.directions.query("layer == 'fc' and epoch == 5")
    error = np.quantile(nulls.noise_errors(fc["sigma"], fc["h"]), 0.95)
    p = last.set_index("layer")["predicted_s"]["fc"]
    wanted = [[p, p / (1 + error)], [p, p / (1 - error)]]
    assert any(np.allclose(segment, wanted) for segment in bars.get_segments())
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert any("another layer's h" in label for label in labels)


def test_the_map_is_the_mean_over_seeds_by_layer_and_epoch(tmp_path: Path) -> None:
    for seed, optimizer in ((0, "adamw"), (1, "adamw"), (0, "muon")):
        tables = [directions(LAYERS, epoch=epoch, seed=seed + 3) for epoch in (0.0, 2.0, 5.0)]
        name = f"{optimizer}{seed}"
        write_run(tmp_path, name, tables, optimizer=optimizer, seed=seed)
    measured = load([str(tmp_path)])
    layers = measured.layers.assign(
        reliable=(measured.layers["layer"] != "fc") | (measured.layers["run"] != "adamw1")
    )
    figure = exponents.exponent_map(replace(measured, layers=layers), "alpha")
    adamw, muon, bar = figure.axes
    assert [axes.get_title().split("\n")[1] for axes in (adamw, muon)] == ["(2 seeds)", "(1 seed)"]
    assert bar.get_ylabel() == "alpha"
    for axes, optimizer in ((adamw, "adamw"), (muon, "muon")):
        (image,) = axes.get_images()
        drawn = np.asarray(image.get_array())
        own = layers[layers["optimizer"] == optimizer]
        for row, layer in enumerate(LAYERS):
            for at, epoch in enumerate((0.0, 2.0, 5.0)):
                cell = own[(own["layer"] == layer) & (own["epoch"] == epoch)]
                assert drawn[row, at] == pytest.approx(cell["alpha"].mean())
        # White is alpha = 2, whatever was measured.
        assert (image.norm.vmin + image.norm.vmax) / 2 == pytest.approx(2.0)
        # A dot where a fit of some seed is not reliable: the last layer, at each epoch.
        (dots,) = axes.lines
        expected = [(at, 2) for at in range(3)] if optimizer == "adamw" else []
        assert list(zip(*dots.get_data(), strict=True)) == expected


def test_winners_are_shares_of_layers_by_epoch(measured: Measured) -> None:
    won = ["power_law", "lognormal", "lognormal"] + ["exponential"] * 3
    axes = exponents.winners(
        Measured(measured.layers.assign(rank_model=won), *_rest(measured))
    ).axes[0]
    drawn = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert drawn["power law"] == pytest.approx([100 / 3, 0])
    assert drawn["log-normal"] == pytest.approx([200 / 3, 0])
    assert drawn["exponential"] == pytest.approx([0, 100])


def test_alpha_over_training_is_a_line_a_layer_and_their_median(measured: Measured) -> None:
    axes = exponents.alpha_training(measured).axes[0]
    lines = [line for line in axes.lines if len(line.get_xdata()) == 2][1:]  # after the 2-line
    by_layer = measured.layers.pivot(index="layer", columns="epoch", values="alpha")
    np.testing.assert_allclose([line.get_ydata() for line in lines[:3]], by_layer.to_numpy())
    np.testing.assert_allclose(lines[3].get_ydata(), by_layer.median())


def test_kronecker_quality_needs_its_columns(measured: Measured) -> None:
    with pytest.raises(ValueError, match="no column of Kronecker quality"):
        exponents.kronecker(measured)
    layers = measured.layers.assign(chi_slope=np.arange(6.0))
    axes = exponents.kronecker(Measured(layers, *_rest(measured))).axes[0]
    distance = (measured.layers["alpha"][3:] - 2).abs()
    np.testing.assert_allclose(_scattered(axes), np.stack([[3, 4, 5], distance], axis=1))


def _rest(measured: Measured) -> tuple[object, object]:
    return measured.directions, measured.runs  # type: ignore[return-value]


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
