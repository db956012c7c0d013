"""A run that measures its own curvature: when, at what cost, and changing nothing of the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from analysis.run.wandb_files import find_files, read_file
from analysis.runs import load_runs
from bench import train
from bench.config import RunConfig
from bench.errors import UserError
from bench.identity import identify
from bench.run_folder import RunFolder
from bench.training.evaluation import SelfMeasurement
from optimizers.exponents import read_exponents

Make = Callable[..., RunConfig]
MEASURED = ["trainer.curvature.directions=5", "trainer.curvature.batch=64"]


def folder_of(config: RunConfig) -> RunFolder:
    return RunFolder(Path(config.runs_dir) / identify(config).id)


@pytest.mark.parametrize(
    ("every", "due"),
    [(1, [0, 1, 2, 3, 4, 5]), (2, [0, 2, 4, 5]), (9, [0, 5]), ([0, 1, 3], [0, 1, 3]), ([], [])],
)
def test_epochs(every: Any, due: list[int], build: Any) -> None:
    loop = build()
    hook = SelfMeasurement(
        None, every, data=loop.data, weights=loop.evaluation.weights, folder=Path(), epochs=5
    )  # type: ignore[arg-type]
    assert [epoch for epoch in range(6) if hook.due(epoch)] == due


def test_the_callback_gets_the_first_training_samples(build: Any) -> None:
    loop, seen = build(), []

    class Callback:
        batch = 9

        def __call__(
            self, model: nn.Module, batch: tuple[Tensor, Tensor], *rest: Any
        ) -> dict[str, float]:
            seen.append((model, batch, rest))
            return {"alpha/x": 1.0}

    weights = loop.evaluation.weights
    options = {"data": loop.data, "weights": weights, "folder": Path("f"), "epochs": 5}
    assert SelfMeasurement(Callback(), 1, **options)(loop.model, 12, 3) == {"alpha/x": 1.0}
    model, (inputs, targets), rest = seen[0]
    assert model is loop.model
    first = next(loop.data.eval_batches("train", 9))
    assert torch.equal(inputs, first[0])
    assert torch.equal(targets, first[1])
    assert rest == (Path("f"), 12, 3.0)
    Callback.batch = 10**6  # more than there are
    SelfMeasurement(Callback(), 1, **options)(loop.model, 0, 0)
    assert len(seen[1][1][0]) == loop.data.size("train")


def test_a_run_measures_itself(quick: Make) -> None:
    config = quick("trainer.epochs=3", "trainer.curvature_every=2", *MEASURED)
    summary = train.train(config)
    folder = folder_of(config)
    table = pd.read_parquet(folder.path / "exponents.parquet")
    assert table["epoch"].unique().tolist() == [0.0, 2.0, 3.0]
    curvature = pd.read_parquet(folder.path / "curvature.parquet")
    assert curvature.groupby("epoch").size().unique().tolist() == [len(curvature) // 3]
    last = read_exponents(folder.path / "exponents.parquet")
    rows = {row["epoch"]: row for row in folder.history()}
    for layer, found in last.items():
        assert rows[3.0][f"alpha/{layer}"] == found.alpha
        assert f"alpha/{layer}" in rows[0]
        assert f"alpha/{layer}" not in rows[1.0]
    assert "train/loss" not in rows[0]
    assert summary["clock/curvature_seconds"] > 0


def test_wandb_has_each_layer_as_a_chart_and_all_as_a_table(quick: Make) -> None:
    config = quick("trainer.epochs=2", "trainer.curvature_every=1", *MEASURED, "tracker=wandb")
    train.train(config)
    folder = folder_of(config)
    table = pd.read_parquet(folder.path / "exponents.parquet")
    (log,) = find_files(folder.path.parent)
    told = read_file(log)
    for layer in table["layer"].unique():
        series = {row["epoch"]: row.get(f"alpha/{layer}") for row in told.history}
        measured = table[table["layer"] == layer].set_index("epoch")["alpha"].to_dict()
        assert {epoch: series[epoch] for epoch in measured} == measured
        assert list(measured) == [0.0, 1.0, 2.0]
    said = told.summary["curvature/layers"]
    media = json.loads((log.parent / "files" / said["path"]).read_text())
    assert media["columns"] == list(table)
    assert len(media["data"]) == len(table) == said["nrows"]
    shown = pd.DataFrame(media["data"], columns=media["columns"])
    assert shown["alpha"].tolist() == table["alpha"].tolist()
    assert "curvature/layers" not in load_runs(f"offline:{config.runs_dir}")


def test_measuring_changes_nothing_of_the_run(quick: Make, tmp_path: Path) -> None:
    """Same identity, same weights to the last bit, same history but for what was measured."""
    plain = quick("trainer.epochs=2", f"runs_dir={tmp_path / 'plain'}")
    measured = quick("trainer.epochs=2", "trainer.curvature_every=1", *MEASURED)
    assert identify(plain) == identify(measured)
    results = []
    for config in (plain, measured):
        train.train(config)
        folder = folder_of(config)
        history = [
            {key: value for key, value in row.items()
             if key.partition("/")[0] not in ("alpha", "gamma", "s", "curvature")}
            for row in folder.history() if row["step"] > 0
        ]  # fmt: skip
        results.append((folder.load_checkpoint(), history))
    (one, first), (other, second) = results
    assert one is not None
    assert other is not None
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])
    assert torch.equal(one["random"], other["random"])
    assert first == second


def test_its_cost_is_in_its_own_clock_alone(build: Any) -> None:
    """Nothing else of the run takes half a second; three measurements sleep as long each."""
    component = {
        "_target_": "watched_callback.WatchedCallback",
        "directions": 3, "batch": 12, "seconds": 0.5,
    }  # fmt: skip
    loop = build(curvature_every=1, curvature=component)
    loop.run()
    seconds = loop.clock.seconds
    assert seconds["curvature"] > 3 * 0.5
    others = {phase: spent for phase, spent in seconds.items() if phase != "curvature"}
    plain = build("plain")
    plain.run()
    for phase, spent in others.items():
        assert spent < plain.clock.seconds[phase] + 0.5, phase
    assert loop.clock.training < plain.clock.training + 0.5


def test_mistakes_are_found_before_the_run(quick: Make) -> None:
    for override, message in (
        ("trainer.curvature.direction=3", "trainer.curvature.direction: .*no such option"),
        ("trainer.curvature.directions=0", "trainer.curvature: .*must be at least 1"),
        ("trainer.curvature_every=0", "trainer.curvature_every"),
        ("trainer.curvature_every=often", "trainer.curvature_every"),
        ("trainer.curvature=null", "trainer.curvature: missing"),
    ):
        extra = [f"+{override}"] if "direction=3" in override else [override]
        every = [] if "every" in override else ["trainer.curvature_every=1"]
        with pytest.raises(UserError, match=message):
            quick(*every, *extra)


def test_config_json_can_be_read_back(quick: Make) -> None:
    config = quick("trainer.epochs=1", "trainer.curvature_every=[0,1]", *MEASURED)
    train.train(config)
    stored = json.loads((folder_of(config).path / "config.json").read_text())
    assert stored["trainer"]["curvature_every"] == [0, 1]
    fields = {key: stored[key] for key in RunConfig.model_fields}
    assert identify(RunConfig.model_validate(fields)) == identify(config)


def test_an_interrupted_run_ends_with_the_same_tables(build: Any) -> None:
    """Stopped in the second epoch, when epochs 0 and 1 are measured; and before the first ends."""
    component = {"_target_": "analysis.callback.CurvatureCallback", "directions": 3, "batch": 12}
    options = {"curvature_every": 1, "curvature": component}
    build("whole", **options).run()
    for at in (2, 6):
        name = f"stopped-{at}"
        with pytest.raises(KeyboardInterrupt):
            build(name, stop=build.Stop(at), **options).run()
        build(name, **options).run()
        for file in ("curvature", "exponents"):
            tables = [
                pd.read_parquet(build.root / run / f"{file}.parquet") for run in ("whole", name)
            ]
            pd.testing.assert_frame_equal(*tables)
            assert tables[0]["epoch"].unique().tolist() == [0.0, 1.0, 2.0]
        histories = [(build.root / run / "history.jsonl").read_bytes() for run in ("whole", name)]
        assert histories[0] == histories[1]
