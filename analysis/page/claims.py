"""The forms of the claims report: text for people, Markdown for a page, JSON for programs."""

from __future__ import annotations

import json
import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from analysis.claim.check import Estimate, Result
from analysis.page.text import phrase
from analysis.stats import Interval
from bench.table_writer import Marked, Table, write

Form = Literal["text", "markdown", "json"]
_say = partial(phrase, "claims.md.j2")


def render(results: Sequence[Result], form: Form) -> str:
    """Return the report; the same results give the same text."""
    if form == "json":
        return json.dumps([as_json(result) for result in results], indent=2) + "\n"
    return _markdown(results) if form == "markdown" else _text(results)


def summary(results: Sequence[Result]) -> str:
    """Return how many claims got which verdict, in one line."""
    undecided = sum(r.estimate is not None and not r.decided for r in results)
    return _say("summary", Counter(result.verdict for result in results), undecided)


def reason(result: Result) -> str:
    """Return why there is no verdict; empty where there is one."""
    if result.missing is not None:
        return _say("missing", result.missing.what, result.missing.facts)
    return result.claim.reason or ""


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
        "reason": reason(result) or None,
    }


def _text(results: Sequence[Result]) -> str:
    blocks = [_block(result) for result in results]
    return "\n\n".join([*blocks, textwrap.fill(_say("note"), 96), summary(results)]) + "\n"


def _block(result: Result) -> str:
    claim = result.claim
    facts = {"claim": f"{claim.statement} ({claim.source})", "stated": claim.stated}
    if result.estimate is None:
        facts["why"] = reason(result)
    else:
        facts |= {"ours": _say("ours", result), "null": _say("nulls", result)}
        facts["runs"] = ", ".join(_runs(result))
    lines = [f"{claim.id}: {result.verdict.upper()}{'' if result.decided else ' ?'}"]
    for name, fact in facts.items():
        lines += textwrap.wrap(
            fact, 96, initial_indent=f"  {name:<8}", subsequent_indent=" " * 10,
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
    return "\n".join(lines)


def _markdown(results: Sequence[Result]) -> str:
    rows: list[list[str | Marked]] = []
    for result in results:
        claim, verdict = result.claim, str(result.verdict)
        statement = f"`{claim.id}` {claim.statement} ({claim.source})"
        if result.estimate is None:
            rows.append([statement, claim.stated, reason(result), verdict])
            continue
        ours = _say("ours", result) + ("; null: " if result.nulls else "") + _say("nulls", result)
        judged = Marked(verdict, "" if result.decided else " ?")
        rows.append([statement, claim.stated, ours, judged])
    table = Table(("claim", "stated", "ours", "verdict"), rows, align="llll", markdown=True)
    runs = [f"- `{r.claim.id}`: {', '.join(_runs(r))}" for r in results if r.estimate]
    named = ["", "Runs:", "", *runs] if runs else []
    lines = [summary(results), "", write(table, "markdown"), _say("note"), *named]
    return "\n".join(lines) + "\n"


def _runs(result: Result) -> list[str]:
    sides = [side for side in (result.estimate, result.versus) if side is not None]
    return sorted({run for side in sides for run in side.runs})


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
