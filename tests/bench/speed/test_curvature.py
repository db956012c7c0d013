"""The timing command on a small network: its numbers agree, its estimates are linear."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from analysis.curvature_core.directions import Directions
from bench.errors import UserError
from bench.speed import curvature as command
from bench.speed.curvature import CurvatureSpeedOptions, Stage, main, render

SMALL = ["model=convnet", "batch=16", "size=8", "k=5", "device=cpu", "rounds=1", "microbatch=8"]


def stage(**options: object) -> Stage:
    asked = CurvatureSpeedOptions.model_validate(
        {"model": "mlp", "batch": 8, "size": 8, "k": 5, "device": "cpu", "rounds": 1, **options}
    )
    return Stage(asked, torch.device("cpu"))


def test_engines_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engines = "auto,sweep,double_backward,forward_over_reverse,plain,curvlinops"
    main([*SMALL, f"engines={engines}", "dtype=float64", "sampled=2", f"out={tmp_path}/speed.json"])
    out = capsys.readouterr().out
    assert "auto: sweep (piecewise linear, 10 classes, " in out
    assert "estimated from 1 and 2 of 5 directions a layer" in out
    assert "measured, median of 1" in out
    written = json.loads((tmp_path / "speed.json").read_text())
    rows = {row["engine"]: row for row in written["rows"]}
    assert list(rows) == ["auto (sweep)", *engines.split(",")[1:]]
    assert written["microbatch"] == 8
    assert written["directions"] == 5 * written["layers"]
    for name, row in rows.items():
        assert row["seconds"] > 0
        assert row["forwards"] == pytest.approx(row["seconds"] / written["forward_seconds"])
        assert row["peak_mib"] is None  # on a CPU
        if name == "double_backward":
            assert row["error"] is None
        else:
            assert row["error"] < 1e-10


def test_a_wrong_engine_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error column compares direction by direction with double backward."""
    found = stage(engines=["sweep", "double_backward"], sampled=None)
    honest = command.curvature

    def off(*args: object, engine: str, **options: object) -> dict[str, Tensor]:
        h = honest(*args, engine=engine, **options)  # type: ignore[arg-type]
        if engine == "sweep":
            next(iter(h.values()))[-1] += 0.5 * next(iter(h.values())).abs().max()
        return h

    monkeypatch.setattr(command, "curvature", off)
    rows = command.measure(found)
    assert rows[0].error == pytest.approx(0.5, rel=1e-3)


def test_estimates_are_linear_in_the_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 s for the graphs and 3 s a direction are 2 + 3 * 5 s for all five."""
    found, clock = stage(engines=["double_backward"], sampled=4), [0.0]
    asked: list[int] = []

    def pretend(along: Mapping[str, Directions]) -> dict[str, Tensor]:
        count = len(next(iter(along.values())))
        asked.append(count)
        clock[0] += 2 + 3 * count
        return {layer: torch.ones(count) for layer in along}

    monkeypatch.setattr(found, "now", lambda: clock[0])
    monkeypatch.setattr(found, "work", lambda engine: pretend)
    found.forward_seconds = 0.5
    row = found.measure("double_backward")
    assert row.seconds == pytest.approx(17)
    assert row.forwards == pytest.approx(34)
    assert asked == [1, 2, 4]
    assert row.how == "estimated from 2 and 4 of 5 directions a layer"
    whole = stage(engines=["double_backward"], sampled=None)
    monkeypatch.setattr(whole, "now", lambda: clock[0])
    monkeypatch.setattr(whole, "work", lambda engine: pretend)
    assert whole.measure("double_backward").seconds == pytest.approx(17)


def test_speed_up_is_over_double_backward() -> None:
    rows = [
        command.Row("sweep", 2.0, 1.0, 5.0, 1e-8, 10, ""),
        command.Row("double_backward", 30.0, 15.0, None, None, 10, ""),
    ]
    cells = [list(column) for column in zip(*render(rows).rows, strict=True)]
    assert cells[3] == ["15.0", "1.0"]
    assert cells[4] == ["5", "-"]


def test_layers_can_be_chosen() -> None:
    found = stage(layers=["head"])
    assert list(found.directions) == ["head"]
    with pytest.raises(UserError, match=r"layers: no such layer 'hed'.*head"):
        stage(layers=["hed"])


def test_a_library_that_is_not_there_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    main([*SMALL, "layers=head", "engines=curvlinops,plain", f"out={tmp_path}/speed.json"])
    said = "curvlinops: left out, not installed; pip install curvlinops-for-pytorch"
    assert said in capsys.readouterr().out
    written = json.loads((tmp_path / "speed.json").read_text())
    assert [row["engine"] for row in written["rows"]] == ["plain"]
    assert list(written["left_out"]) == ["curvlinops"]
    with pytest.raises(UserError, match="nothing to time; curvlinops is not installed"):
        main([*SMALL, "engines=curvlinops"])


def test_mistakes_are_one_line() -> None:
    with pytest.raises(UserError, match=r"engines: no such engine 'swep'.*sweep"):
        main([*SMALL, "engines=swep"])
    with pytest.raises(UserError, match="model=resnet19: there is no such model"):
        main(["model=resnet19", "batch=4"])


def test_help_has_the_commands_for_the_large_models(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    page = capsys.readouterr().out
    for model in ("resnet18", "resnet50", "gpt_mini", "vit_tiny"):
        assert f"model={model} batch=" in page
