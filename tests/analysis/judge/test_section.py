"""Sections: which comparisons there are, in which order they are judged, and what is said of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from analysis.judge.section import Asked, Missing, Plan, Section, check_baseline, judged, notes
from analysis.judge.verdicts import Rules, judge
from bench.registration import SHARES, Badge

BASE = np.array([0.901, 0.903, 0.902, 0.905, 0.900, 0.904, 0.899, 0.902])
CLEAR = BASE + np.array([0.020, 0.021, 0.019, 0.022, 0.018, 0.0205, 0.0195, 0.0215])
NOISE = BASE + np.array([0.004, -0.003, 0.001, -0.002, 0.003, -0.004, 0.002, -0.001])
MAYBE = BASE + np.array([0.010, 0.012, 0.008, 0.009, 0.011, 0.007, -0.005, 0.003])
FEW = BASE[:5] + 0.02


def seeds(values: Any) -> dict[int, float | None]:
    return dict(enumerate(map(float, values)))


def section(rows: dict[str, Any], plan: Plan, baselines: Any = (), direction: int = 1) -> Section:
    """Judge rows of results by seed; a row has one column, or a list of some."""
    numbers = [
        [seeds(column) for column in (row if isinstance(row, list) else [row])]
        for row in rows.values()
    ]
    runs = [[[{"seed": seed} for seed in cell] for cell in line] for line in numbers]
    return judged(list(rows), runs, numbers, plan, baselines=baselines, direction=direction)


def words(found: Section) -> dict[tuple[str, str, int], str]:
    return {(a.method, a.other, a.column): one.verdict for a, one in found.comparisons.items()}


def test_several_baselines_and_contrasts_are_one_family() -> None:
    rows = {"a": BASE, "b": CLEAR, "c": NOISE, "d": MAYBE}
    found = section(rows, Plan(contrasts=(("d", "c"),)), ["a", "b"])
    pairs = [("b", "a"), ("c", "a"), ("d", "a"), ("a", "b"), ("c", "b"), ("d", "b"), ("d", "c")]
    assert [(one.method, one.other) for one in found.comparisons] == pairs
    assert [(a.method, a.contrast) for a in found.contrasts] == [("d", True)]
    expected = judge([dict(enumerate(rows[one] - rows[other])) for one, other in pairs], Rules())
    for one, other in zip(found.comparisons.values(), expected, strict=True):
        assert (one.verdict, one.adjusted_p) == (other.verdict, other.adjusted_p)
    assert found.against("b", "a", 0) is found.comparisons[Asked(0, "b", "a")]
    assert found.against("a", "a", 0) is None
    assert "over 6 comparisons of this section" in notes(found, Plan())[0]  # a and b once
    alone = section({"a": BASE, "d": MAYBE}, Plan(), ["a"]).against("d", "a", 0)
    among = found.against("d", "a", 0)
    assert alone is not None and among is not None
    assert alone.verdict == "better"
    assert alone.p == among.p == alone.adjusted_p < among.adjusted_p


def test_a_row_is_an_optimizer_with_its_settings() -> None:
    rows = {"adamw": BASE, "muon lr=0.1": CLEAR, "muon lr=0.2": NOISE}
    found = section(rows, Plan(primary=(("muon", "adamw"),)), ["adamw"])
    assert found.missing == (Missing("muon", "adamw", "muon", several=True),)
    assert {asked.tier for asked in found.comparisons} == {0}  # both rows' are primary


def test_columns_are_judged_together_and_their_pairs_are_found_where_they_are() -> None:
    rows = {"a": [BASE, BASE], "b": [CLEAR, []], "c": [NOISE, CLEAR]}
    found = section(rows, Plan(contrasts=(("b", "c"), ("x", "a"))), ["a"])
    assert words(found) == {
        ("b", "a", 0): "better", ("b", "a", 1): "undecided", ("c", "a", 0): "undecided",
        ("c", "a", 1): "better", ("b", "c", 0): "better",
    }  # fmt: skip
    assert found.comparisons[Asked(1, "b", "a")].n == 0
    assert found.missing == (  # the latter in both columns
        Missing("x", "a", "x", several=False), Missing("b", "c", "b", several=False),
    )  # fmt: skip
    assert "over 4 comparisons of this section, at" in notes(found, Plan())[0]


def test_primary_comparisons_are_not_corrected_for_the_others() -> None:
    rows = {"a": BASE, "d": MAYBE} | {f"x{k}": np.roll(NOISE, k) for k in range(8)}
    plain = section(rows, Plan(), ["a"]).comparisons[Asked(0, "d", "a")]
    plan = Plan(primary=(("d", "a"),))
    first = section(rows, plan, ["a"])
    assert plain.verdict == "undecided"
    assert first.comparisons[Asked(0, "d", "a")].verdict == "better"
    assert [asked for asked in first.contrasts if asked.tier == 0] == [Asked(0, "d", "a", True)]
    text = notes(first, plan)[0]
    # Its own line and its place in the baseline's column are the same comparison.
    assert "1 primary comparison (80 % of the level), 8 further comparisons (4 %" in text


def test_families_follow_one_another() -> None:
    rows = {"a": BASE, "b": CLEAR, "c": NOISE, "d": CLEAR + 0.001}
    kept = Plan(primary=(("c", "a"),), secondary=(("b", "a"),), contrasts=(("d", "a"),))
    found = section(rows, kept)
    assert [asked.tier for asked in found.comparisons] == [0, 1, 2]
    # The first is undecided, so the others have their own parts: least_p(8) / 0.16 and / 0.2.
    assert list(words(found).values()) == ["undecided", "better", "better"]
    every = Plan(primary=(("b", "a"),), secondary=(("d", "a"),), contrasts=(("d", "c"),))
    found = section(rows, every)
    assert set(words(found).values()) == {"better"}
    assert (
        "sign flips over 1 primary comparison (80 % of the level), 1 secondary"
        in notes(found, every)[0]
    )
    lacking = Plan(primary=(("b", "a"), ("x", "a")), secondary=(("d", "a"),))
    (_, without) = section(rows, lacking).comparisons.values()
    assert without.adjusted_p == pytest.approx(min(1.0, without.p / SHARES[1]))  # nothing passed on


def test_a_pair_is_primary_either_way_round_and_asked_once() -> None:
    plan = Plan(primary=(("a", "b"),), contrasts=(("a", "b"), ("c", "a")))
    assert [plan.tier(pair) for pair in (("a", "b"), ("b", "a"), ("c", "a"))] == [0, 0, 2]
    assert plan.pairs == (("a", "b"), ("c", "a"))


def test_direction_and_margin_reach_the_verdicts() -> None:
    rows = {"a": BASE, "b": CLEAR, "c": NOISE}
    found = section(rows, Plan(margin=0.01), ["a"], direction=-1)
    assert words(found) == {("b", "a", 0): "worse", ("c", "a", 0): "equivalent"}
    said = notes(found, Plan(margin=0.01))
    assert said[1].startswith("equivalent: the difference is below the margin of 0.01;")
    without = section(rows, Plan(), ["a"])
    assert words(without)["c", "a", 0] == "undecided"
    assert "No margin was declared, so nothing is called equivalent." in notes(without, Plan())[1]


def test_few_seeds_are_said_with_how_many_it_takes() -> None:
    rows = {"a": BASE, "b": FEW, "c": CLEAR}
    found = section(rows, Plan(), ["a"])
    assert words(found)["b", "a", 0] == "undecided"
    said = "1 of 2 comparisons can have no verdict: with 5 seeds no p is below 0.0625; 6 seeds can."
    assert said in notes(found, Plan())
    enough = section({"a": BASE[:6], "c": CLEAR[:6]}, Plan(), ["a"])
    assert set(words(enough).values()) == {"better"}
    assert not any("can have no verdict" in line for line in notes(enough, Plan()))


def test_interim_analyses_are_said_and_multiply() -> None:
    rows = {"a": BASE, "c": CLEAR}
    once, thrice = Plan(), Plan(looks=3)
    p = [section(rows, plan, ["a"]).comparisons[Asked(0, "c", "a")].adjusted_p
         for plan in (once, thrice)]  # fmt: skip
    assert p[1] == 3 * p[0]
    first, *rest = notes(section(rows, thrice, ["a"]), thrice)
    assert "times 3 interim analyses (seeds were added to results already seen), at 0.05" in first
    assert not any("can have no verdict" in line for line in rest)
    seven = Plan(looks=7)
    said = notes(section(rows, seven, ["a"]), seven)
    assert any("with 8 seeds no p is below 0.0547; 9 seeds can." in line for line in said)


def test_a_level_that_no_seeds_can_reach_says_so() -> None:
    plan = Plan(level=1e-6)
    said = notes(section({"a": BASE, "c": CLEAR}, plan, ["a"]), plan)
    assert any(
        "with 8 seeds no p is below 0.00781; no number of seeds can." in line for line in said
    )


def test_drawn_patterns_and_the_registration_are_said() -> None:
    rng = np.random.default_rng(0)
    plan = Plan(registered="study_x, 2026-11-30, hash 0123")
    many = section({"a": rng.normal(size=17), "b": rng.normal(size=17)}, plan, ["a"])
    said = notes(many, plan)
    assert "Beyond 16 seeds 20,000 drawn patterns of signs, else all of them." in said
    assert "Registered: study_x, 2026-11-30, hash 0123." in said


def test_badges_are_of_each_pair_and_their_reasons_said_once() -> None:
    def badge(pair: tuple[str, str], runs: Any, others: Any) -> Badge:
        assert {run["seed"] for run in (*runs, *others)} == set(range(8))
        if pair == ("b", "a"):
            return Badge("primary", (), 8, 8)
        if pair == ("d", "a"):
            return Badge("secondary", (), 8, 9)
        return Badge(None, ("of another day", "of another place"), 8, 8)

    rows = {"a": BASE, "b": CLEAR, "c lr=1": CLEAR + 0.01, "d": CLEAR - 0.001}
    plan = Plan(badge=badge)
    found = section(rows, plan, ["a"])
    assert [str(one.badge) for one in found.comparisons.values()] == [
        "registered", "found afterwards", "8 of 9 registered seeds",
    ]  # fmt: skip
    # Before its last registered seed a comparison has no verdict, however small its p.
    assert list(words(found).values()) == ["better", "better", "undecided"]
    assert found.comparisons[Asked(0, "d", "a")].adjusted_p <= 0.05
    assert notes(found, plan)[-3:] == [
        "found afterwards (1 of 3): of another day.",
        "found afterwards (1 of 3): of another place.",
        "found afterwards (1 of 3): c lr=1 is one of several settings.",
    ]


def test_a_diverged_seed_takes_the_verdict_from_the_row_that_lost_it() -> None:
    numbers: list[list[dict[int, float | None]]] = [[seeds(BASE)], [seeds(CLEAR)]]
    numbers[1][0][7] = None
    found = judged(["a", "b"], [[[]], [[]]], numbers, Plan(), baselines=["a"], direction=1)
    (one,) = found.comparisons.values()
    assert (one.n, one.verdict, one.adjusted_p <= 0.05) == (7, "undecided", True)


def test_nothing_at_all() -> None:
    found = judged([], [], [], Plan(primary=(("a", "b"),)), direction=1)
    assert (found.comparisons, found.missing) == ({}, ())
    assert "over 0 comparisons" in notes(found, Plan())[0]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("adam", "no row 'adam' to be the baseline; the nearest is 'adamw'"),
        ("muon", "no row 'muon' to be the baseline; rows here: muon lr=0.1, muon lr=0.2"),
    ],
)
def test_a_baseline_that_is_no_row(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_baseline(name, ["adamw", "muon lr=0.1", "muon lr=0.2"])
