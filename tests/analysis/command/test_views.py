"""The printed table: every number whole, whatever the terminal; a legend for every column."""

import numpy as np
import pandas as pd
import pytest

from analysis.command.views import EXPONENT_LEGEND, render_exponents
from analysis.measure.exponents import exponents_table
from bench import options as cli
from bench.table_writer import drawn

RANK = np.arange(1, 21, dtype=np.float64)


def directions(name: str, kind: str, sigma: np.ndarray, h: np.ndarray) -> pd.DataFrame:
    place = {"layer": name, "layer_type": kind, "rows": 64, "cols": 576, "step": 1, "epoch": 1.0}
    return pd.DataFrame(place | {"k": range(1, len(sigma) + 1), "sigma": sigma, "h": h})


@pytest.mark.parametrize("columns", ["40", "80", "300"])
def test_no_terminal_cuts_a_number(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    good = directions("layer4.0.downsample.0", "conv", 3 * RANK**-1.5, RANK**-3.0)
    flat = directions("head", "head", np.zeros(5), np.ones(5))
    cli.show(drawn(render_exponents(exponents_table(pd.concat([good, flat], ignore_index=True)))))
    header, first, second = capsys.readouterr().out.splitlines()
    expected = ["layer", "type", "shape", "alpha", "+-", "se", "R2", "w/o", "1", "gamma", "s"]
    assert header.split() == [*expected, "a*g", "error", "n"]
    assert first.split() == [
        *("layer4.0.downsample.0", "conv", "64x576", "2.00", "+-", "0.00", "1.00", "2.00"),
        *("1.50", "3.00", "3.00", "0.0%", "20/20"),
    ]
    assert second.split() == ["head", "head", "64x576", "-", "+-", *["-"] * 7, "0/5", "!"]
    for word in ("w/o 1", "a*g", "error", "n:", "!: unreliable (n < 8 or R2 < 0.8)"):
        assert word in EXPONENT_LEGEND
