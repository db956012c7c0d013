"""Rows of a table against its baseline: differences paired by seed, and what they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches

from analysis.stats import sample_std
from analysis.table.comparisons import Comparison, Test, compare, seeds_for_exact, seeds_needed

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
        alike = [label for label in labels if label.startswith(f"{baseline} ")] or labels
        more = ", ..." if len(alike) > 5 else ""
        hint = f"rows here: {', '.join(alike[:5])}{more}"
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
