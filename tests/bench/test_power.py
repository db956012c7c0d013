"""What seeds can show: against simulated sign-flip tests, and statsmodels' and scipy's own."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from bench import power
from bench.past_runs import PastRun


def sign_flips(n: int) -> np.ndarray:
    """Return every sign pattern of n seeds up to a common sign [2^(n-1), n]."""
    rest = np.array(list(itertools.product([1.0, -1.0], repeat=n - 1)))
    return np.hstack([np.ones((len(rest), 1)), rest])


def shown(n: int, comparisons: int, effect: float, tables: int = 2000) -> float:
    """Return how often the first of several comparisons is shown by max-T sign flips.

    Differences are normal, with a mean of ``effect`` in the first comparison and of 0 in the
    others; all seeds' vectors are flipped at once, and statistics are studentized.
    """
    flips = sign_flips(n)
    drawn = np.random.default_rng(n).normal(size=(tables, comparisons, n))
    drawn[:, 0] += effect
    means = drawn @ flips.T / n
    squares = (drawn**2).mean(-1, keepdims=True)
    statistics = np.abs(means) / np.sqrt(np.maximum(squares - means**2, 1e-12))
    observed = statistics[:, 0, :1]  # the first pattern flips nothing
    p = (statistics.max(1) >= observed - 1e-9).mean(-1)
    return float((p <= 0.05).mean())


@pytest.mark.parametrize(
    ("n", "comparisons"), [(6, 1), (7, 1), (8, 1), (8, 2), (8, 3), (10, 1), (10, 3), (12, 2)]
)
def test_the_smallest_effect_has_80_percent_power(n: int, comparisons: int) -> None:
    found = power.smallest_effect(n, comparisons)
    assert found is not None
    assert found.bound
    assert 0.765 <= shown(n, comparisons, found.size) <= 0.86
    assert shown(n, comparisons, 0.7 * found.size) < 0.7


@pytest.mark.parametrize("comparisons", [2, 3])
def test_where_bonferroni_allows_no_pattern_more_than_it_is_needed(comparisons: int) -> None:
    found = power.smallest_effect(6, comparisons)
    assert found is not None
    assert not found.bound
    assert shown(6, comparisons, found.size) < 0.75
    assert shown(6, comparisons, 2 * found.size) > 0.9


@pytest.mark.parametrize("n", [20, 40, 100])
def test_with_many_seeds_it_is_the_t_tests(n: int) -> None:
    found = power.smallest_effect(n, 2)
    assert found is not None
    critical = stats.t.ppf(1 - 0.05 / 4, n - 1)
    assert stats.nct.sf(critical, n - 1, found.size * math.sqrt(n)) == pytest.approx(0.8, abs=2e-3)


def test_more_seeds_show_less_and_more_comparisons_need_more() -> None:
    def size(*given: int) -> float:
        found = power.smallest_effect(*given)
        assert found is not None
        return found.size

    sizes = [size(n) for n in range(8, 40)]
    assert sizes == sorted(sizes, reverse=True)
    assert size(12, 1) < size(12, 2) < size(12, 3)
    assert size(12, 1, 1) < size(12, 1, 2)
    assert size(12, 3, 1) == size(12, 1, 3)


@pytest.mark.parametrize(("looks", "fewest"), [(1, 6), (2, 7), (3, 7), (4, 8)])
def test_the_fewest_seeds_are_those_of_a_unanimous_sign_test(looks: int, fewest: int) -> None:
    assert power.fewest_seeds(looks) == fewest
    for n in (fewest - 1, fewest):
        exact = looks * stats.binomtest(n, n).pvalue
        assert power.least_p(n, looks) == pytest.approx(exact)
        assert (exact <= 0.05) == (n >= fewest)
        assert (power.smallest_effect(n, 1, looks) is None) == (n < fewest)


# -- the spread of past runs -----------------------------------------------------------------------


def past(
    optimizer: str, seed: int, value: float | None, *, sweep: str = "s", model: str = "m",
    dataset: str = "d", epochs: int = 8, state: str = "done", variant: str = "v",
) -> PastRun:  # fmt: skip
    names = {"optimizer": optimizer, "model": model, "dataset": dataset}
    config = {"names": names, "seed": seed, "sweep": sweep, "variant": f"{optimizer}{variant}",
              "trainer": {"epochs": epochs}}  # fmt: skip
    summary = {"test/loss": value} if value is not None else {}
    return PastRun(
        f"{sweep}{model}{optimizer}{seed}{epochs}", config, {"state": state}, summary, {}
    )


def spread(runs: list[PastRun], **asked: str | int) -> power.Spread | None:
    where = {"dataset": "d", "model": "m", "epochs": 8} | asked
    return power.paired_spread(
        runs, "test/loss", dataset=str(where["dataset"]), model=str(where["model"]),
        epochs=int(where["epochs"]),
    )  # fmt: skip


def two(values: list[float], other: list[float], **more: str | int) -> list[PastRun]:
    made = [past("a", seed, value, **more) for seed, value in enumerate(values)]  # type: ignore[arg-type]
    return made + [past("b", seed, v, **more) for seed, v in enumerate(other)]  # type: ignore[arg-type]


def test_a_spread_is_that_of_differences_paired_by_seed() -> None:
    values, other = [1.0, 2.0, 4.0, 3.0], [1.0, 1.5, 3.0, 3.5]
    found = spread(two(values, other))
    assert found is not None
    exact = np.var(np.subtract(values, other), ddof=1) * 3 / stats.chi2.median(3)
    assert found.deviation == pytest.approx(math.sqrt(exact))
    assert (found.pairs, found.source) == (1, "m on d, 8 epochs")


def test_the_most_alike_runs_count() -> None:
    near, length = two([0, 1, 0], [1, 1, 3]), two([0, 9, 0], [1, 1, 3], epochs=4)
    model = two([0, 99, 0], [1, 1, 3], model="n")
    everywhere = [*near, *length, *model]
    sources = []
    for runs in (everywhere, length + model, model):
        found = spread(runs)
        assert found is not None
        sources.append(found.source)
        assert found.pairs == 1
    assert sources == ["m on d, 8 epochs", "m on d, other lengths", "d, other models"]
    assert spread(everywhere, dataset="e") is None


@pytest.mark.parametrize(
    "other",
    [
        [past("b", seed, 1.0 * seed**2, sweep="t") for seed in range(4)],  # of another sweep
        [past("b", seed, 1.0 * seed**2) for seed in range(2)],  # too few in common
        [past("b", seed + 9, 1.0 * seed**2) for seed in range(4)],  # other seeds
        [past("b", seed + 1000, 1.0 * seed**2) for seed in range(4)],  # tuning
        [past("b", seed, 1.0 * seed**2, state="diverged") for seed in range(4)],
        [past("b", seed, None) for seed in range(4)],
        [past("b", seed, math.inf) for seed in range(4)],
        [past("a", seed, 1.0 * seed**2, variant="w") for seed in range(4)],  # the same optimizer
    ],
)
def test_what_is_no_pair(other: list[PastRun]) -> None:
    assert spread([past("a", seed, 1.0 * seed) for seed in range(4)] + other) is None


def test_of_many_pairs_of_few_seeds_the_typical_spread_is_not_biased() -> None:
    draw = np.random.default_rng(0)
    runs = [
        past(optimizer, seed, float(value), sweep=str(sweep))
        for sweep in range(300)
        for optimizer in "ab"
        for seed, value in enumerate(draw.normal(scale=0.1, size=3))
    ]
    found = spread(runs)
    assert found is not None
    assert found.pairs == 300
    assert found.deviation == pytest.approx(0.1 * math.sqrt(2), rel=0.1)
