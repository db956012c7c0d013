from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hessian_tables import blocks, landscape, write
from measured_tables import directions, write_run

from analysis.figure.curvature import draw
from analysis.figures import main
from analysis.measure.storage import write_table
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
    assert done.stderr == "" and done.returncode == 0
    assert (tmp_path / "out" / "rank_profiles-r0.pdf").is_file()


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    for arguments, told in [
        ([f"source={tmp_path}"], "nothing is measured"),
        (["source=nowhere"], "nowhere: no such file or folder"),
        ([f"source={tmp_path}", "out=a.pdf"], "name a folder"),
    ]:
        with pytest.raises(UserError, match=told):
            main(["kind=curvature", *arguments])
