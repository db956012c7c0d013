from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hessian_tables import ROLES, blocks, landscape, write
from measured_tables import directions, write_run

from analysis.figure import curvature as block_plots
from analysis.figure import curvature as landscape_plots
from analysis.figure.curvature import draw
from analysis.figures import main
from analysis.measure.files import write_table
from analysis.run.measured import Measured, load
from bench.errors import UserError

LAYERS = {"conv1": 2.0, "conv2": 1.5, "fc": 1.0}


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _kronecker(folder: Path) -> None:
    rows = {"layer": list(LAYERS), "errors": "class", "step": 50, "epoch": 5.0}
    write_table(
        pd.DataFrame(rows | {"chi_slope": [0.1, 0.2, 0.9]}),
        folder / "kronecker_layers.parquet", {},
    )  # fmt: skip


@pytest.mark.slow
def test_every_figure_comes_as_png_and_pdf_the_same_bytes_each_time(tmp_path: Path) -> None:
    tables = [directions(LAYERS, epoch=epoch) for epoch in (0.0, 5.0)]
    _kronecker(write_run(tmp_path / "runs", "r0", tables))
    windows, points = landscape({0.0: 0.2, 1.0: 0.4})
    both = pd.concat([blocks({}, epoch=0.0), blocks({})], ignore_index=True)
    folder = tmp_path / "runs" / "r0"
    write(folder, hessian_blocks=both, landscape=windows, landscape_fits=points)
    write_run(tmp_path / "runs", "r1", tables, seed=1)  # a second seed: no panels of its own
    lines = list(draw([str(tmp_path / "runs")], tmp_path / "a"))
    names = {
        "alpha_depth", "triangle", "winners", "alpha_training", "kronecker",
        "power_law-r0", "rank_profiles-r0", "block_norms", "block_map-r0", "landscape-r0",
    }  # fmt: skip
    assert set(_files(tmp_path / "a")) == {
        f"{name}.{form}" for name in names for form in ("png", "pdf")
    }
    assert len(lines) == len(names) and not any("skipped" in line for line in lines)
    list(draw([str(tmp_path / "runs")], tmp_path / "b"))
    assert _files(tmp_path / "a") == _files(tmp_path / "b")


def test_what_is_not_there_is_skipped_with_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path, "r0", [directions(LAYERS)])
    main(["kind=curvature", f"source={folder / 'exponents.parquet'}", f"out={tmp_path / 'out'}"])
    said = capsys.readouterr().out
    assert "kronecker: skipped, no column of Kronecker quality" in said
    assert "alpha_training: skipped, no run was measured at several epochs" in said
    assert "power_law, rank_profiles: skipped, no curvature.parquet" in said
    assert "block_map: skipped, no hessian_blocks.parquet" in said
    assert "landscape: skipped, no landscape.parquet and landscape_fits.parquet" in said
    assert (tmp_path / "out" / "triangle.pdf").stat().st_size > 1000


@pytest.mark.slow
def test_a_reader_that_leaves_is_no_error_and_every_figure_is_there(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "r0", [directions(LAYERS)])
    words = ["kind=curvature", f"source={tmp_path / 'runs'}", f"out={tmp_path / 'out'}"]
    command = [sys.executable, "-m", "analysis.figures", *words]
    reader, writer = os.pipe()
    os.close(reader)  # gone before the first line
    with os.fdopen(writer, "wb") as stdout:
        done = subprocess.run(
            command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.stderr == "" and done.returncode in (0, 141)  # 128 + SIGPIPE
    assert (tmp_path / "out" / "rank_profiles-r0.pdf").is_file()


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    for arguments, told in [
        ([f"source={tmp_path}"], "nothing is measured"),
        (["source=nowhere"], "nowhere: no such file or folder"),
        ([f"source={tmp_path}", "out=a.pdf"], "name a folder"),
    ]:
        with pytest.raises(UserError, match=told):
            main(["kind=curvature", *arguments])


@pytest.fixture
def measured(tmp_path: Path) -> Measured:
    for seed in range(2):
        folder = write_run(tmp_path, f"r{seed}", [], model="vit_micro", seed=seed)
        both = [blocks({"query": 1e-3}, epoch=0.0, seed=seed), blocks({}, seed=seed)]
        windows, points = landscape({0.0: 0.2, 0.5: 0.4, 1.0: 0.6}, seed=seed)
        table = pd.concat(both, ignore_index=True)
        write(folder, hessian_blocks=table, landscape=windows, landscape_fits=points)
    return load([str(tmp_path)])


def test_norms_show_every_run_untrained_hollow_and_trained_filled(measured: Measured) -> None:
    (axes,) = block_plots.block_norms(measured).axes
    assert axes.get_title() == "vit_micro/cifar10\n(2 runs, exact)"
    assert [label.get_text() for label in axes.get_xticklabels()] == list(ROLES)
    points = {str(line.get_label()): line for line in axes.lines if line.get_marker() == "o"}
    assert set(points) == {"start", "trained"}
    assert points["start"].get_markerfacecolor() == "white"
    own = measured.blocks[measured.blocks["row"] == measured.blocks["col"]]
    drawn = np.asarray(points["trained"].get_ydata())
    assert drawn == pytest.approx(own.loc[own["epoch"] > 0, "frobenius_per_entry"].to_numpy())


def test_error_bars_of_estimates_are_their_intervals(measured: Measured) -> None:
    wide = measured.blocks["frobenius"]
    blocks_ = measured.blocks.assign(frobenius_low=wide / 2, frobenius_high=wide * 3)
    figure = block_plots.block_norms(Measured(*_rest(measured), blocks_))
    (bars, *_) = [c for c in figure.axes[0].containers if hasattr(c, "has_yerr")]
    segments = bars[2][0].get_segments()
    first = blocks_[(blocks_["row"] == blocks_["col"]) & (blocks_["epoch"] == 0)].iloc[0]
    value = first["frobenius_per_entry"]
    assert segments[0][:, 1] == pytest.approx([value / 2, value * 3])


def test_the_map_is_symmetric_and_has_the_tables_values(measured: Measured) -> None:
    one = measured.blocks[measured.blocks["run"] == "r0"]
    figure = block_plots.block_map(one)
    start, trained = figure.axes[:2]
    assert start.get_title().startswith("start") and trained.get_title().startswith("trained")
    image = np.asarray(start.images[0].get_array())
    assert image == pytest.approx(image.T)
    place = list(ROLES).index("query")
    row = one[(one["row"] == "query") & (one["col"] == "value") & (one["epoch"] == 0)].iloc[0]
    value = np.log10(row["frobenius_per_entry"])
    assert image[place, list(ROLES).index("value")] == pytest.approx(value)
    texts = [text.get_text() for text in start.texts]
    assert len(texts) == len(ROLES) ** 2 and f"{value:.1f}" in texts


def test_a_landscape_shows_both_ends_their_nulls_and_the_constant(measured: Measured) -> None:
    windows = measured.windows[measured.windows["run"] == "r0"]
    points = measured.points[measured.points["run"] == "r0"]
    left, right = landscape_plots.landscape(windows, points).axes
    labels = [str(line.get_label()) for line in left.lines]
    exponent = points["exponent"].iloc[0]
    assert labels[0].startswith(f"trained: exponent {-exponent:.2f} ") and "start" in labels[1]
    first = windows[windows["place"] == 0]
    assert np.asarray(left.lines[0].get_ydata()) == pytest.approx(first["change"].to_numpy())
    assert len(left.collections) == 2
    forced = np.asarray(left.lines[2].get_ydata())
    assert forced == pytest.approx(points["constant"].iloc[0] / (first["k"].to_numpy() + 1))
    assert np.asarray(right.lines[0].get_ydata()) == pytest.approx(points["constant"].to_numpy())


def test_nothing_measured_is_said(measured: Measured) -> None:
    empty = Measured(*_rest(measured), pd.DataFrame())
    with pytest.raises(ValueError, match=r"spectral-bench hessian-blocks measures them"):
        block_plots.block_norms(empty)


def _rest(measured: Measured) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    return measured.layers, measured.directions, measured.runs
