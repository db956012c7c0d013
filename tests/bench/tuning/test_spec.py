"""Which trials a search makes: the budget, the edges, and that only scores decide."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import qmc

from bench.errors import UserError
from bench.tuning.spec import Point, Range, Search, Study, looks_of, study_of


def test_a_config_without_a_study_asks_for_nothing() -> None:
    assert study_of({}) == Study(exponents=None, tuning=None, looks=1, contrasts=[])


def test_what_a_study_says_of_its_verdicts() -> None:
    found = study_of({"study": {"looks": 2, "contrasts": [["muon", "sgd"]]}})
    assert (found.looks, found.contrasts) == (2, [("muon", "sgd")])


def test_looks_of_a_sweep() -> None:
    assert looks_of("study_a_8") >= 3
    assert looks_of("digits") == looks_of("no such sweep") == looks_of("") == 1


@pytest.mark.parametrize(
    ("study", "said"),
    [
        ({"looks": 0}, "study.looks: input should be greater than or equal to 1"),
        ({"contrasts": [["muon"]]}, "study.contrasts.0.1: field required"),
        ({"contrasts": [["muon", "muon"]]}, "study.contrasts: muon cannot be compared with itself"),
        ({"contrasts": [["a", "b"], ["b", "a"]]}, "study.contrasts: a pair stands there twice"),
        ({"look": 2}, "study.look: extra inputs are not permitted"),
    ],
)
def test_a_mistake_is_named(study: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        study_of({"study": study})
    assert str(caught.value) == said


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
    assert Search((WIDE,), 6, 2).first() == [(0.001,), (0.01,), (0.1,), (1.0,)]
    linear = Range(0.0, 0.9, log=False)
    assert Search((linear,), 4, 0).first() == [(0.0,), (0.3,), (0.6,), (0.9,)]


def test_a_grid_of_two_parameters_is_every_combination() -> None:
    first = Search((WIDE, Range(1.0, 4.0)), 6, 2).first()
    assert first == [(0.001, 1.0), (0.001, 4.0), (1.0, 1.0), (1.0, 4.0)]


def test_halton_points_are_scipys_without_the_corner() -> None:
    ranges = (WIDE, Range(0.0, 1.0, log=False))
    first = Search(ranges, 7, 2, "halton").first()
    unit = qmc.Halton(d=2, scramble=False).random(6)[1:]
    assert [point[1] for point in first] == [pytest.approx(u, rel=1e-3) for u in unit[:, 1]]
    exact = [1e-3 * 1000 ** float(u) for u in unit[:, 0]]
    assert [point[0] for point in first] == [pytest.approx(value, rel=1e-3) for value in exact]


@pytest.mark.parametrize(("at", "beyond"), [(1e-9, [1e-4, 1e-5]), (1e9, [10.0, 100.0])])
def test_a_best_at_the_edge_moves_the_range_on_step_by_step(at: float, beyond: list[float]) -> None:
    search = Search((WIDE,), 6, 2)
    scores = searched(search, peak(at))
    assert [point[0] for point in scores][4:] == beyond
    assert search.position(scores) == ("low edge" if at < 1 else "high edge")


def test_a_best_inside_is_refined_on_the_side_of_its_better_neighbour() -> None:
    search = Search((WIDE,), 6, 2)
    for at, expected in ((0.02, [0.03162, 0.01778]), (0.006, [0.003162, 0.005623])):
        scores = searched(search, peak(at))
        assert [point[0] for point in scores][4:] == expected
        assert search.position(scores) == "interior"


def test_an_edge_then_the_inside() -> None:
    scores = searched(Search((WIDE,), 7, 3), peak(12.0))
    assert [point[0] for point in scores][4:] == [10.0, 100.0, 31.62]


def test_a_range_that_may_not_be_extended_is_refined_at_its_end() -> None:
    search = Search((Range(0.0, 0.9, log=False, extend=False),), 5, 1)
    scores = searched(search, lambda point: point[0])
    assert list(scores)[4] == (0.75,)
    assert search.position(scores) == "high edge"


def test_where_all_diverge_the_range_moves_down() -> None:
    search = Search((WIDE,), 5, 1)
    scores = searched(search, lambda point: -math.inf)
    assert list(scores)[4] == (1e-4,)


def test_ties_go_to_the_smaller_value() -> None:
    search = Search((WIDE,), 4, 0)
    scores = dict.fromkeys([(1.0,), (0.1,), (0.01,), (0.001,)], 0.5)
    assert search.best(scores) == (0.001,)


def test_two_parameters_move_on_in_those_that_lie_at_an_edge() -> None:
    search = Search((WIDE, Range(1.0, 100.0)), 11, 2)
    scores = searched(search, lambda p: -abs(math.log(p[0] / 30)) - abs(math.log(p[1] / 10)))
    assert list(scores)[9:] == [(31.62, 10.0), (999.9, 10.0)]  # a step from what was tried, rounded


def test_parameters_are_refined_in_turn_on_the_side_that_has_the_better_trial() -> None:
    search = Search((WIDE, Range(1.0, 100.0)), 11, 2)
    scores = dict.fromkeys(search.first(), 0.5)
    scores |= {(0.001, 1.0): 0.9, (0.001, 10.0): -5.0, (0.001, 100.0): -5.0}  # a best of 0.9
    scores |= {(0.03162, 10.0): 1.0, (0.03162, 100.0): 0.8}
    first = search.asked(scores)[9]
    assert first == (0.005623, 10.0)
    second = search.asked({**scores, first: 0.0})[10]
    assert second == (0.03162, 3.162)


def test_a_quasi_random_search_moves_on_by_a_trials_share_of_the_range() -> None:
    search = Search((WIDE,), 5, 1, "halton")
    scores = searched(search, peak(1e9))
    highest = max(search.first())[0]
    assert list(scores)[4][0] == pytest.approx(highest * 10, rel=1e-3)  # a third of 3 decades


def test_an_edge_is_named_by_its_lower_end_first() -> None:
    search = Search((WIDE, Range(1.0, 100.0)), 4, 0)
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
    search = Search((Range(low, low * width),), trials, round(share * (trials - 2)), method)  # type: ignore[arg-type]
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
        (lambda: Search((), 4, 0), "no parameter"),
        (lambda: Search((WIDE,), 4, 3), "at least 2 trials"),
        (lambda: Search((WIDE,), 4, -1), "at least 2 trials"),
        (lambda: Search((WIDE, WIDE), 6, 1), "no grid of 2 parameters"),
    ],
)
def test_what_cannot_be_searched_is_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
