from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.judge.robustness import Check, Panel, by_seeds, compared
from analysis.judge.verdicts import Comparison, Rules, Verdict, judge


def comparison(verdict: Verdict, difference: float = 0.1) -> Comparison:
    return Comparison(difference, (0.0, 0.2), 8, 0.01, 0.02, verdict)  # type: ignore[arg-type]


def panel(verdict: Verdict, *checks: Check) -> Panel:
    return Panel("a", "b", "test/accuracy", comparison(verdict), checks)


@pytest.mark.parametrize(
    ("own", "other", "agreement"),
    [
        ("better", "better", "agrees"), ("better", "worse", "opposite"),
        ("better", "undecided", "differs"), ("better", "equivalent", "differs"),
        ("worse", "better", "opposite"), ("undecided", "undecided", "agrees"),
        ("undecided", "worse", "differs"), ("equivalent", "equivalent", "agrees"),
    ],
)  # fmt: skip
def test_a_tested_check_agrees_by_its_verdict(own: Verdict, other: Verdict, agreement: str) -> None:
    check = compared("outcome", "by test/loss", "test/loss", comparison(other), -1)
    one = panel(own, check)
    assert one.agreement(check) == agreement
    assert check.better == -1  # a larger loss
    assert [check] == one.those(agreement)  # type: ignore[arg-type]


def test_what_is_not_tested_agrees_by_its_direction() -> None:
    ahead, behind, level = (Check("target", "t", "target/step", side) for side in (1, -1, 0))
    better = panel("better", ahead, behind, level)
    assert [better.agreement(one) for one in better.checks] == ["agrees", "opposite", "differs"]
    worse = panel("worse", ahead, behind)
    assert [worse.agreement(one) for one in worse.checks] == ["opposite", "agrees"]
    assert panel("undecided", ahead).agreement(ahead) == "says nothing"
    # Half of the seeds show less: its direction counts.
    half = Check("seeds", "seeds 0-3", "test/accuracy", 1, 0.1, "undecided", 0.125)
    assert panel("better", half).agreement(half) == "agrees"
    assert panel("undecided", half).agreement(half) == "says nothing"


def test_halves_and_without_the_most_helpful_seed() -> None:
    rng = np.random.default_rng(0)
    values = dict(zip(range(40, 49), rng.normal(0.3, 1, 9), strict=True))
    first, second, without = by_seeds(values, "test/accuracy", 1)
    assert (first.name, second.name) == ("seeds 40-43", "seeds 44-48")
    for check, part in ((first, range(40, 44)), (second, range(44, 49))):
        listed = [values[seed] for seed in part]
        assert check.difference == pytest.approx(np.mean(listed))
        assert check.better == np.sign(np.mean(listed))
        test = stats.permutation_test(
            (listed,), np.mean, permutation_type="samples", n_resamples=np.inf
        )
        assert check.p == pytest.approx(test.pvalue)
    helpful = max(values, key=lambda seed: values[seed])
    assert without.name == f"without seed {helpful}"
    assert without.difference == pytest.approx(
        np.mean([number for seed, number in values.items() if seed != helpful])
    )
    # Of a loss the most helpful seed is the lowest, where the mean is.
    down = by_seeds({seed: -number for seed, number in values.items()}, "test/loss", -1)
    assert down[-1].name == without.name
    assert [check.better for check in down] == [first.better, second.better, without.better]


def test_few_seeds_have_no_halves() -> None:
    assert [one.name for one in by_seeds({0: 1.0, 3: 2.0, 9: 0.5}, "x", 1)] == ["without seed 3"]
    assert by_seeds({0: 1.0, 3: 2.0}, "x", 1) == []
    names = [one.name for one in by_seeds(dict.fromkeys((1, 2, 4, 5, 7, 8, 9, 12), 1.0), "x", 1)]
    assert names[:2] == ["seeds 1, 2, 4, 5", "seeds 7, 8, 9, 12"]


def test_a_check_keeps_the_p_of_its_verdict() -> None:
    (one,) = judge([dict(enumerate([0.01, -0.01, 0.0, 0.005, 0.0, -0.004, 0.0, 0.001]))],
                   Rules(margin=0.1))  # fmt: skip
    assert one.verdict == "equivalent"
    assert compared("horizon", "at 30 epochs", "test/accuracy", one, 1).p == one.equivalence_p
