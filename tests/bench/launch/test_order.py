"""Which run is next: every run once, runs alike by the same worker, nobody idle."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from bench.launch.order import Order

GRID = [("a0", "A"), ("a1", "A"), ("a2", "A"), ("b0", "B"), ("b1", "B"), ("c0", "C")]


def taken(order: Order, workers: list[int]) -> list[str | None]:
    return [order.take(worker) for worker in workers]


def test_one_worker_follows_the_grid() -> None:
    order = Order(GRID)
    assert len(order) == 6
    assert taken(order, [0] * 7) == ["a0", "a1", "a2", "b0", "b1", "c0", None]
    assert len(order) == 0


def test_each_worker_keeps_to_its_code_then_to_a_new_one_then_helps() -> None:
    order = Order(GRID)
    assert taken(order, [0, 1]) == ["a0", "b0"]
    assert taken(order, [1, 1]) == ["b1", "c0"]  # not a1, which the first worker can do
    assert taken(order, [1, 0, 0]) == ["a1", "a2", None]  # but rather that than nothing


def test_runs_of_a_seed_first_grid_are_sorted_by_code() -> None:
    order = Order((f"{code}{seed}", code) for seed in range(3) for code in "AB")
    assert taken(order, [0, 1, 0, 1, 1, 0]) == ["A0", "B0", "A1", "B1", "B2", "A2"]


def test_no_run_waits_for_a_worker_that_has_left() -> None:
    order = Order(GRID)
    order.take(0)
    assert taken(order, [1] * 5) == ["b0", "b1", "c0", "a1", "a2"]


@given(codes=st.lists(st.integers(0, 4), max_size=30), data=st.data())
def test_whoever_asks_whenever(codes: list[int], data: st.DataObject) -> None:
    runs = {f"{number}": code for number, code in enumerate(codes)}
    order, done, last = Order(runs.items()), list[str](), dict[int, int]()
    asking = st.integers(0, 3)
    while (run := order.take(worker := data.draw(asking))) is not None:
        waiting = [code for name, code in runs.items() if name not in done]
        assert run not in done
        if last.get(worker) in waiting:
            assert runs[run] == last[worker]
        elif set(waiting) - {runs[name] for name in done}:
            assert runs[run] not in {runs[name] for name in done}
        else:
            assert runs[run] == waiting[0]
        done.append(run)
        last[worker] = runs[run]
    assert sorted(done) == sorted(runs)  # none is left where one is refused
    for code in set(codes):
        alike = [int(name) for name in done if runs[name] == code]
        assert alike == sorted(alike)


def test_workers_that_ask_at_the_same_time_share_nothing() -> None:
    order = Order((str(number), number % 7) for number in range(500))
    found: list[list[str]] = [[] for _ in range(8)]

    def work(worker: int) -> None:
        while (run := order.take(worker)) is not None:
            found[worker].append(run)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = [name for part in found for name in part]
    assert len(names) == len(set(names)) == 500
