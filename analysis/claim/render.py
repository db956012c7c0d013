"""The forms of the claims report: text for people, Markdown for a page, JSON for programs."""

from __future__ import annotations

import json
import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from analysis.claim.check import Estimate, Result
from analysis.stats import Interval
from bench.table_writer import Marked, Table, write

Form = Literal["text", "markdown", "json"]
VERDICTS = ("holds", "fails", "not measured")
NOTE = (
    "[..]: 95 % interval over runs and their layers, both resampled (Clopper-Pearson for shares). "
    "?: the interval allows the other verdict too. null: the same statistic where h is a power law "
    "of sigma with noise (noise), with its residuals permuted, or another layer's (other); or "
    "where the samples are shuffled (exponent): an identity that its null obeys as well says "
    "nothing of its own."
)


def render(results: Sequence[Result], form: Form) -> str:
    """Return the report; the same results give the same text."""
    if form == "json":
        return json.dumps([as_json(result) for result in results], indent=2) + "\n"
    return _markdown(results) if form == "markdown" else _text(results)


def summary(results: Sequence[Result]) -> str:
    """Return how many claims got which verdict, in one line."""
    count: Counter[str] = Counter(result.verdict for result in results)
    open_ones = sum(r.verdict != "not measured" and not r.decided for r in results)
    plural = {"holds": "hold", "fails": "fail", "not measured": "not measured"}
    counts = ", ".join(f"{count[name]} {plural[name]}" for name in VERDICTS)
    unsure = f" ({open_ones} verdicts within their interval's reach of the other)"
    return f"{len(results)} claims: {counts}{unsure if open_ones else ''}"


def as_json(result: Result) -> dict[str, Any]:
    """Return a result as plain values; numbers that are not there are null."""
    claim = result.claim
    sides = {"ours": result.estimate, "versus": result.versus}
    return {
        "id": claim.id,
        "source": claim.source,
        "statement": claim.statement,
        "stated": claim.stated,
        "accepted": [_finite(end) for end in claim.rule.ends] if claim.rule else None,
        "verdict": result.verdict,
        "decided": result.decided if result.verdict != "not measured" else None,
        "value": _finite(result.ours),
        "interval": _ends(result.interval),
        "of": {name: _side(side) for name, side in sides.items() if side is not None},
        "nulls": {
            name: {"value": _finite(value), "interval": _ends(interval)}
            for name, (value, interval) in result.nulls.items()
        },
        "reason": result.reason or None,
    }


def _text(results: Sequence[Result]) -> str:
    blocks = [_block(result) for result in results]
    return "\n\n".join([*blocks, textwrap.fill(NOTE, 96), summary(results)]) + "\n"


def _block(result: Result) -> str:
    claim, mark = result.claim, "" if result.decided else " ?"
    facts = [("claim", f"{claim.statement} ({claim.source})"), ("stated", claim.stated)]
    if result.estimate is None:
        facts.append(("why", result.reason))
    else:
        facts.append(("ours", f"{_ours(result)}; {_basis(result)}"))
        if result.nulls:
            facts.append(("null", _nulls(result)))
        facts.append(("runs", ", ".join(_runs(result))))
    lines = [f"{claim.id}: {result.verdict.upper()}{mark}"]
    for name, fact in facts:
        lines += textwrap.wrap(
            fact, 96, initial_indent=f"  {name:<8}", subsequent_indent=" " * 10,
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
    return "\n".join(lines)


def _markdown(results: Sequence[Result]) -> str:
    rows: list[list[str | Marked]] = []
    for result in results:
        claim = result.claim
        ours = f"{_ours(result)}; {_basis(result)}" if result.estimate else result.reason
        if result.nulls:
            ours += f"; null: {_nulls(result)}"
        verdict: str | Marked = result.verdict
        if result.estimate:
            verdict = Marked(result.verdict, "" if result.decided else " ?")
        statement = f"`{claim.id}` {claim.statement} ({claim.source})"
        rows.append([statement, claim.stated, ours, verdict])
    table = Table(("claim", "stated", "ours", "verdict"), rows, align="llll", markdown=True)
    runs = [f"- `{r.claim.id}`: {', '.join(_runs(r))}" for r in results if r.estimate]
    named = ["", "Runs:", "", *runs] if runs else []
    lines = [summary(results), "", write(table, "markdown"), NOTE, *named]
    return "\n".join(lines) + "\n"


def _ours(result: Result) -> str:
    percent = result.claim.unit == "%"
    return f"{number(result.ours, percent)}{_range(result.interval, percent)}"


def _basis(result: Result) -> str:
    """Say what the value rests on."""
    assert result.claim.quantity is not None
    unit, percent = result.claim.quantity.table, result.claim.unit == "%"
    sides = [side for side in (result.estimate, result.versus) if side is not None]
    return " against ".join(_side_text(side, unit, percent, len(sides) > 1) for side in sides)


def _side_text(side: Estimate, unit: str, percent: bool, compared: bool) -> str:
    value = f"{number(side.value, percent)}, " if compared else ""
    of_runs = f" of {len(side.runs)} run{'s' * (len(side.runs) > 1)}" if unit != "runs" else ""
    unit = unit[:-1] if side.n == 1 else unit
    text = f"{value}{side.n} {unit}{of_runs} on {', '.join(side.data)}"
    if side.unreliable:
        text += f" ({side.unreliable} unreliable; without {number(side.reliable, percent)})"
    return text


def _nulls(result: Result) -> str:
    percent = result.claim.unit == "%"
    return ", ".join(
        f"{name.removeprefix('null_').removesuffix('_error')} "
        f"{number(value, percent)}{_range(interval, percent)}"
        for name, (value, interval) in result.nulls.items()
    )


def _runs(result: Result) -> list[str]:
    sides = [side for side in (result.estimate, result.versus) if side is not None]
    return sorted({run for side in sides for run in side.runs})


def number(value: float, percent: bool = False) -> str:
    """Return three significant digits, "-" for NaN."""
    if math.isnan(value):
        return "-"
    return f"{100 * value:.3g} %" if percent else f"{value:.3g}"


def _range(interval: Interval, percent: bool) -> str:
    if math.isnan(interval.low):
        return ""
    return f" [{number(interval.low, percent)}, {number(interval.high, percent)}]"


def _side(side: Estimate) -> dict[str, Any]:
    return {
        "value": _finite(side.value),
        "interval": _ends(side.interval),
        "n": side.n,
        "unreliable": side.unreliable,
        "reliable_only": _finite(side.reliable),
        "data": list(side.data),
        "runs": list(side.runs),
    }


def _ends(interval: Interval) -> list[float | None]:
    return [_finite(interval.low), _finite(interval.high)]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
