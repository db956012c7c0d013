"""Is it better? Paired tests over seeds, corrected for the number of comparisons, and a verdict.

Rows of a table against its baseline, over differences paired by seed: method minus baseline, one
number a seed.

Five seeds allow no exact test: of 2^5 sign patterns two are as extreme as the most extreme one, so
p >= 1/16. Student's test there trusts the spread of five numbers, which among many comparisons is
sometimes small by luck alone (coarse accuracies, two groups of seeds); so a spread counts as at
least half of the typical one beside it (the idea of SAM's s0, Tusher, Tibshirani and Chu 2001).
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
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
_FLOOR = 0.5  # of the typical spread; docs/comparing.md has what it changes


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
        problems: of which problem (dataset, model) each is; only the spreads of one problem
            are comparable. None: all are of one.
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


# One cell: seed -> number, None for a run that diverged.
Seeds = Mapping[int, float | None]
Result = tuple[Comparison | None, int | None]


def against_baseline(
    labels: Sequence[str],
    numbers: Sequence[Sequence[Seeds]],
    *,
    baseline: str | None,
    direction: int,
    level: float,
    test: Test,
    looks: int,
    resolve: float | None,
    metric: str,
) -> tuple[list[list[Result]], list[str]]:
    """Compare every row with the baseline in every column; return results and notes.

    A row that diverged on a seed on which the baseline did not is never "better": the pairs that
    are left are its lucky ones. The reverse holds for "worse".

    Args:
        labels: one a row.
        numbers: ``numbers[row][column]``: the cell's numbers by seed.
        baseline: a row's label; None where only seeds to resolve are asked, against the first row.
        direction: 1 where larger is better, -1 where smaller is.
        level: of any false verdict.
        test: see `analysis.table.comparisons.compare`.
        looks: see there.
        resolve: a difference in the metric's unit, whose seeds are asked for, or None.
        metric: its name, for messages.

    Raises:
        ValueError: no such row, or a metric without a direction.
    """
    if baseline is None:
        raise ValueError("resolve= needs a baseline to differ from: add baseline=<row>")
    if baseline not in labels:
        close = get_close_matches(baseline, labels, n=1)
        near = [label for label in labels if label.startswith(f"{baseline} ")] or labels
        more = ", ..." if len(near) > 5 else ""
        hint = f"rows here: {', '.join(near[:5])}{more}"
        hint = f"the nearest is {close[0]!r}" if close else hint
        raise ValueError(f"no row {baseline!r} to be the baseline; {hint}")
    if direction == 0:
        raise ValueError(f"{metric}: say which way is better with better=higher or better=lower")
    base = numbers[labels.index(baseline)]
    others = [
        (i, j) for i, label in enumerate(labels) if label != baseline for j in range(len(base))
    ]
    pairs = [paired(numbers[i][j], base[j]) for i, j in others]
    found = compare(
        pairs, problems=[j for _, j in others], higher_is_better=direction > 0, level=level,
        test=test, looks=looks,
    )  # fmt: skip
    results: list[list[Result]] = [[(None, None) for _ in base] for _ in labels]
    for (i, j), differences, one in zip(others, pairs, found, strict=True):
        results[i][j] = (guarded(one, numbers[i][j], base[j]), _needed(differences, resolve))
    notes = _notes(found, baseline, level, resolve, looks=looks, metric=metric)
    return results, notes


def paired(row: Seeds, base: Seeds) -> list[float]:
    """Return the differences row - base over the seeds that both finished, by seed."""
    pairs = [(row.get(seed), base.get(seed)) for seed in sorted(row.keys() & base.keys())]
    return [a - b for a, b in pairs if a is not None and b is not None]


def guarded(comparison: Comparison, row: Seeds, base: Seeds) -> Comparison:
    """Take back a verdict that rests on the seeds that did not diverge."""
    lost = any(number is None and base.get(seed) is not None for seed, number in row.items())
    base_lost = any(number is None and row.get(seed) is not None for seed, number in base.items())
    flattered = (lost and comparison.verdict == "better") or (
        base_lost and comparison.verdict == "worse"
    )
    return replace(comparison, verdict="not shown") if flattered else comparison


def _needed(differences: Sequence[float], resolve: float | None) -> int | None:
    if resolve is None or len(differences) < 2:
        return None
    try:
        return seeds_needed(sample_std(differences), resolve)
    except ValueError:  # more than anyone can train
        return None


def _notes(
    found: Sequence[Comparison],
    baseline: str,
    level: float,
    resolve: float | None,
    *,
    looks: int,
    metric: str,
) -> list[str]:
    first, *notes = how(found, level, looks)
    notes.insert(0, f"vs {baseline}: {first}")
    if resolve is not None:
        notes.append(
            f"seeds: how many would show a difference of {resolve:g} in {metric} (80 % power,"
            " alone, with the spread seen here)."
        )
    return notes


def how(found: Sequence[Comparison], level: float, looks: int) -> list[str]:
    """Return notes on how comparisons, corrected together, were made: a first one, and more."""
    tested = [one for one in found if one.n > 1]
    names = {"t": "paired t-test", "sign_flip": "sign-flip test", "wilcoxon": "Wilcoxon's test"}
    count = f"{len(tested)} comparison{'' if len(tested) == 1 else 's'}"
    used = " or ".join(sorted({names[one.test] for one in tested})) or "no test"
    looked = f" and {looks} looks (seeds were added to results that had been seen)"
    corrected = f"{count}{looked if looks > 1 else ''}"
    notes = [
        f"mean difference paired by seed [{100 * (1 - level):g} % interval]; verdict"
        f" by {used}, Holm-corrected over {corrected} at {level:g};"
        " not shown: no evidence of a difference, which is not evidence of none."
    ]
    if "sign_flip" in {one.test for one in tested}:
        seeds = min(one.n for one in tested if one.test == "sign_flip")
        least = looks * len(tested) * 2.0 ** (1 - seeds)
        notes.append(
            f"The sign-flip test trusts no shape; with {seeds} seeds its least corrected p is"
            f" {min(least, 1.0):.3g}, when every seed says the same."
        )
    if "t" in {one.test for one in tested}:
        notes.append(
            "The t-test trusts that differences between seeds are near normal; the exact"
            f" sign-flip test of {corrected.partition(' (')[0]} needs"
            f" {seeds_for_exact(looks * len(tested), level)} seeds."
        )
    return notes
