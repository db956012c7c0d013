from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import figures
from analysis.figure import seeds
from analysis.figure.style import COLOURS, legend, look, marker, new_axes, save, styled
from analysis.run.frame import RunRecord, RunWarning, frame
from analysis.runs import load_runs
from bench.errors import UserError


@pytest.fixture(scope="module")
def source(runs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("figures") / "runs"
    for o, name in enumerate(("adamw", "muon")):
        for rate in (0.01, 0.1):
            for seed in range(3):
                config = runs.config(name, seed, optimizer__lr=rate, sweep="grid")
                diverged = (name, rate, seed) == ("muon", 0.1, 2)
                accuracy = 0.8 + 0.05 * o + rate + seed / 100
                history = [{"step": 10 * e, "epoch": float(e), "test/accuracy": accuracy - 0.1 / e}
                           for e in (1, 2, 3)]  # fmt: skip
                state = "diverged" if diverged else "done"
                more = {"seconds_per_epoch": 2.0 + o, "steps": 30, "flops/total": 3e9,
                        "target/reached": o == 0, "target/seconds": 5.0 if o == 0 else None,
                        "clock/data_seconds": 1.0, "clock/step_seconds": 9.0}  # fmt: skip
                runs.folder(root, config, runs.summary(accuracy, state, **more), state, history)
    return root


@pytest.mark.parametrize(
    ("x", "ends"),
    [("epoch", [1, 2, 3]), ("step", [10, 20, 30]), ("seconds", [2, 4, 6]),
     ("flops", [1e9, 2e9, 3e9])],
)  # fmt: skip
def test_curves_are_means_against_what_was_asked(source: Path, x: str, ends: list[float]) -> None:
    figure = seeds.curves(load_runs(source), str(source), "test/accuracy", x)
    (axes,) = figure.axes
    by_label = {str(line.get_label()): line for line in axes.lines}
    assert list(by_label) == ["adamw lr=0.01", "adamw lr=0.1", "muon lr=0.01", "muon lr=0.1"]
    first = by_label["adamw lr=0.01"]
    assert first.get_xdata() == pytest.approx(ends)
    assert first.get_ydata() == pytest.approx([72.0, 77.0, 82 - 10 / 3])
    assert by_label["muon lr=0.1"].get_ydata()[0] == pytest.approx(85.5)  # type: ignore[index]
    assert len(axes.collections) == 4  # a band each
    assert axes.get_ylabel() == "test/accuracy (%)"


def test_sensitivity_marks_where_a_seed_diverged(source: Path) -> None:
    (axes,) = seeds.sensitivity(load_runs(source), "test/accuracy").axes
    adamw, muon = axes.lines
    assert adamw.get_xdata() == pytest.approx([0.01, 0.1])
    assert adamw.get_ydata() == pytest.approx([82.0, 91.0])
    assert muon.get_ydata() == pytest.approx([87.0, 95.5])  # without the diverged run
    crosses = [np.asarray(c.get_offsets()) for c in axes.collections if len(c.get_offsets()) == 1]
    assert any(offset[0, 0] == pytest.approx(0.1) for offset in crosses)
    assert axes.get_xscale() == "log"


def test_cost_against_accuracy(source: Path) -> None:
    (axes,) = seeds.cost(load_runs(source), "test/accuracy").axes
    points = [container.lines[0] for container in axes.containers]
    assert [point.get_xdata()[0] for point in points] == [2.0, 2.0, 3.0, 3.0]
    assert points[0].get_ydata()[0] == pytest.approx(82.0)


def test_no_band_goes_beyond_what_an_accuracy_can_be(runs: Any, tmp_path: Path) -> None:
    for rate in (0.01, 0.1):
        for seed, accuracy in enumerate((0.5, 1.0)):  # Student's interval of two is far too wide
            config = runs.config("adamw", seed, optimizer__lr=rate)
            history = [{"step": e, "epoch": float(e), "test/accuracy": accuracy} for e in (1, 2)]
            summary = runs.summary(accuracy, seconds_per_epoch=2.0, steps=2)
            runs.folder(tmp_path, config, summary, history=history)
    loaded = load_runs(tmp_path)
    for figure in (
        seeds.curves(loaded, str(tmp_path), "test/accuracy", "epoch"),
        seeds.sensitivity(loaded, "test/accuracy"),
        seeds.cost(loaded, "test/accuracy"),
    ):
        limits = figure.axes[0].dataLim
        assert (limits.y0, limits.y1) == pytest.approx((0, 100))


def test_a_profile_counts_misses_as_misses(source: Path) -> None:
    (axes,) = seeds.profile(load_runs(source), "seconds").axes
    shares = {str(line.get_label()): np.asarray(line.get_ydata()) for line in axes.lines}
    assert (shares["adamw lr=0.01"] == 1).all()
    assert (shares["muon lr=0.01"] == 0).all()  # it never reached the target


def test_a_problem_whose_times_are_withheld_is_in_no_profile(runs: Any, tmp_path: Path) -> None:
    for dataset, first in (("digits", 1.0), ("cifar10", 2.0)):  # in epochs
        for name in ("adamw", "muon"):
            config = runs.config(name, 0)
            config["names"]["dataset"] = dataset
            config["id"] = f"{dataset}-{name}"
            told = {"target/reached": True, "target/epoch": first, "target/step": 100 * first}
            runs.folder(tmp_path, config, runs.summary(0.5, **told))
    reason = "target/step of digits/convnet withheld: 2 of 2 runs reach their target at their first"
    with pytest.warns(RunWarning, match=reason):
        (axes,) = seeds.profile(load_runs(tmp_path), "step").axes
    assert axes.get_ylabel() == "share of 1 problems"
    only = load_runs(tmp_path).query("dataset == 'digits'")
    with pytest.raises(ValueError, match=f"no problem left to draw: {reason}"):
        seeds.profile(only, "step")


def test_times_of_two_machines_are_not_drawn_together(runs: Any) -> None:
    records = [
        RunRecord(f"r{k}", "done", runs.config(seed=k), runs.summary(0.9), {"device": f"GPU {k}"})
        for k in (0, 1)
    ]
    with pytest.raises(ValueError, match="2 device models"):
        seeds.cost(frame(records), "test/accuracy")


def test_rows_that_shared_their_device_are_left_out_of_figures_of_time(
    runs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, packed, seconds in (("adamw", 1, [2.0, 4.0]), ("soap", 4, [9.0, 9.0])):
        for seed, one in enumerate(seconds):
            config = runs.config(name, seed)
            history = [{"step": e, "epoch": float(e), "test/accuracy": 0.5} for e in (1, 2)]
            reached = {"target/reached": True, "target/seconds": one}
            summary = runs.summary(0.5, seconds_per_epoch=one, steps=2, **reached)
            folder = runs.folder(tmp_path / "runs", config, summary, history=history)
            attempt = {"device": "GPU", "packed": packed}
            (folder / "provenance.json").write_text(json.dumps({"attempts": [attempt]}))
    source = tmp_path / "runs"
    with pytest.warns(RunWarning, match="no seconds to compare: soap"):
        (axes,) = seeds.curves(load_runs(source), str(source), "test/accuracy", "seconds").axes
    (line,) = axes.lines
    assert line.get_label() == "adamw"
    assert line.get_xdata() == pytest.approx([3.0, 6.0])  # the median of 2 and 4 s an epoch
    (epochs,) = seeds.curves(load_runs(source), str(source), "test/accuracy", "epoch").axes
    assert len(epochs.lines) == 2
    assert axes.get_xscale() == epochs.get_xscale() == "linear"
    with pytest.warns(RunWarning, match="no seconds to compare: soap"):
        (profile,) = seeds.profile(load_runs(source), "seconds").axes
    assert [line.get_label() for line in profile.lines] == ["adamw"]  # soap missed nothing
    figures.main([f"source={source}", "kind=cost", f"out={tmp_path / 'cost.svg'}"])
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'cost.svg'}\n"
    assert err == "warning: left out, since their runs have no seconds to compare: soap\n"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["curves", "sensitivity", "cost", "profile"])
@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_command_writes_the_same_file_twice(
    kind: str, suffix: str, source: Path, tmp_path: Path
) -> None:
    contents = []
    for name in ("a", "b"):
        target = tmp_path / "new" / f"{name}.{suffix}"
        figures.main([f"source={source}", f"kind={kind}", f"out={target}"])
        contents.append(target.read_bytes())
    assert contents[0] == contents[1]
    assert len(contents[0]) > 5000


def test_a_profile_without_a_row_of_every_problem_says_so(runs: Any, tmp_path: Path) -> None:
    for dataset, alone in (("digits", "adamw"), ("cifar10", "muon")):
        for name in ("adamw", "muon"):
            config = runs.config(name, 0)
            config["names"]["dataset"] = dataset
            config["id"] = f"{dataset}-{name}"
            told = {"target/reached": True, "target/seconds": 1.0}
            folder = runs.folder(tmp_path, config, runs.summary(0.5, **told))
            attempt = {"device": "GPU", "packed": 1 if name == alone else 4}
            (folder / "provenance.json").write_text(json.dumps({"attempts": [attempt]}))
    with pytest.raises(ValueError, match="no row has seconds to compare on every problem"):
        seeds.profile(load_runs(tmp_path), "seconds")


def test_what_is_left_when_shared_devices_are_sorted_out_is_the_reason(
    runs: Any, tmp_path: Path
) -> None:
    for seed, (device, packed) in enumerate((("A", 1), ("B", 1), ("A", 4))):
        config = runs.config("adamw", seed)
        folder = runs.folder(tmp_path, config, runs.summary(0.5, seconds_per_epoch=2.0))
        attempt = {"device": device, "packed": packed}
        (folder / "provenance.json").write_text(json.dumps({"attempts": [attempt]}))
    with pytest.raises(ValueError, match="compared: they ran on 2 device models"):
        seeds.cost(load_runs(tmp_path), "test/accuracy")


def test_seconds_far_apart_are_drawn_on_a_logarithmic_scale(runs: Any, tmp_path: Path) -> None:
    for name, seconds in (("adamw", 1.0), ("soap", 6.0)):
        history = [{"step": e, "epoch": float(e), "test/accuracy": 0.5} for e in (1, 2)]
        summary = runs.summary(0.5, seconds_per_epoch=seconds, steps=2)
        runs.folder(tmp_path, runs.config(name, 0), summary, history=history)
    (cost,) = seeds.cost(load_runs(tmp_path), "test/accuracy").axes
    assert cost.get_xscale() == "log"
    assert cost.get_xlabel() == "seconds per epoch (logarithmic)"
    for x, scale in (("seconds", "log"), ("epoch", "linear")):
        (axes,) = seeds.curves(load_runs(tmp_path), str(tmp_path), "test/accuracy", x).axes
        assert axes.get_xscale() == scale


def test_many_names_stand_beside_the_plot() -> None:
    for count, beside in ((6, False), (7, True)):
        figure, axes = new_axes()
        for k in range(count):
            axes.plot([0, 1], [k, k], label=f"{k}")
        narrow = figure.get_figwidth()
        legend(figure, axes)
        found = axes.get_legend()
        assert found is not None and len(found.get_texts()) == count
        assert (figure.get_figwidth() > narrow) == beside


def test_the_range_of_the_metric_can_be_chosen(source: Path, tmp_path: Path) -> None:
    ticks = {}
    for ylim in ("82,84", "10,90"):
        out = tmp_path / f"{ylim}.svg"
        figures.main([f"source={source}", f"ylim={ylim}", f"out={out}"])
        ticks[ylim] = {float(t) for t in re.findall(r">(\d+\.?\d*)</text>", out.read_text())}
    assert 83 in ticks["82,84"] and max(ticks["82,84"]) == 84
    assert {20, 80} <= ticks["10,90"]


def test_mistakes_are_one_line(source: Path, runs: Any, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for seed, name in enumerate(("digits", "cifar10")):
        config = runs.config(seed=seed)
        config["names"]["dataset"] = name
        runs.folder(other, config, runs.summary(0.5))
    for argv, message in (
        ([f"source={source}", "out=x.gif"], "name a .png, .svg or .pdf file"),
        ([f"source={source}", "ylim=95,92"], "ylim=95,92: give two numbers, the lower first"),
        ([f"source={source}", "ylim=95"], "ylim=95: give two numbers"),
        ([f"source={source}", "ylim=nan,95"], "ylim=nan,95: give two numbers"),
        ([f"source={source}", "ylim=1,2", "kind=profile"], "kind=profile draws no metric"),
        ([f"source={source}", "ylim=1,2", "kind=curvature"], "kind=curvature draws no metric"),
        ([f"source={source}", "dataset=cifar"], "no runs with dataset=cifar; here: digits"),
        ([f"source={source}", "metric=val/nothing"], "no run here has a history of val/nothing"),
        ([f"source={other}"], "several datasets; choose one with dataset=cifar10"),
        ([f"source={other}", "kind=sensitivity", "dataset=digits"], "several optimizer.lr"),
        ([f"source={other}", "kind=profile"], "no run here states a target"),
        ([f"source={other}", "x=flops", "dataset=digits"], "did not count its FLOPs; use x=epoch"),
    ):
        with pytest.raises(UserError, match=message):
            figures.main([f"out={tmp_path / 'f.png'}", *argv] if "out=" not in argv[-1] else argv)


def test_more_series_than_colours_differ_in_their_dash(tmp_path: Path) -> None:
    looks = [tuple(look(k).values()) for k in range(3 * len(COLOURS))]
    assert len(set(looks)) == len(looks)
    points = [tuple(marker(k).values()) for k in range(3 * len(COLOURS))]
    assert len(set(points)) == len(points)
    with styled():
        figure, axes = new_axes()
        axes.plot([0, 1], [0, 1])
        save(figure, tmp_path / "a.pdf")
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
