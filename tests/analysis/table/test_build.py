from __future__ import annotations

import math
import statistics
from typing import Any

import pandas as pd
import pytest
from table_runs import only, record

from analysis import stats
from analysis import stats as bootstrap
from analysis.judge.power import seeds_needed
from analysis.run.frame import RunRecord, frame
from analysis.table.build import build_table
from analysis.table.model import Table


def test_mean_and_sample_std_over_seeds(runs: Any) -> None:
    accuracies, seconds = [0.9, 0.93, 0.97], [1.0, 2.0, 4.5]
    table = build_table(
        frame(
            record(runs, a, seed, seconds_per_epoch=s)
            for seed, (a, s) in enumerate(zip(accuracies, seconds, strict=True))
        )
    )
    cell = only(table)
    assert (table.rows, table.columns, table.corner) == (
        ("adamw",),
        ("digits/convnet",),
        "optimizer",
    )
    assert cell.mean == pytest.approx(statistics.mean(accuracies), rel=1e-15)
    assert cell.std == pytest.approx(statistics.stdev(accuracies), rel=1e-12)
    assert cell.seconds_per_epoch == 2.0  # the median: one slow run tells of the machine
    assert (cell.n, cell.expected, cell.diverged) == (3, 3, 0)
    assert [run_id.split("-")[3] for run_id in cell.run_ids] == ["s0", "s1", "s2"]
    assert not cell.best  # nothing to compare it with


@pytest.mark.parametrize("state", ["diverged", "failed", "running", "unreadable"])
def test_only_finished_runs_are_averaged(state: str, runs: Any) -> None:
    """A diverged run's initial values, or a truncated run's last ones, are not results."""
    kept = [record(runs, 0.9, 0), record(runs, 0.8, 1)]
    table = build_table(frame([*kept, record(runs, 0.1, 2, state)]))
    cell = only(table)
    assert cell.mean == pytest.approx(0.85)
    assert cell.seconds_per_epoch == 1.5
    assert (cell.n, cell.expected, cell.diverged) == (2, 3, int(state == "diverged"))
    assert len(cell.run_ids) == 2
    assert f"2 of 3 runs used. Never averaged in: 1 {state}." in table.notes


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_a_finished_run_without_the_number_is_counted_not_averaged(value: Any, runs: Any) -> None:
    table = build_table(frame([record(runs, 0.9, 0), record(runs, value, 1)]))
    assert (only(table).mean, only(table).n, only(table).expected) == (0.9, 1, 2)
    assert math.isnan(only(table).std)
    assert "1 done without a finite test/accuracy" in " ".join(table.notes)


def test_expected_seeds_are_all_seen_in_the_column_in_any_state(runs: Any) -> None:
    table = build_table(
        frame(
            [
                record(runs, 0.9, 0),
                record(runs, 0.5, 1, optimizer="sgd"),
                record(runs, 0.5, 2, "running", optimizer="muon"),
                record(runs, 0.5, 7, dataset__x=1, names={"dataset": "cifar10", "model": "mlp",
                       "optimizer": "adamw", "schedule": "cosine", "trainer": "default"}),
            ]
        )
    )  # fmt: skip
    assert table.columns == ("cifar10/mlp", "digits/convnet")
    assert table.rows == ("adamw", "muon", "sgd")
    counts = [[(cell.n, cell.expected) for cell in row] for row in table.cells]
    assert counts == [[(1, 1), (1, 3)], [(0, 1), (0, 3)], [(0, 1), (1, 3)]]
    never = table.cells[2][0]
    assert math.isnan(never.mean)
    assert math.isnan(never.seconds_per_epoch)
    assert never.run_ids == ()


def test_given_seeds_are_expected_and_the_only_ones_used(runs: Any) -> None:
    data = frame([record(runs, 0.9, 0), record(runs, 0.7, 1), record(runs, 0.1, 5)])
    table = build_table(data, seeds=[0, 1, 2, 3])
    assert only(table).mean == pytest.approx(0.8)
    assert (only(table).n, only(table).expected) == (2, 4)
    assert "1 runs of other seeds left out." in table.notes
    with pytest.raises(ValueError, match="no run left to show"):
        build_table(data, seeds=[99])


def test_variants_are_never_averaged_together(runs: Any) -> None:
    data = frame(
        record(runs, accuracy, seed, optimizer__lr=lr)
        for lr, accuracy in ((0.1, 0.5), (0.01, 0.9))
        for seed in (0, 1)
    )
    table = build_table(data)
    assert table.rows == ("adamw lr=0.01", "adamw lr=0.1")
    assert [(row[0].mean, row[0].std, row[0].n) for row in table.cells] == [
        (0.9, 0, 2),
        (0.5, 0, 2),
    ]


def test_two_runs_of_one_config_and_seed_are_refused(runs: Any) -> None:
    one = record(runs, 0.9)
    twin = RunRecord("twin", "done", one.config, one.summary)
    with pytest.raises(ValueError, match=f"{one.id} and twin have the same config and seed"):
        build_table(frame([one, twin]))


@pytest.mark.parametrize(
    ("metric", "best"),
    [("test/accuracy", "sgd"), ("test/loss", "muon"), ("clock/step_seconds", "muon"),
     ("samples_per_second", "sgd"), ("best/epoch", None)],
)  # fmt: skip
def test_the_best_mean_of_a_column(metric: str, best: str | None, runs: Any) -> None:
    """Best is by the metric's own direction, over the rows; not a min over names of metrics."""
    records = [
        RunRecord(f"{name}{seed}", "done", runs.config(name, seed), {metric: value})
        for name, value in (("adamw", 0.5), ("muon", 0.1), ("sgd", 0.9))
        for seed in (0, 1)
    ]
    table = build_table(frame(records), metric=metric)
    marked = [label for label, row in zip(table.rows, table.cells, strict=True) if row[0].best]
    assert marked == ([best] if best else [])


def test_a_row_that_lost_seeds_is_not_the_best_of_rows_that_did_not(runs: Any) -> None:
    full = [record(runs, 0.8, seed) for seed in (0, 1)]
    lucky = [
        record(runs, 0.9, 0, optimizer="sgd"),
        record(runs, 0.1, 1, "diverged", optimizer="sgd"),
    ]
    table = build_table(frame([*full, *lucky]))
    assert [(row[0].best, row[0].n) for row in table.cells] == [(True, 2), (False, 1)]
    table = build_table(frame([*full[:1], *lucky]))
    assert [(row[0].best, row[0].n) for row in table.cells] == [(False, 1), (True, 1)]


def test_equal_means_are_both_best(runs: Any) -> None:
    records = [record(runs, 0.5, optimizer=name) for name in ("a", "b")]
    table = build_table(frame([*records, record(runs, 0.4, optimizer="c")]))
    assert [row[0].best for row in table.cells] == [True, True, False]


def test_runs_of_a_sweep(runs: Any) -> None:
    data = frame([record(runs, 0.9, sweep="grid"), record(runs, 0.1, 1, sweep="other")])
    assert only(build_table(data, sweep="grid")).mean == 0.9
    with pytest.raises(ValueError, match="no runs of sweep 'gird'; sweeps here: grid, other"):
        build_table(data, sweep="gird")
    with pytest.raises(ValueError, match="no run here has a sweep"):
        build_table(frame([record(runs, 0.9)]), sweep="grid")


def test_rows_and_columns_by_any_config_value(runs: Any) -> None:
    data = frame([record(runs, 0.9, optimizer__lr=0.1), record(runs, 0.8, optimizer__lr=0.01)])
    for name in ("optimizer.lr", "config.optimizer.lr"):
        table = build_table(data, rows=[name], cols=["model"])
        assert (table.corner, table.rows) == ("optimizer.lr", ("0.01", "0.1"))
        assert table.columns == ("convnet",)
        assert build_table(data, cols=[name]).columns == ("0.01", "0.1")
    with pytest.raises(ValueError, match="unknown column 'optimiser'; the nearest is 'optimizer'"):
        build_table(data, rows=["optimiser"])


def test_an_unknown_metric_names_the_nearest(runs: Any) -> None:
    data = frame([record(runs, 0.9)])
    with pytest.raises(ValueError, match="'test/acuracy'; the nearest is 'test/accuracy'"):
        build_table(data, metric="test/acuracy")
    with pytest.raises(ValueError, match="known: best/epoch, epochs, parameters, "):
        build_table(data, metric="zzz")
    with pytest.raises(ValueError, match=r"unknown metric 'config.optimizer.lr'"):
        build_table(data, metric="config.optimizer.lr")


def test_before_anything_is_finished_the_table_says_so(runs: Any) -> None:
    table = build_table(frame([record(runs, 0.1, seed, "running") for seed in (0, 1)]))
    assert (only(table).n, only(table).expected) == (0, 2)
    assert "0 of 2 runs used. Never averaged in: 2 running." in table.notes


def test_runs_without_a_config_are_named(runs: Any) -> None:
    lost = RunRecord("lost-run", "unreadable")
    table = build_table(frame([record(runs, 0.9), lost]))
    assert only(table).n == 1
    assert "Without a readable config, so in no cell: lost-run." in table.notes
    with pytest.raises(ValueError, match="none has a readable config"):
        build_table(frame([lost]))


def test_no_runs_say_how_to_make_some() -> None:
    with pytest.raises(ValueError, match=r"spectral-bench train"):
        build_table(frame([]))


def test_the_order_of_the_runs_changes_nothing(runs: Any) -> None:
    records = [
        record(runs, 0.1 * seed + 0.01 * lr, seed, optimizer=name, optimizer__lr=lr)
        for seed in range(3)
        for name in ("sgd", "adamw")
        for lr in (0.1, 0.3)
    ]
    data = frame(records)
    shuffled = data.sample(frac=1, random_state=0).reset_index(drop=True)
    table, again = build_table(data), build_table(pd.DataFrame(shuffled))
    assert repr(again) == repr(table)


def test_intervals_of_both_statistics(runs: Any) -> None:
    accuracies = [0.9 + 0.01 * math.sin(seed) for seed in range(12)]
    data = frame(record(runs, a, seed) for seed, a in enumerate(accuracies))
    mean, iqm = only(build_table(data)), only(build_table(data, statistic="iqm"))
    assert mean.interval == stats.t_interval(accuracies)
    assert iqm.iqm == stats.iqm(accuracies)
    assert iqm.interval == bootstrap.bca_interval(accuracies, bootstrap.iqms)
    few = only(build_table(data, statistic="iqm", seeds=list(range(9))))
    assert math.isnan(few.interval.low)  # nine seeds would cover too little


def against(runs: Any, offsets: list[float], **states: str) -> Table:
    """A table of "muon" = "adamw" + offsets by seed, with some runs in another state."""
    records = []
    for seed, offset in enumerate(offsets):
        base = 0.9 + 0.02 * math.sin(3 * seed)
        records += [
            record(runs, value, seed, states.get(f"{name}{seed}", "done"), optimizer=name)
            for name, value in (("adamw", base), ("muon", base + offset))
        ]
    return build_table(frame(records), baseline=["adamw"])


def test_differences_are_paired_by_seed(runs: Any) -> None:
    """Seeds differ by 1 %, the optimizers by 0.1 % on each: only the pairs show it."""
    offsets = [0.001, 0.0012, 0.0009, 0.0011, 0.001, 0.0008]
    table = against(runs, offsets)
    muon = table.cells[1][0]
    assert table.cells[0][0].comparison is None
    assert muon.comparison is not None
    assert muon.comparison.difference == pytest.approx(statistics.mean(offsets))
    assert (muon.comparison.verdict, muon.comparison.n) == ("better", 6)
    assert muon.std > 5 * muon.comparison.difference
    with pytest.raises(ValueError, match="of test/accuracy the larger is better; leave better="):
        build_table(frame([record(runs, 0.9)]), baseline=["adamw"], better="lower")


def test_a_method_that_diverged_where_the_baseline_did_not_is_never_better(runs: Any) -> None:
    offsets = [0.001, 0.0012, 0.0009, 0.0011, 0.001, 0.0008, 0.0]
    verdicts = {}
    for state in ("diverged", "running"):
        found = against(runs, offsets, muon6=state).cells[1][0].comparison
        assert found is not None
        verdicts[state] = (found.verdict, found.n)
    assert verdicts == {"diverged": ("undecided", 6), "running": ("better", 6)}
    worse = against(runs, [-o for o in offsets], adamw6="diverged").cells[1][0].comparison
    assert worse is not None
    assert worse.verdict == "undecided"
    both = against(runs, offsets, adamw6="diverged", muon6="diverged").cells[1][0].comparison
    assert both is not None
    assert both.verdict == "better"


def test_seeds_that_would_resolve_a_difference(runs: Any) -> None:
    data = frame(
        record(runs, 0.9 + seed / 100 * (name == "muon"), seed, optimizer=name)
        for seed in range(4)
        for name in ("adamw", "muon")
    )
    table = build_table(data, baseline=["adamw"], resolve=0.01)
    expected = seeds_needed(statistics.stdev([0.0, 0.01, 0.02, 0.03]), 0.01)
    assert table.cells[1][0].needed == expected
    assert table.cells[0][0].needed is None
    assert build_table(data, baseline=["adamw"], resolve=1e-9).cells[1][0].needed is None


def test_a_partial_row_of_the_same_mean_is_not_best_beside_a_whole_one(runs: Any) -> None:
    whole = [record(runs, 0.8, seed) for seed in (0, 1)]
    table = build_table(frame([*whole, record(runs, 0.8, 0, optimizer="sgd")]))
    assert [(row[0].mean, row[0].best) for row in table.cells] == [(0.8, True), (0.8, False)]
