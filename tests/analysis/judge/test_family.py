from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from analysis.judge import family
from analysis.judge.family import matrix, p_values

Array = NDArray[np.float64]
grids = st.integers(2, 7).flatmap(
    lambda n: st.lists(
        st.lists(st.integers(-9, 9).map(lambda k: k / 7), min_size=n, max_size=n),
        min_size=1, max_size=4,
    )
)  # fmt: skip


def adjusted(data: Array) -> Array:
    return p_values(data).adjusted


def plain(columns: list[list[float]]) -> list[float]:
    """Return step-down max-T p by the definition, one pattern of signs after the other."""
    size = len(columns[0])
    lengths = [math.sqrt(math.fsum(v * v for v in column)) or 1.0 for column in columns]
    unit = [[v / length for v in column] for column, length in zip(columns, lengths, strict=True)]
    observed = [abs(math.fsum(column)) for column in unit]
    order = sorted(range(len(columns)), key=lambda k: -observed[k])
    p, least = [0.0] * len(columns), 0.0
    for rank, k in enumerate(order):
        reached = 0
        for signs in itertools.product((1, -1), repeat=size):
            sums = [abs(math.fsum(s * v for s, v in zip(signs, unit[j], strict=True)))
                    for j in order[rank:]]  # fmt: skip
            reached += max(sums) >= observed[k] - 1e-9
        least = max(least, reached / 2**size)
        p[k] = least
    return p


@given(grids)
@settings(max_examples=60, deadline=None)
def test_against_the_definition(columns: list[list[float]]) -> None:
    assert adjusted(np.array(columns).T) == pytest.approx(plain(columns), abs=1e-12)


@given(st.integers(3, 9), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_one_comparison_against_scipy(n: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(0.5, size=n)
    test = scipy_stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=math.inf
    )
    p = p_values(values[:, None])
    assert p.alone[0] == p.adjusted[0] == pytest.approx(test.pvalue, abs=1e-12)


@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6))
@settings(max_examples=30, deadline=None)
def test_labels_order_scale_and_direction_change_nothing(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    data = rng.normal(0.4, size=(8, 5))
    p = adjusted(data)
    seeds, columns = rng.permutation(8), rng.permutation(5)
    assert adjusted(data[seeds][:, columns]) == pytest.approx(p[columns], abs=1e-12)
    assert adjusted(-scale * data) == pytest.approx(p, abs=1e-12)
    signs = rng.choice([-1.0, 1.0], 5)  # each comparison turned round by itself
    assert adjusted(data * signs) == pytest.approx(p, abs=1e-12)


@given(
    st.integers(2, 12), st.integers(1, 6), st.floats(-2, 2), st.integers(0, 2**32 - 1),
    st.sampled_from(["normal", "ties", "lognormal"]),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_a_further_seed_at_the_mean_never_raises_a_p(
    n: int, k: int, effect: float, seed: int, kind: str
) -> None:
    rng = np.random.default_rng(seed)
    data = rng.normal(effect, size=(n, k))
    if kind == "ties":
        data = np.round(data, 1)
    if kind == "lognormal":
        data = rng.lognormal(size=(n, k)) - rng.lognormal(size=(n, 1))
    p = adjusted(data)
    for _ in range(2):
        data = np.vstack([data, data.mean(axis=0)])
        more = adjusted(data)
        assert np.all(more <= p + 1e-12)
        p = more


def test_few_seeds_have_a_least_p() -> None:
    for n in (2, 5, 6, 10):
        clear = np.random.default_rng(n).uniform(1, 2, (n, 3))
        assert adjusted(clear) == pytest.approx([family.least_p(n)] * 3)
    assert family.least_p(5) > 0.05 > family.least_p(6)
    assert adjusted(np.ones((40, 1)))[0] == family.least_p(40) == 1 / 20_001


def test_missing_pairs_equal_differences_and_nothing_at_all() -> None:
    data = matrix([{0: 1.0, 1: 1.0, 2: 1.0}, {2: 0.3}, {}, {0: 0.0, 1: 0.0}, {1: 2.0, 2: 1.0}])
    p = p_values(data)
    assert p.alone == pytest.approx([0.25, math.nan, math.nan, 1.0, 0.5], nan_ok=True)
    assert p.adjusted[0] == 0.25
    assert np.isnan(p.adjusted[1:3]).all()
    assert adjusted(np.zeros((0, 0))).shape == (0,)
    assert adjusted(np.array([[1e-200], [2e-200], [1.5e-200]]))[0] == 0.25
    with pytest.raises(ValueError, match="not finite"):
        adjusted(np.array([[math.inf], [1.0]]))


def test_drawn_patterns_agree_with_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.random.default_rng(3).normal(0.5, size=(12, 4))
    exact = p_values(data)
    monkeypatch.setattr(family, "EXACT", 5)
    drawn = p_values(data)
    assert drawn.adjusted == pytest.approx(exact.adjusted, abs=0.01)
    assert drawn.alone == pytest.approx(exact.alone, abs=0.01)
    assert np.array_equal(adjusted(data), adjusted(data))
