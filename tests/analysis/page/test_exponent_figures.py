from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from analysis.page.exponent_figures import along_training


def layers(epochs: list[float], *, model: str = "m", runs: int = 2) -> pd.DataFrame:
    """Two layers a run and epoch, whose exponents rise with the epoch; the error is twice noise."""
    rows = [
        {"run": f"{model}{run}", "model": model, "dataset": "d", "optimizer": "o", "epoch": epoch,
         "alpha": 1 + epoch + 0.1 * run + 0.01 * layer, "gamma": 1.0, "s": np.nan,
         "reliable": True, "triangle_relative_error": 0.04, "null_noise_error": 0.02}
        for epoch in epochs for run in range(runs) for layer in range(2)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_line_a_network_and_its_null_dashed() -> None:
    both = pd.concat([layers([0, 1, 5]), layers([0, 1, 5], model="n")])
    found = {name: svg for name, _, svg in along_training(both)}
    assert list(found) == ["alpha", "gamma", "identity"]  # s is nowhere known
    assert found["alpha"].count('class="line c') == 4  # two lines and their keys
    assert found["identity"].count(" dashed") == 4
    (path,) = re.findall(r'class="line c0" d="M([^"]*)"><title>', found["alpha"])
    points = [tuple(map(float, point.split())) for point in path.split("L")]
    assert len(points) == 3
    assert [y for _, y in points] == sorted((y for _, y in points), reverse=True)
    for svg in found.values():
        ElementTree.fromstring(svg)
        assert "nan" not in svg


def test_two_epochs_are_told_by_the_table() -> None:
    assert list(along_training(layers([0, 8]))) == []
    both = pd.concat([layers([0, 8]), layers([0, 1, 5], model="n")])
    assert all("m / d / o" not in svg for _, _, svg in along_training(both))


def test_a_network_known_at_one_epoch_is_not_in_the_legend() -> None:
    early = layers([0, 1, 5], model="n")
    early.loc[early["epoch"] > 0, "alpha"] = np.nan
    found = {n: svg for n, _, svg in along_training(pd.concat([layers([0, 1, 5]), early]))}
    assert "m / d / o" in found["alpha"] and "n / d / o" not in found["alpha"]
    assert "n / d / o" in found["gamma"]


def test_networks_beyond_the_colours_are_counted_in_the_title() -> None:
    nine = pd.concat([layers([0, 1, 5], model=f"m{k}") for k in range(9)])
    titles = [title for _, title, _ in along_training(nine)]
    assert titles and all(title.endswith("; the first 8 of 9 networks") for title in titles)
    assert not any("first" in title for _, title, _ in along_training(layers([0, 1, 5])))
