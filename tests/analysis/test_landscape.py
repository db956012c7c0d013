"""The command on a real run, and the tables that it writes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from trained_run import train

from analysis.landscape import main, tables
from analysis.measure import landscape
from analysis.measure.landscape import Line, Point
from bench.errors import UserError


def test_tables_hold_each_points_fit_and_null() -> None:
    rng = np.random.default_rng(0)
    points = [Point(0.0, 0.0, rng.random(300)), Point(1.0, 2.0, 4 * rng.random(300))]
    windows, fits = tables(Line(points, 2.0, 0.5), 30, 3.0)
    for point, row in zip(points, fits.to_dict("records"), strict=True):
        changes = landscape.differences(point.losses)
        fit = landscape.decay(changes)
        assert (row["exponent"], row["constant"]) == (fit.exponent, fit.constant)
        assert row["null_exponent_low"] < row["null_exponent"] < row["null_exponent_high"]
        assert row["loss"] == pytest.approx(point.losses.mean())
        assert row["loss_sd"] == pytest.approx(np.std(point.losses, ddof=1))
        own = windows[windows["place"] == point.place]
        assert own["change"].to_numpy() == pytest.approx(landscape.averaged(changes)[2])
        assert (own["null_low"] <= own["null"]).all() and (own["null"] <= own["null_high"]).all()
        assert own["k_from"].iloc[0] == 10 and own["k_to"].iloc[-1] == 299
        assert (own["k_from"].to_numpy()[1:] == own["k_to"].to_numpy()[:-1] + 1).all()
    base = points[0].losses.mean()
    assert fits["quadratic"].tolist() == pytest.approx([base, base + 0.5 * 0.5 * 4])
    assert set(fits["step"]) == set(windows["step"]) == {30}


@pytest.mark.slow
def test_command_writes_prints_does_not_repeat_and_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["model=mlp", "model.hidden=[6]", "trainer.epochs=1", "trainer.accounting=false"]
    run = train(tmp_path, *words)
    main([f"run={run}", "batch=300"])
    out = capsys.readouterr().out
    assert "on 300 training samples at 9 points" in out and "exponent" in out
    fits = pd.read_parquet(run / "landscape_fits.parquet")
    assert fits["place"].tolist() == pytest.approx(np.linspace(0, 1, 9))
    assert fits["loss"].iloc[-1] == pytest.approx(np.log(10), rel=0.25)  # the initial weights
    assert fits["loss"].iloc[0] < fits["loss"].iloc[-1]
    assert (fits["samples"] == 300).all() and fits["epoch"].eq(1.0).all()
    main([f"run={run}", "batch=300"])
    assert "already measured with these options" in capsys.readouterr().out
    with pytest.raises(UserError, match="needs 41 samples at least, got 30"):
        main([f"run={run}", "batch=30"])
    with pytest.raises(UserError, match="no such folder"):
        main(["run=absent"])
