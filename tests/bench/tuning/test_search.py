"""Which trials a search makes: the budget, the edges, and that only scores decide."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from scipy.stats import qmc

from bench.tuning.search import Covering, Narrowing, Point, Range, Search, latin

WIDE = Range(1e-3, 1.0)


def searched(search: Search, score: Callable[[Point], float]) -> dict[Point, float]:
    """Carry out a search whose trials have the scores that ``score`` gives."""
    scores: dict[Point, float] = {}
    while fresh := [point for point in search.asked(scores) if point not in scores]:
        scores |= {point: score(point) for point in fresh}
    return scores


def peak(at: float) -> Callable[[Point], float]:
    return lambda point: -abs(math.log(point[0] / at))


def test_the_first_trials_are_evenly_spaced_by_their_logarithm_ends_included() -> None:
    assert Covering((WIDE,), 6, 2).first() == [(0.001,), (0.01,), (0.1,), (1.0,)]
    linear = Range(0.0, 0.9, log=False)
    assert Covering((linear,), 4, 0).first() == [(0.0,), (0.3,), (0.6,), (0.9,)]


def test_a_grid_of_two_parameters_is_every_combination() -> None:
    first = Covering((WIDE, Range(1.0, 4.0)), 6, 2).first()
    assert first == [(0.001, 1.0), (0.001, 4.0), (1.0, 1.0), (1.0, 4.0)]


def test_halton_points_are_scipys_without_the_corner() -> None:
    ranges = (WIDE, Range(0.0, 1.0, log=False))
    first = Covering(ranges, 7, 2, "halton").first()
    unit = qmc.Halton(d=2, scramble=False).random(6)[1:]
    assert [point[1] for point in first] == [pytest.approx(u, rel=1e-3) for u in unit[:, 1]]
    exact = [1e-3 * 1000 ** float(u) for u in unit[:, 0]]
    assert [point[0] for point in first] == [pytest.approx(value, rel=1e-3) for value in exact]


@pytest.mark.parametrize(("at", "beyond"), [(1e-9, [1e-4, 1e-5]), (1e9, [10.0, 100.0])])
def test_a_best_at_the_edge_moves_the_range_on_step_by_step(at: float, beyond: list[float]) -> None:
    search = Covering((WIDE,), 6, 2)
    scores = searched(search, peak(at))
    assert [point[0] for point in scores][4:] == beyond
    assert search.position(scores) == ("low edge" if at < 1 else "high edge")


def test_a_best_inside_is_refined_on_the_side_of_its_better_neighbour() -> None:
    search = Covering((WIDE,), 6, 2)
    for at, expected in ((0.02, [0.03162, 0.01778]), (0.006, [0.003162, 0.005623])):
        scores = searched(search, peak(at))
        assert [point[0] for point in scores][4:] == expected
        assert search.position(scores) == "interior"


def test_an_edge_then_the_inside() -> None:
    scores = searched(Covering((WIDE,), 7, 3), peak(12.0))
    assert [point[0] for point in scores][4:] == [10.0, 100.0, 31.62]


def test_a_range_that_may_not_be_extended_is_refined_at_its_end() -> None:
    search = Covering((Range(0.0, 0.9, log=False, extend=False),), 5, 1)
    scores = searched(search, lambda point: point[0])
    assert list(scores)[4] == (0.75,)
    assert search.position(scores) == "high edge"


def test_where_all_diverge_the_range_moves_down() -> None:
    search = Covering((WIDE,), 5, 1)
    scores = searched(search, lambda point: -math.inf)
    assert list(scores)[4] == (1e-4,)


def test_ties_go_to_the_smaller_value() -> None:
    search = Covering((WIDE,), 4, 0)
    scores = dict.fromkeys([(1.0,), (0.1,), (0.01,), (0.001,)], 0.5)
    assert search.best(scores) == (0.001,)


def test_two_parameters_move_on_in_those_that_lie_at_an_edge() -> None:
    search = Covering((WIDE, Range(1.0, 100.0)), 11, 2)
    scores = searched(search, lambda p: -abs(math.log(p[0] / 30)) - abs(math.log(p[1] / 10)))
    assert list(scores)[9:] == [(31.62, 10.0), (999.9, 10.0)]  # a step from what was tried, rounded


def test_parameters_are_refined_in_turn_on_the_side_that_has_the_better_trial() -> None:
    search = Covering((WIDE, Range(1.0, 100.0)), 11, 2)
    scores = dict.fromkeys(search.first(), 0.5)
    scores |= {(0.001, 1.0): 0.9, (0.001, 10.0): -5.0, (0.001, 100.0): -5.0}  # a best of 0.9
    scores |= {(0.03162, 10.0): 1.0, (0.03162, 100.0): 0.8}
    first = search.asked(scores)[9]
    assert first == (0.005623, 10.0)
    second = search.asked({**scores, first: 0.0})[10]
    assert second == (0.03162, 3.162)


def test_a_quasi_random_search_moves_on_by_a_trials_share_of_the_range() -> None:
    search = Covering((WIDE,), 5, 1, "halton")
    scores = searched(search, peak(1e9))
    highest = max(search.first())[0]
    assert list(scores)[4][0] == pytest.approx(highest * 10, rel=1e-3)  # a third of 3 decades


def test_an_edge_is_named_by_its_lower_end_first() -> None:
    search = Covering((WIDE, Range(1.0, 100.0)), 4, 0)
    assert search.position({(0.001, 1.0): 0, (1.0, 1.0): 0, (0.001, 100.0): 1.0}) == "low edge"
    assert search.position({(0.001, 1.0): 0, (1.0, 1.0): 0, (1.0, 100.0): 1.0}) == "high edge"


@given(
    trials=st.integers(2, 12),
    share=st.floats(0, 1),
    method=st.sampled_from(["grid", "halton"]),
    low=st.floats(1e-5, 1.0),
    width=st.floats(2.0, 1e4),
    values=st.lists(st.floats(0, 1) | st.just(-math.inf), min_size=12, max_size=12),
)
@settings(max_examples=60, deadline=None)
def test_every_search_spends_its_budget_whatever_the_scores(
    trials: int, share: float, method: str, low: float, width: float, values: list[float]
) -> None:
    search = Covering((Range(low, low * width),), trials, round(share * (trials - 2)), method)  # type: ignore[arg-type]
    drawn = iter(values)
    scores = searched(search, lambda point: next(drawn))
    assert len(scores) == trials
    assert all(value > 0 for point in scores for value in point)
    # From any part of what is known the same trials follow: an interrupted search goes on.
    order = list(scores)
    for known in range(trials):
        part = {point: scores[point] for point in order[:known]}
        asked = search.asked(part)
        assert asked == order[: len(asked)]
        assert len(asked) >= min(known + 1, trials)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Range(1.0, 1.0), "must be below"),
        (lambda: Range(0.0, 1.0), "positive"),
        (lambda: Range(math.nan, 1.0), "must be below"),
        (lambda: Covering((), 4, 0), "no parameter"),
        (lambda: Covering((WIDE,), 4, 3), "at least 2 trials"),
        (lambda: Covering((WIDE,), 4, -1), "at least 2 trials"),
        (lambda: Covering((WIDE, WIDE), 6, 1), "no grid of 2 parameters"),
        (lambda: Narrowing((), 4), "no parameter"),
        (lambda: Narrowing((WIDE,), 1), "at least 2"),
        (lambda: Narrowing((WIDE,) * 6, 12), "too many for method: narrow"),
    ],
)
def test_what_cannot_be_searched_is_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


# -- narrowing ----------------------------------------------------------------------------------

TALL = Range(1e-4, 1e-1)
TWO = (WIDE, TALL)


def bowl(search: Search, at: tuple[float, ...], *weights: float) -> Callable[[Point], float]:
    """A quadratic bowl with its best at coordinates ``at``."""

    def score(point: Point) -> float:
        away = [r.coordinate(v) - a for r, v, a in zip(search.ranges, point, at, strict=True)]
        return -math.fsum(w * d**2 for w, d in zip(weights or [1.0] * len(at), away, strict=True))

    return score


def test_a_round_has_each_parameter_at_as_many_values_as_trials() -> None:
    first = Narrowing(TWO, 12).first()
    for index, its in enumerate(TWO):
        at = sorted(its.coordinate(point[index]) for point in first)
        assert at == pytest.approx([1 / 8, 3 / 8, 5 / 8, 7 / 8], abs=1e-4)


@pytest.mark.parametrize(("size", "count"), [(2, 2), (3, 2), (4, 2), (5, 2), (3, 3), (4, 3)])
def test_a_design_is_latin_and_of_two_dimensions_the_most_spread(size: int, count: int) -> None:
    design = np.array(latin(size, count))
    middles = (np.arange(size) + 0.5) / size
    assert (np.sort(design, axis=0) == middles[:, None]).all()
    if count == 2:
        every = (np.c_[middles, middles[list(p)]] for p in itertools.permutations(range(size)))
        most = max(pdist(one).min() for one in every)
        assert pdist(design).min() == pytest.approx(most, abs=1e-12)


def test_rounds_are_of_four_or_one_more_than_parameters() -> None:
    assert Narrowing(TWO, 12).rounds == [4, 4, 4]
    assert Narrowing(TWO, 11).rounds == [4, 4, 3]
    assert Narrowing(TWO, 5).rounds == [3, 2]
    assert Narrowing((WIDE,) * 5, 14).rounds == [5, 5, 4]


def test_the_next_box_is_half_as_wide_and_around_the_best() -> None:
    search = Narrowing((WIDE,), 8)
    first = search.first()
    scores = {point: float(point == first[1]) for point in first}
    second = [WIDE.coordinate(point[0]) for point in search.asked(scores)[4:]]
    middle, half = 3 / 8, 1 / 4
    assert sorted(second) == pytest.approx(
        [middle + half * offset for offset in (-0.75, -0.25, 0.25, 0.75)], abs=1e-3
    )


@given(values=st.lists(st.floats(0, 1), min_size=24, max_size=24))
@settings(max_examples=60, deadline=None)
def test_each_edge_is_followed_in_its_own_parameter(values: list[float]) -> None:
    search, drawn = Narrowing(TWO, 24), iter(values)
    scores = searched(search, lambda point: next(drawn))
    points = np.array([search._coordinates(point) for point in scores])
    ends = list(itertools.accumulate(search.rounds))
    for start, end in itertools.pairwise(ends):
        tried, coming = points[:start], points[start:end]
        known = dict(list(scores.items())[:start])
        best = np.array(search._coordinates(search.best(known)))
        for index in range(2):
            if best[index] == tried[:, index].max():
                assert (coming[:, index] > best[index]).all()
            elif best[index] == tried[:, index].min():
                assert (coming[:, index] < best[index]).all()
            else:  # around it
                assert coming[:, index].min() < best[index] < coming[:, index].max()


@pytest.mark.parametrize("side", list(itertools.product([-1, 0, 1], repeat=2)))
def test_a_best_far_outside_is_followed_beyond_the_ranges(side: tuple[int, int]) -> None:
    search = Narrowing(TWO, 24)
    scores = searched(search, bowl(search, (0.5 + 9 * side[0], 0.5 + 9 * side[1])))
    for at, to in zip(search._coordinates(search.best(scores)), side, strict=True):
        assert not to or to * (at - 0.5) > 0.5


@pytest.mark.parametrize(
    ("trials", "steep", "mean", "most"),
    [(12, 1.0, 0.11, 0.31), (12, 4.0, 0.13, 0.42), (20, 4.0, 0.05, 0.25)],
)
def test_bowls_within_the_ranges_are_found(
    trials: int, steep: float, mean: float, most: float
) -> None:
    """Distances in widths of the first ranges; nearer in the mean than quasi-random trials."""
    away: dict[str, list[float]] = {"narrow": [], "halton": []}
    searches = {"narrow": Narrowing(TWO, trials), "halton": Covering(TWO, trials, 2, "halton")}
    for at in itertools.product(np.linspace(0.05, 0.95, 10), repeat=2):
        for name, search in searches.items():
            scores = searched(search, bowl(search, at, steep, 1.0))
            away[name].append(math.dist(search._coordinates(search.best(scores)), at))
    assert np.mean(away["narrow"]) <= min(mean, np.mean(away["halton"]))
    assert np.max(away["narrow"]) <= most


@given(at=st.tuples(st.floats(-0.3, 1.3), st.floats(-0.3, 1.3)))
@settings(max_examples=80, deadline=None)
def test_thirty_trials_find_a_bowl_outside_of_the_ranges_too(at: tuple[float, float]) -> None:
    search = Narrowing(TWO, 30)
    scores = searched(search, bowl(search, at))
    assert math.dist(search._coordinates(search.best(scores)), at) <= 0.1


@given(
    trials=st.integers(2, 40),
    count=st.integers(1, 3),
    extend=st.booleans(),
    log=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
    lost=st.floats(0, 1),
)
@settings(max_examples=80, deadline=None)
def test_narrowing_spends_its_budget_and_asks_only_for_the_order_of_scores(
    trials: int, count: int, extend: bool, log: bool, seed: int, lost: float
) -> None:
    ranges = tuple(Range(0.01 * 3**k, 1.0 * 3**k, log, extend) for k in range(count))
    search, draw = Narrowing(ranges, trials), np.random.default_rng(seed)
    values = np.where(draw.random(trials) < lost, -math.inf, draw.random(trials)).tolist()
    drawn, again = iter(values), iter(values)
    scores = searched(search, lambda point: next(drawn))
    assert len(scores) == trials == sum(search.rounds)  # a point tried twice would be one key
    if not extend:
        assert all(r.low <= v <= r.high for p in scores for r, v in zip(ranges, p, strict=True))
    order = list(scores)
    for known in range(0, trials, 3):
        asked = search.asked({point: scores[point] for point in order[:known]})
        assert asked == order[: len(asked)]
        assert len(asked) >= min(known + 1, trials)
    rescaled = searched(search, lambda point: 3 * next(again) ** 3 - 7)
    assert list(rescaled) == order


def test_a_search_of_hundreds_does_not_run_out() -> None:
    search = Narrowing((WIDE,), 300)
    assert len(searched(search, peak(0.03))) == 300
