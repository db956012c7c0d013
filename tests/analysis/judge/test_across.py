from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from analysis.judge.across import (
    Aggregate,
    Section,
    aggregate,
    performance_profile,
    rank_beside,
    weights,
)

METHODS = ("a", "b", "c")


def section(name: str, numbers: dict[str, Sequence[float | None]], **more: Any) -> Section:
    """A section in which larger is better; seeds from 0 on."""
    given = {"task": "net / data", "horizon": 8.0, "outcome": "test/accuracy", "direction": 1}
    by_seed = {who: dict(enumerate(values)) for who, values in numbers.items()}
    return Section(name, numbers=by_seed, **(given | more))


def found(many: Sequence[Section], **more: Any) -> Aggregate:
    return aggregate(many, METHODS, **({"resamples": 200} | more))


def ranks(one: Aggregate) -> dict[str, float]:
    return {each.method: each.rank for each in (*one.ranks, *one.others)}


# -- ranks ----------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, math.inf]), min_size=2, max_size=7))
def test_ranks_against_scipy(costs: list[float]) -> None:
    whole = np.array(costs)
    own = [float(rank_beside(whole[k], np.delete(whole, k))) for k in range(len(costs))]
    assert own == rankdata(costs).tolist()


score = st.integers(0, 6).map(lambda number: number / 7)  # ties are frequent
rows = st.lists(st.tuples(score, score, score), min_size=1, max_size=4)


@st.composite
def sections(draw: st.DrawFn) -> list[Section]:
    count = draw(st.integers(1, 5))
    return [
        section(
            f"study_{k}", dict(zip(METHODS, zip(*draw(rows), strict=True), strict=True)),
            task=draw(st.sampled_from("XYZ")), horizon=draw(st.sampled_from([8.0, 30.0])),
        )
        for k in range(count)
    ]  # fmt: skip


@given(sections())
@settings(max_examples=60, deadline=None)
def test_mean_ranks_by_brute_force(many: list[Section]) -> None:
    """Rank the means of each section, then mean over studies, over horizons, over tasks."""
    by_task: dict[str, dict[float, list[dict[str, float]]]] = {}
    for one in many:
        sevenths = [[round(7 * (v or 0)) for v in one.numbers[who].values()] for who in METHODS]
        costs = [-mean(values) for values in sevenths]
        own = dict(zip(METHODS, rankdata(costs), strict=True))
        by_task.setdefault(one.task, {}).setdefault(one.horizon, []).append(own)
    for who, rank in ranks(found(many)).items():
        brute = mean(
            mean(mean(one[who] for one in studies) for studies in horizons.values())
            for horizons in by_task.values()
        )
        assert rank == pytest.approx(brute, abs=1e-12)
    assert sum(ranks(found(many)).values()) == pytest.approx(6)  # 1 + 2 + 3


@given(sections(), st.permutations(METHODS), st.randoms())
@settings(max_examples=40, deadline=None)
def test_names_and_order_change_nothing(many: list[Section], names: list[str], rng: Any) -> None:
    first = found(many)
    new = dict(zip(METHODS, names, strict=True))
    renamed = [
        replace(one, numbers={new[who]: seeds for who, seeds in one.numbers.items()})
        for one in many
    ]  # fmt: skip
    rng.shuffle(renamed)
    again = {one.method: replace(one, method="") for one in found(renamed).ranks}
    assert again == {new[one.method]: replace(one, method="") for one in first.ranks}
    assert found(many) == first  # to the last bit


@given(sections(), st.floats(0.1, 50), st.floats(-5, 5))
@settings(max_examples=40, deadline=None)
def test_units_and_direction_change_nothing(many: list[Section], unit: float, zero: float) -> None:
    first = found(many)
    losses = [
        replace(one, direction=-1, numbers={
            who: {seed: zero - unit * v for seed, v in seeds.items() if v is not None}
            for who, seeds in one.numbers.items()
        })
        for one in many
    ]  # fmt: skip
    assert found(losses).ranks == first.ranks


@given(sections(), st.sampled_from([math.exp, math.atan, lambda v: v**3]))
@settings(max_examples=40, deadline=None)
def test_a_monotone_transformation_of_scores_changes_no_rank(many: list[Section], f: Any) -> None:
    """Of sections' scores: with one seed a number is the score."""
    single = [
        replace(one, numbers={who: {0: seeds[0]} for who, seeds in one.numbers.items()})
        for one in many
    ]  # fmt: skip
    bent = [
        replace(one, numbers={who: {0: f(seeds[0])} for who, seeds in one.numbers.items()})
        for one in single
    ]  # fmt: skip
    assert found(bent).ranks == found(single).ranks


@given(sections())
@settings(max_examples=40, deadline=None)
def test_a_method_that_is_always_last_changes_no_others_rank(many: list[Section]) -> None:
    worse = [
        replace(one, numbers={**one.numbers, "last": dict.fromkeys(one.numbers["a"], -1.0)})
        for one in many
    ]  # fmt: skip
    first, beside = found(many), found(worse)
    assert beside.ranks == first.ranks
    assert [one.rank for one in beside.others] == [4.0]
    among = aggregate(worse, (*METHODS, "last"), resamples=200)
    kept = [replace(one, of=3) for one in among.ranks if one.method != "last"]
    assert tuple(kept) == first.ranks
    assert ranks(among)["last"] == 4.0


# -- what is missing, and what counts how much ----------------------------------------------------


def test_lengths_of_a_task_share_its_weight() -> None:
    one = {who: [0.5] for who in METHODS}
    many = [
        section("a_8", one), section("a_30", one, horizon=30.0),
        section("again", one, horizon=30.0), section("c", one, task="gpt / text"),
    ]  # fmt: skip
    assert weights(many).tolist() == [0.25, 0.125, 0.125, 0.5]
    assert sum(found(many).weights) == 1


def test_missing_sections_cannot_flatter() -> None:
    """d runs only where it wins: its own rank says so, and nobody else's changes."""
    full = {"a": [0.9], "b": [0.8], "c": [0.7]}
    rest = [section(f"s{k}", full, task=f"t{k}") for k in range(3)]
    with_d = [replace(rest[0], numbers={**rest[0].numbers, "d": {0: 0.95}}), *rest[1:]]
    one = found(with_d)
    assert one.ranks == found(rest).ranks
    (d,) = one.others
    assert (d.rank, d.of, d.tasks, one.tasks) == (1.0, 4, 1, 3)
    assert [*map(math.isnan, d.by_section)] == [False, True, True]
    assert all(math.isnan(end) for end in d.over_tasks)
    without_c = replace(rest[1], numbers={who: rest[1].numbers[who] for who in "ab"})
    one = found([rest[0], without_c, rest[2]])
    assert [(section.name, lacks) for section, lacks in one.left_out] == [("s1", ("c",))]
    assert len(one.sections) == 2


def test_only_seeds_that_all_have_count_and_a_diverged_run_is_last() -> None:
    lucky = section("s", {"a": [0.5, 0.5], "b": [0.4, 0.6, 0.9], "c": [0.3, 0.3, 0.3]})
    assert ranks(found([lucky])) == {"a": 1.5, "b": 1.5, "c": 3.0}  # b's third seed is left out
    lost = section("s", {"a": [0.9, None], "b": [0.4, 0.6], "c": [0.3, 0.3]})
    assert ranks(found([lost])) == {"b": 1.0, "c": 2.0, "a": 3.0}
    apart = replace(lucky, numbers={"a": {0: 1.0}, "b": {1: 1.0}, "c": {0: 1.0, 1: 1.0}})
    assert [lacks for _, lacks in found([lucky, apart]).left_out] == [METHODS]


def test_equal_means_share_ranks_whatever_the_order_of_their_seeds() -> None:
    numbers = [0.1, 0.2, 0.3, 0.7, 1.1]
    one = section("s", {"a": numbers, "b": numbers[::-1], "c": sorted(numbers, key=hash)})
    assert ranks(found([one])) == dict.fromkeys(METHODS, 2.0)


@pytest.mark.parametrize("methods", [(), ("a",), ("a", "a", "b")])
def test_methods_that_cannot_be_ranked(methods: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="ranks need two methods or more"):
        aggregate([section("s", {"a": [0.5]})], methods)


def test_without_any_common_section() -> None:
    with pytest.raises(ValueError, match="no section has runs of a, b, c with a seed in common"):
        found([section("s", {"a": [0.5], "b": [0.5]})])
    with pytest.raises(ValueError, match="no section"):
        found([])
    with pytest.raises(ValueError, match="level"):
        found([section("s", {who: [0.5] for who in METHODS})], level=1.0)


# -- intervals ------------------------------------------------------------------------------------


def test_the_interval_over_seeds_against_a_plain_bootstrap() -> None:
    rng = np.random.default_rng(3)
    numbers = rng.normal(size=(10, 3)) + np.array([0.2, 0.0, -0.4])
    one = section("s", {who: numbers[:, k].tolist() for k, who in enumerate(METHODS)})
    drawn = [
        rankdata(-numbers[rng.integers(0, 10, 10)].mean(axis=0)) for _ in range(4000)
    ]  # fmt: skip
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    for each in found([one], resamples=4000).ranks:
        k = METHODS.index(each.method)
        assert each.over_seeds == (low[k], high[k])  # ranks are few: quantiles agree exactly
        assert all(map(math.isnan, each.over_tasks))


def test_the_interval_over_tasks_against_a_plain_bootstrap() -> None:
    """With one seed only the tasks are drawn, each with its two horizons."""
    rng = np.random.default_rng(4)
    scores = rng.normal(size=(6, 2, 3))
    many = [
        section(f"s{task}{horizon}", dict(zip(METHODS, row[:, None].tolist(), strict=True)),
                task=f"t{task}", horizon=float(horizon))
        for task, horizons in enumerate(scores) for horizon, row in enumerate(horizons)
    ]  # fmt: skip
    of_task = rankdata(-scores, axis=-1).mean(axis=1)
    drawn = [of_task[rng.integers(0, 6, 6)].mean(axis=0) for _ in range(20_000)]
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    for each in found(many, resamples=20_000).ranks:
        k = METHODS.index(each.method)
        assert each.over_seeds == (each.rank, each.rank)
        assert each.over_tasks == pytest.approx((low[k], high[k]), abs=0.09)


@given(sections())
@settings(max_examples=30, deadline=None)
def test_intervals_hold_the_rank_and_wider_levels_hold_narrower(many: list[Section]) -> None:
    narrow, wide = found(many, level=0.5), found(many, level=0.99)
    for one, two in zip(narrow.ranks, wide.ranks, strict=True):
        for inner, outer in ((one.over_seeds, two.over_seeds), (one.over_tasks, two.over_tasks)):
            if not math.isnan(inner.low):
                assert 1 <= outer.low <= inner.low <= one.rank <= inner.high <= outer.high <= 3


@pytest.mark.parametrize("gap", [0.0, 0.5, 1.0])
def test_the_interval_over_seeds_covers(gap: float) -> None:
    """Three methods, equal or half and one standard deviation apart; four tasks of ten seeds."""
    rng, covered = np.random.default_rng(7), []
    true = [2, 2, 2] if gap == 0 else [1, 2, 3]
    for _ in range(100):
        drawn = rng.normal(size=(4, 10, 1)) + rng.normal(size=(4, 10, 3)) - gap * np.arange(3)
        many = [
            section(f"s{k}", dict(zip(METHODS, task.T.tolist(), strict=True)), task=f"t{k}")
            for k, task in enumerate(drawn)
        ]
        for one in found(many).ranks:
            rank = true[METHODS.index(one.method)]
            covered.append(one.over_seeds.low <= rank <= one.over_seeds.high)
    assert np.mean(covered) >= 0.95


# -- performance profiles -------------------------------------------------------------------------


def test_a_profile_by_hand() -> None:
    costs = [[1.0, 2.0, math.inf, math.nan], [2.0, 1.0, 3.0, math.inf]]
    profile = performance_profile(costs, [1.0, 1.99, 2.0, 1e9])
    assert profile.tolist() == [[0.25, 0.25, 0.5, 0.5], [0.5, 0.5, 0.75, 0.75]]
    weighted = performance_profile(costs, [1.0, 2.0], weights=[0.4, 0.3, 0.2, 0.1])
    assert weighted == pytest.approx(np.array([[0.4, 0.7], [0.5, 0.9]]))


def test_a_cost_of_nothing_is_the_best_and_none_is_within_a_factor_of_it() -> None:
    profile = performance_profile([[0.0, 1.0], [0.0, 2.0], [0.1, 3.0]], [1.0, 1e9])
    assert profile.tolist() == [[1.0, 1.0], [0.5, 1.0], [0.0, 0.5]]


@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_profiles_rise_and_someone_is_best(methods: int, problems: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    costs, counts = rng.lognormal(size=(methods, problems)), rng.uniform(0.1, 1, problems)
    ratios = [1.0, 2.0, 4.0, 1e12]
    profile = performance_profile(costs, ratios)
    assert (np.diff(profile, axis=1) >= 0).all()
    assert profile[:, 0].sum() >= 1 - 1e-12  # each problem has a best method
    assert (profile[:, -1] == 1).all()
    brute = [
        [sum(w for w, c in zip(counts, costs.T, strict=True) if c[k] <= ratio * min(c))
         for ratio in ratios] for k in range(methods)
    ]  # fmt: skip
    assert performance_profile(costs, ratios, counts) == pytest.approx(
        np.array(brute) / counts.sum()
    )


@pytest.mark.parametrize("costs", [[1.0, 2.0], [[]], [[-1.0]]])
def test_costs_that_have_no_profile_are_refused(costs: list[object]) -> None:
    with pytest.raises(ValueError, match="costs must"):
        performance_profile(costs, [1.0])
