"""Tables of runs whose times cannot all be compared."""

from __future__ import annotations

import math
from typing import Any

import pytest
from table_runs import only, record

from analysis.run.frame import RunRecord, frame
from analysis.table.build import build_table
from analysis.table.model import Table

H100 = {"device": "NVIDIA H100", "packed": False, "optimizer_source": "a"}


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"device": "NVIDIA H200"}, "they ran on 2 device models (NVIDIA H100, NVIDIA H200)"),
        ({"optimizer_source": "b"}, "2 versions of the code of torch.adamw"),
    ],
)
def test_times_that_cannot_be_compared_are_withheld(
    other: dict[str, Any], why: str, runs: Any
) -> None:
    mixed = frame(
        [record(runs, 0.9, 0, provenance=H100), record(runs, 0.9, 1, provenance=H100 | other)]
    )
    table = build_table(mixed)
    assert math.isnan(only(table).seconds_per_epoch)
    assert only(table).n == 2
    assert f"s/epoch of digits/convnet withheld: {why}." in table.notes
    assert only(build_table(mixed, mix_timing=True)).seconds_per_epoch == 1.5
    with pytest.raises(ValueError, match=r"seconds_per_epoch of digits/convnet: .*mix_timing=true"):
        build_table(mixed, metric="seconds_per_epoch")
    assert only(build_table(mixed, metric="seconds_per_epoch", mix_timing=True)).mean == 1.5
    assert only(build_table(mixed, seeds=[0])).seconds_per_epoch == 1.5


def test_runs_that_shared_their_device_lose_their_times_beside_others_that_did_not(
    runs: Any,
) -> None:
    data = frame(
        record(runs, 0.9, seed, provenance=H100 | {"packed": packed}, seconds_per_epoch=seconds)
        for seed, (packed, seconds) in enumerate([(False, 1.0), (4, 9.0), (1, 2.0)])
    )
    table = build_table(data)
    assert only(table).n == 3 and only(table).seconds == (1.0, 2.0)
    (note,) = [note for note in table.notes if "withheld" in note]
    assert "withheld of 1 of 3 runs of adamw: those runs shared" in note
    assert only(build_table(data, mix_timing=True)).seconds == (1.0, 9.0, 2.0)


def test_rows_that_shared_their_device_alone_lose_their_times(runs: Any) -> None:
    rows = [record(runs, 0.9, seed, provenance=H100) for seed in (0, 1)]
    packed = H100 | {"packed": 4, "optimizer_source": "b"}
    rows += [record(runs, 0.8, seed, optimizer="sgd", provenance=packed) for seed in (0, 1)]
    table = build_table(frame(rows))
    seconds = dict(
        zip(table.rows, [line[0].seconds_per_epoch for line in table.cells], strict=True)
    )
    assert seconds["adamw"] == 1.5 and math.isnan(seconds["sgd"])
    (note,) = [note for note in table.notes if "withheld" in note]
    assert note.startswith(
        "s/epoch of digits/convnet withheld of sgd: those runs shared their device"
    )
    shown = build_table(frame(rows), mix_timing=True)
    assert [line[0].seconds_per_epoch for line in shown.cells] == [1.5, 1.5]


def test_seeds_of_one_row_with_and_without_a_graph_have_no_seconds(runs: Any) -> None:
    def made(*graphs: bool) -> Table:
        return build_table(
            frame(
                RunRecord(f"r{seed}", "done", runs.config(seed=seed),
                          runs.summary(0.9, cuda_graph=graph), H100)
                for seed, graph in enumerate(graphs)
            )
        )  # fmt: skip

    assert only(made(True, True)).seconds == (1.5, 1.5)
    table = made(True, False)
    assert only(table).seconds == ()
    assert any("1 of 2 runs of adamw had no CUDA graph" in note for note in table.notes)


def test_where_time_is_the_metric_runs_that_shared_their_device_are_left_out(runs: Any) -> None:
    packed = H100 | {"packed": 4}
    rows = [
        record(runs, 0.9, seed, provenance=H100 if seed < 2 else packed, seconds_per_epoch=seconds)
        for seed, seconds in enumerate([1.0, 2.0, 50.0])
    ]
    rows += [record(runs, 0.8, 0, optimizer="sgd", provenance=packed)]
    table = build_table(frame(rows), metric="seconds_per_epoch")
    alone, shared = (line[0] for line in table.cells)
    assert (alone.mean, alone.n, alone.expected) == (1.5, 2, 3)
    assert (shared.n, shared.expected) == (0, 3)
    assert "2 of 4 runs used." in table.notes
    (note,) = [note for note in table.notes if "leaves out" in note]
    assert note == (
        "seconds_per_epoch of digits/convnet leaves out sgd; 1 of 3 runs of adamw: those runs"
        " shared their device with others of their launch, the rest had it alone."
    )
    mixed = build_table(frame(rows), metric="seconds_per_epoch", mix_timing=True)
    assert [line[0].n for line in mixed.cells] == [3, 1]


def test_a_row_without_runs_in_a_column_has_no_time_there(runs: Any) -> None:
    here = record(runs, 0.9, provenance=H100)
    config = runs.config("sgd", 0)
    config["names"]["dataset"] = "cifar10"
    there = RunRecord("there", "done", config, runs.summary(0.8), H100)
    table = build_table(frame([here, there]), metric="seconds_per_epoch")
    assert table.rows == ("adamw", "sgd")
    assert [[cell.n for cell in row] for row in table.cells] == [[0, 1], [1, 0]]
    assert build_table(frame([here, there]), metric="seconds_per_epoch", baseline=["adamw"])


def test_a_diverged_run_that_shared_its_device_is_no_loss_of_a_row_that_had_it_alone(
    runs: Any,
) -> None:
    packed = H100 | {"packed": 4}
    rows = [record(runs, 0.9, seed, provenance=H100) for seed in (0, 1)]
    rows += [record(runs, 0.9, 2, provenance=packed)]
    rows += [record(runs, 0.0, 3, state="diverged", provenance=packed)]
    table = build_table(frame(rows), metric="seconds_per_epoch")
    cell = only(table)
    assert (cell.n, cell.expected, cell.diverged) == (2, 4, 0)
    assert any("leaves out 2 of 4 runs of adamw" in note for note in table.notes)
    assert only(build_table(frame(rows))).diverged == 1


def test_joules_are_withheld_as_seconds_are_and_less_is_better(runs: Any) -> None:
    def run(seed: int, optimizer: str, packed: int, joules: float) -> RunRecord:
        shared = {"packed": packed, "device": "NVIDIA H100"}
        return record(
            runs, 0.9, seed, optimizer=optimizer, provenance=shared, **{"energy/joules": joules}
        )

    rows = [run(seed, "adamw", 1, 100.0 + seed) for seed in range(3)]
    rows += [run(seed, "sgd", 1, 50.0 + seed) for seed in range(2)] + [run(2, "sgd", 4, 999.0)]
    table = build_table(frame(rows), metric="energy/joules")
    means = {row: cells[0] for row, cells in zip(table.rows, table.cells, strict=True)}
    assert (means["adamw"].mean, means["sgd"].mean) == (101.0, 50.5)
    assert (means["adamw"].n, means["sgd"].n) == (3, 2)
    assert any("energy/joules of digits/convnet leaves out" in note for note in table.notes)
    whole = build_table(frame(rows[:5]), metric="energy/joules", seeds=[0, 1])
    assert [cells[0].best for cells in whole.cells] == [False, True]
    mixed = [*rows[:1], record(runs, 0.9, 1, provenance={"device": "L4"}, **{"energy/joules": 1.0})]
    with pytest.raises(ValueError, match="energy/joules of digits/convnet: they ran on 2 device"):
        build_table(frame(mixed), metric="energy/joules")
