"""Is it better? Paired tests over seeds, corrected for the number of comparisons, and a verdict.

Every comparison is over differences paired by seed: method minus baseline, one number a seed.

Five seeds allow no exact test: of 2^5 sign patterns two are as extreme as the most extreme one, so
p >= 1/16. Student's test there trusts the spread of five numbers, which among many comparisons is
sometimes small by luck alone (coarse accuracies, two groups of seeds); so a spread counts as at
least half of the typical one beside it (the idea of SAM's s0, Tusher, Tibshirani and Chu 2001).
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from analysis.stats import Interval, Numbers, check_level, finite, mean, sample_std, t_interval

Test = Literal["auto", "t", "sign_flip", "wilcoxon"]
Verdict = Literal["better", "worse", "not shown"]

_EXACT = 20  # 2^20 sign patterns take milliseconds
_FLIPS = 99_999
_MOST_SEEDS = 10_000
_FLOOR = 0.5  # of the typical spread; docs/tables.md has what it changes


@dataclass(frozen=True)
class Comparison:
    """One method against the baseline: ``difference`` is the mean over ``n`` paired seeds.

    ``interval`` is Student's at 1 - level and not corrected; ``p`` is the test's own,
    ``adjusted_p`` Holm's over the whole table, times the looks, and ``verdict`` follows from it.
    """

    difference: float
    interval: Interval
    n: int
    test: str
    p: float
    adjusted_p: float
    verdict: Verdict


def compare(
    differences: Sequence[Numbers],
    *,
    problems: Sequence[Hashable] | None = None,
    higher_is_better: bool = True,
    level: float = 0.05,
    test: Test = "auto",
    looks: int = 1,
    floors: Sequence[float] | None = None,
) -> list[Comparison]:
    """Compare every method of one table with the baseline.

    Args:
        differences: for each method its differences [n_i] by seed; one or none gives no test.
        problems: of which problem (dataset, model) each is; only the spreads of one problem are
            alike. None: all are of one.
        higher_is_better: the direction of the metric.
        level: the probability of any false verdict in the table.
        test: "sign_flip" (exact permutation of signs), "wilcoxon" (the same on signed ranks), "t"
            (paired Student, of a spread of at least half the median spread of the problem's
            methods), or "auto": sign_flip where n seeds can reach the corrected level at
            all (2 / 2^n <= level / (looks comparisons)), t where they cannot, as 5 seeds never do.
        looks: how often the results of fewer seeds were looked at, this time counted: who adds
            seeds until a difference shows finds one more often than ``level``. Bonferroni's bound:
            p is multiplied by it.
        floors: the least spread that is believed of each method (`floor`), where there are others
            beside it than those compared here; None: by ``problems``.

    Raises:
        ValueError: a difference that is not finite, a level outside (0, 1), or no look.
    """
    check_level(level)
    if looks < 1:
        raise ValueError(f"looks={looks}: this one counts; it is at least 1")
    tested = looks * sum(len(values) > 1 for values in differences)
    names = [choose_test(len(values), tested, level, test) for values in differences]
    floors = floors or _floors(differences, problems or [None] * len(differences))
    found = [
        p_value(values, name, floor) if len(values) > 1 else math.nan
        for values, name, floor in zip(differences, names, floors, strict=True)
    ]
    adjusted = [p if math.isnan(p) else min(1.0, looks * p) for p in holm(found)]
    sign = 1 if higher_is_better else -1
    comparisons = []
    for values, name, p, corrected in zip(differences, names, found, adjusted, strict=True):
        centre = mean(values) if len(values) else math.nan
        shown = corrected <= level and centre != 0
        verdict: Verdict = "not shown"
        if shown:
            verdict = "better" if sign * centre > 0 else "worse"
        span = t_interval(values, 1 - level) if len(values) else Interval(math.nan, math.nan)
        comparisons.append(Comparison(centre, span, len(values), name, p, corrected, verdict))
    return comparisons


def choose_test(n: int, comparisons: int, level: float, test: Test) -> str:
    """Return the test to use for ``n`` seeds; it depends on counts alone, never on the data."""
    if test != "auto":
        return test
    return "sign_flip" if n >= seeds_for_exact(comparisons, level) else "t"


def seeds_for_exact(comparisons: int, level: float) -> int:
    """Return the fewest seeds whose smallest sign-flip p, 2 / 2^n, can pass Holm's correction."""
    return max(2, math.ceil(1 + math.log2(max(comparisons, 1) / level)))


def _floors(differences: Sequence[Numbers], problems: Sequence[Hashable]) -> list[float]:
    """Return, for each method, the least spread that its problem makes believable."""
    spreads: dict[Hashable, list[float]] = defaultdict(list)
    for values, problem in zip(differences, problems, strict=True):
        if len(values) > 1:
            spreads[problem].append(sample_std(values))
    floors = {problem: floor(found) for problem, found in spreads.items()}
    return [floors.get(problem, 0.0) for problem in problems]


def floor(spreads: Sequence[float]) -> float:
    """Return the least spread that those of the methods beside it make believable."""
    return _FLOOR * statistics.median(spreads) if spreads else 0.0


def p_value(differences: Numbers, test: str, floor: float = 0.0) -> float:
    """Return the two-sided p of ``differences`` [n] having no direction, n >= 2.

    ``floor`` is that of `paired_t_p`; the other tests need none.
    """
    if test == "t":
        return paired_t_p(differences, floor)
    return wilcoxon_p(differences) if test == "wilcoxon" else sign_flip_p(differences)


def paired_t_p(differences: Numbers, floor: float = 0.0) -> float:
    """Return the two-sided p of Student's paired test, n >= 2; a spread counts ``floor`` at least.

    Differences that are all the same (coarse accuracies, few seeds) have no variance to judge by:
    they get the sign-flip test's p, not 0.
    """
    values = finite(differences)
    if np.allclose(values, values[0], rtol=1e-9, atol=1e-12):  # the same but for rounding
        return sign_flip_p(values)
    spread = max(sample_std(values), floor)
    statistic = mean(values) / (spread / math.sqrt(len(values)))
    return float(2 * special.stdtr(len(values) - 1, -abs(statistic)))


def sign_flip_p(differences: Numbers, *, seed: int = 0) -> float:
    """Return the two-sided p of the sign-flip permutation test of the mean.

    Exact over all 2^n sign patterns up to n = 20, so never below 2 / 2^n; 99,999 seeded patterns
    beyond.
    """
    values = np.sort(np.abs(finite(differences)))
    observed = abs(math.fsum(finite(differences)))
    if observed == 0:
        return 1.0
    threshold = observed - 1e-9 * float(values.sum())  # equal sums may differ in the last bits
    if len(values) <= _EXACT:
        sums = np.zeros(1)
        for value in values:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.mean(np.abs(sums) >= threshold))
    signs = np.random.default_rng(seed).integers(0, 2, (_FLIPS, len(values))) * 2 - 1
    return float((1 + np.sum(np.abs(signs @ values) >= threshold)) / (1 + _FLIPS))


def wilcoxon_p(differences: Numbers, *, seed: int = 0) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test; zeros dropped, ties at mean ranks.

    Exact also with ties: it is the sign-flip test of the signed ranks.
    """
    values = finite(differences)
    values = values[values != 0]
    if len(values) == 0:
        return 1.0
    return sign_flip_p(np.sign(values) * _ranks(np.abs(values)), seed=seed)


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ranks from 1, tied values sharing the mean of theirs."""
    ordered = np.sort(values)
    first = np.searchsorted(ordered, values, side="left")
    last = np.searchsorted(ordered, values, side="right")
    return (first + last + 1) / 2


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p values (1979), in the order given; NaN is no test and stays."""
    order = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    adjusted, reached = [math.nan] * len(p_values), 0.0
    for rank, (p, index) in enumerate(order):
        reached = max(reached, min(1.0, (len(order) - rank) * p))
        adjusted[index] = reached
    return adjusted


def seeds_needed(std: float, difference: float, *, level: float = 0.05, power: float = 0.8) -> int:
    """Return the fewest seeds with which a paired t-test resolves a difference.

    Args:
        std: standard deviation of the paired differences.
        difference: the true difference to be shown, in the metric's unit; not 0.
        level: of the two-sided test; divide by the number of comparisons for a whole table.
        power: probability of showing it.

    Raises:
        ValueError: a difference of 0, or more than 10,000 seeds.
    """
    check_level(level)
    check_level(power)
    if difference == 0 or not math.isfinite(difference) or not math.isfinite(std):
        raise ValueError(f"cannot resolve a difference of {difference} at a std of {std}")
    low, high = 2, _MOST_SEEDS
    if _power(high, std, difference, level) < power:
        raise ValueError(f"a difference of {difference} needs more than {_MOST_SEEDS} seeds")
    while low < high:
        middle = (low + high) // 2
        if _power(middle, std, difference, level) >= power:
            high = middle
        else:
            low = middle + 1
    return low


def _power(n: int, std: float, difference: float, level: float) -> float:
    """Return the power of the two-sided paired t-test (noncentral t)."""
    if std == 0:
        return 1.0
    critical = float(special.stdtrit(n - 1, 1 - level / 2))
    shift = math.sqrt(n) * abs(difference) / std
    if shift > critical + 10 and n > 10:  # where scipy's noncentral t gives no number
        return 1.0
    tails = special.nctdtr(n - 1, shift, np.array([critical, -critical]))
    return float(1 - tails[0] + np.nan_to_num(tails[1]))
