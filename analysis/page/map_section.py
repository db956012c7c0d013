"""A map of settings as words, tables and a figure: results first, then what explains them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figure.lines import Series, chart
from analysis.figure.seeds import unit_of
from analysis.page.budget import NOTHING, RED, Place
from analysis.page.maps import OWN, Map, Setting, build
from analysis.page.spectra import Likeness, likeness, spectra
from analysis.page.study import Output, Study
from analysis.stats import mean, t_quantile
from analysis.table.model import in_percent, order, text

Alike = Mapping[int, Likeness]  # by the place of a setting in its map
_RADII = (2.0, 5.0)  # of the dots of the least and the largest value along a line
_SHOWN = """{metric}{unit}: mean over seeds at the best of the learning rates tried ({rates}), which
the mean {chosen_by} chose; that rate, and finished/expected seeds. ↓ ↑: the least or largest of
them ({ends} of {settings} settings), so that a better one may lie beyond{few}. {device}.
{red} **Untuned, and nothing is tested**: a difference may be one of how well these few rates suit a
setting.{spread}
"""
_WORDS = """#### Measured spectra

T(sigma) = sigma / (sigma^alpha + d) has the local slope
d ln T / d ln sigma = 1 - alpha sigma^alpha / (sigma^alpha + d). A slope of 1 keeps the ratios
between singular values, which is a multiple of SGD's step (with the same momentum); 0 makes them
all equal, which is Muon's; below 0 small singular values come out larger than large ones, as in a
pseudo-inverse. A mean near 0 of slopes far apart is not Muon: cosines tell.

Measured on the runs shown above, at epoch {epochs}: the singular values of the gradient in {layers}
hidden matrices, at most {directions} a layer, normalised as the optimizer does. Mean slope over
layers and directions [10 %, 90 % of them]:
"""
_COSINES = """Cosine of T(sigma) with sigma (SGD) / with ones (Muon), the mean over layers. Singular
values are not negative, so no cosine is small: sigma's own with ones is {between} here.
"""
_LEFT_OUT = """- Only the largest singular values of a layer are measured{share}. The slope falls
  with sigma, so directions that are left out have slopes nearer to 1 than those measured: over all
  of them a step is more like SGD's than these tables say.
- One gradient, at one moment and in evaluation mode, stands for what the optimizer transforms:
  momentum, an average over about 1 / (1 - momentum) batches in which noise is smaller. Where sigma
  is not normalised, a smaller one has a slope nearer to 1.
"""


def sections(study: Study, places: Mapping[Place, tuple[str, ...]], out: Output) -> Iterator[str]:
    """Yield the Markdown of each map of a study.

    Args:
        study: whose report runs they are.
        places: of `analysis.page.maps.axes_of`.
        out: gets the figures, and which setting is best.
    """
    done = bool((study.runs["state"] == "done").any())
    measured = spectra(study.measured) if done else pd.DataFrame({"run": []})
    for place, axes in places.items():
        found = build(study.runs, place, axes)
        alike: dict[int, Likeness] = {}
        for index, one in enumerate(found.settings):
            like = likeness(measured, one.cell.run_ids, one.run)
            alike |= {index: like} if like else {}
        names = ", ".join(_short(name) for name in axes)
        parts = [f"### {found.model} / {found.dataset}: {found.optimizer} by {names}\n"]
        parts += [_answer(found, alike), table(found, partial(_result, found))]
        out.answers += _short_answer(found, alike)
        parts += [_shown(found), *_explained(found, alike)]
        title = f"{found.model} / {found.dataset}: {found.table.metric} against the mean slope"
        if (drawn := figure(found, alike)) is not None:
            name = f"{study.name}-{found.model}-{found.dataset}-{found.optimizer}-slope.svg"
            parts.append(out.figure(name, drawn, title))
            parts.append(
                f"A line is a row of the tables; the larger a ring, the larger {_short(axes[-1])}."
                " Left of 0 is beyond Muon, 1 is SGD.\n"
            )
        yield "\n".join(part for part in parts if part)


def table(found: Map, cell: Callable[[int, Setting], str]) -> str:
    """Return a Markdown table of a map: rows are all axes but the last, which is along the columns.

    Args:
        found: the map.
        cell: the words of a setting, from its place in the map and itself.
    """
    names = [_short(name) for name in found.axes]
    along = _along(found.settings)
    extra = any(one.also for one in found.settings)
    header = [*names[:-1], *(["also"] if extra else [])]
    lines = [
        [*header, *(f"{names[-1]}={text(value)}" for value in along)],
        ["---"] * len(header) + ["---:"] * len(along),
    ]
    rows: dict[tuple[Any, ...], dict[Any, str]] = {}
    for index, one in enumerate(found.settings):
        key = (*map(text, one.values[:-1]), *([one.also] if extra else []))
        rows.setdefault(key, {})[one.values[-1]] = cell(index, one)
    lines += [
        [*key, *(cells.get(value, NOTHING) for value in along)] for key, cells in rows.items()
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _along(settings: Iterable[Setting]) -> list[Any]:
    """Return the values of the last axis, in order."""
    return sorted({one.values[-1] for one in settings}, key=order)


def _line(one: Setting) -> tuple[list[Any], str]:
    """Return what sorts the settings by their line of a figure."""
    return [order(value) for value in one.values[:-1]], one.also


def _short(axis: str) -> str:
    return axis.removeprefix(OWN)


def _result(found: Map, _: int, one: Setting) -> str:
    """Return "94.12 (lr 0.08, 2/2)", or "94.12 (lr 0.08 of 1 tried, 1/2)" where rates lack."""
    lost = [f"{one.diverged} diverged"] if one.diverged else []
    if not one.cell.n:
        return f"{NOTHING} ({', '.join(lost or ['no run finished'])})"
    number = _number(one.cell.mean, found.table.metric)
    whole, best = one.cell.n == one.cell.expected, found.best
    top = best is not None and one.cell.mean == best.cell.mean and (whole or one is best)
    words = f"**{number}**" if top else number
    end = {-1: " ↓", 0: "", 1: " ↑"}[one.end]
    few = f" of {one.tried} tried" if one.tried < len(found.rates) else ""
    rate = [f"lr {text(one.rate)}{end}{few}"] if one.rate is not None else []
    return f"{words} ({', '.join([*rate, f'{one.cell.n}/{one.cell.expected}', *lost])})"


def _number(value: float, metric: str) -> str:
    return f"{100 * value:.2f}" if in_percent(metric) else f"{value:.4f}"


def _shown(found: Map) -> str:
    """Say how the first table was made."""
    percent = in_percent(found.table.metric)
    pooled, spread = _pooled(found), ""
    if math.isfinite(pooled):
        told = f"{100 * pooled:.2f} points" if percent else f"{pooled:.4f}"
        spread = f" Seeds of one setting and rate differ by a standard deviation of {told}"
        spread += _interval(found, pooled)
    words = _SHOWN.format(
        metric=found.table.metric, unit=" in percent" if percent else "", red=RED, spread=spread,
        rates=", ".join(map(text, found.rates)) or "one", chosen_by=found.chosen_by,
        ends=sum(one.end != 0 for one in found.settings), settings=len(found.settings),
        device=f"Device: {', '.join(found.devices) or 'not recorded'}",
        few='; "of 1 tried": the others have no run yet' if _lacks_rates(found) else "",
    )  # fmt: skip
    used = [note for note in found.table.notes if "runs used" in note]
    return "\n".join([words, *(f"- {note}" for note in used)]) + "\n"


def _interval(found: Map, pooled: float) -> str:
    """Return the rest of that sentence: ": the 95 % interval of a mean of 2 ± 0.22 (...)."."""
    counts = sorted({one.cell.n for one in found.settings if one.cell.n})
    freedom = sum(cell.n - 1 for row in found.table.cells for cell in row if cell.n > 1)
    scale, digits = (100.0, 2) if in_percent(found.table.metric) else (1.0, 4)
    half = scale * t_quantile(freedom) * pooled
    told = [f"of {count} ± {half / math.sqrt(count):.{digits}f}" for count in counts]
    return f": the 95 % interval of a mean {', '.join(told)} ({freedom} degrees of freedom)."


def _lacks_rates(found: Map) -> bool:
    """Return whether a setting that is shown was not run with every rate."""
    return any(one.cell.n and one.tried < len(found.rates) for one in found.settings)


def _pooled(found: Map) -> float:
    """Return the standard deviation of seeds, pooled over settings and rates; NaN where unknown."""
    spreads = [c.std for row in found.table.cells for c in row if c.n > 1 and math.isfinite(c.std)]
    return math.sqrt(mean([one**2 for one in spreads])) if spreads else math.nan


def _resolved(found: Map, best: Setting) -> str:
    """Say how many other means two standard errors of a difference do not tell from the best."""
    near, others = _near(found, best)
    return f"; {near} of the {others} others lie within two standard errors of it" if others else ""


def _near(found: Map, best: Setting) -> tuple[int, int]:
    """Return how many others those are, and of how many; of none where the spread is unknown."""
    pooled = _pooled(found)
    others = [one.cell for one in found.settings if one is not best and one.cell.n]
    if not math.isfinite(pooled):
        return 0, 0
    near = sum(
        abs(one.mean - best.cell.mean) <= 2 * pooled * math.sqrt(1 / one.n + 1 / best.cell.n)
        for one in others
    )
    return near, len(others)


def _short_answer(found: Map, alike: Alike) -> list[str]:
    """Return which settings are like SGD and Muon, and whether one is best, in few words."""
    if found.best is None:
        return []
    told = []
    if len(alike) > 1:
        sgd, muon = (f"`{_named(found, found.settings[i])}`" for i in _likest(alike))
        told.append(f"most like SGD {sgd}, most like Muon {muon}")
    near, others = _near(found, found.best)
    if others and near == others:
        told.append(f"untuned, no setting stands out of {others + 1}")
    else:
        apart = f", with {near} of the {others} others near it" if others else ""
        told.append(f"untuned, the best mean is that of `{_named(found, found.best)}`{apart}")
    return told


def _likest(alike: Alike) -> tuple[int, int]:
    """Return the places of the settings most like SGD and most like Muon, by their cosines."""
    return (
        max(alike, key=lambda i: (alike[i].to_sgd, -i)),
        max(alike, key=lambda i: (alike[i].to_muon, -i)),
    )


def _named(found: Map, one: Setting) -> str:
    """Return a setting's values by name."""
    pairs = zip(found.axes, one.values, strict=True)
    names = ", ".join(f"{_short(name)}={text(value)}" for name, value in pairs)
    return f"{names} {one.also}" if one.also else names


def _answer(found: Map, alike: Alike) -> str:
    """Return which settings are most like SGD and Muon, by their cosines, and which is best."""
    best = next((i for i, one in enumerate(found.settings) if one is found.best), None)
    if best is None or len(alike) < 2:
        return ""
    sgd, muon = _likest(alike)
    inverse = min(alike, key=lambda i: (alike[i].slope, i))
    unit = " %" if in_percent(found.table.metric) else ""

    def told(index: int) -> str:
        one = found.settings[index]
        slope = f"slope {alike[index].slope:+.2f}, " if index in alike else ""
        return f"`{_named(found, one)}` ({slope}{_number(one.cell.mean, found.table.metric)}{unit})"

    beyond = alike[inverse].slope < 0 and inverse != muon
    return (
        f"Measured spectra make {told(sgd)} the most like SGD and {told(muon)} the most like Muon"
        + (f"; the farthest beyond Muon is {told(inverse)}" if beyond else "")
        + f". Of these means, the best is that of {told(best)}"
        + f"{_resolved(found, found.settings[best])}.\n"
    )


def _explained(found: Map, alike: Alike) -> list[str]:
    """Return the slopes and cosines of a map, and what they leave out."""
    if not alike:
        return []
    known = list(alike.values())
    epochs = sorted({epoch for one in known for epoch in one.epochs})
    words = _WORDS.format(
        epochs=" or ".join(f"{epoch:g}" for epoch in epochs),
        layers=max(one.layers for one in known),
        directions=max(one.directions for one in known),
    )
    shares = [one.share for one in known if math.isfinite(one.share)]
    share = ""
    if shares:
        share = f", {_range(shares, 100, 0)} % of its ||G||^2 in the mean"

    def slope(index: int, _: Setting) -> str:
        one = alike.get(index)
        return f"{one.slope:+.2f} [{one.low:+.2f}, {one.high:+.2f}]" if one else NOTHING

    def cosines(index: int, _: Setting) -> str:
        one = alike.get(index)
        return f"{one.to_sgd:.2f} / {one.to_muon:.2f}" if one else NOTHING

    between = [one.between for one in known]
    return [
        words, table(found, slope), _COSINES.format(between=_range(between, 1, 2)),
        table(found, cosines), _LEFT_OUT.format(share=share),
    ]  # fmt: skip


def _range(values: Sequence[float], scale: float, digits: int) -> str:
    """Return "0.69 to 0.74", or one number where both ends read alike."""
    low, high = (f"{scale * end:.{digits}f}" for end in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def figure(found: Map, alike: Alike) -> Figure | None:
    """Return the result of each setting against its mean slope; None where too few are known."""
    metric = found.table.metric
    scale = 100.0 if in_percent(metric) else 1.0
    known = [(i, one) for i, one in enumerate(found.settings) if i in alike and one.cell.n]
    known.sort(key=lambda pair: _line(pair[1]))  # several may differ in what is no axis
    along = _along(one for _, one in known)
    lines = []
    rows = groupby(known, key=lambda pair: (pair[1].values[:-1], pair[1].also))
    for place, ((values, also), pairs) in enumerate(rows):
        members = list(pairs)
        middle = np.array([scale * one.cell.mean for _, one in members])
        at = np.array([alike[i].slope for i, _ in members])
        rank = [along.index(one.values[-1]) / max(len(along) - 1, 1) for _, one in members]
        rings = np.array([_RADII[0] + (_RADII[1] - _RADII[0]) * one for one in rank])
        names = [f"{_short(n)}={text(v)}" for n, v in zip(found.axes[:-1], values, strict=True)]
        label = " ".join([*names, *([also] if also else [])])
        lines.append(Series(label, place, at, middle, middle, middle, rings=rings))
    seeds = sorted({one.cell.n for _, one in known})
    count = " or ".join(map(str, seeds)) + f" seed{'s' * (seeds != [1])}"
    return chart(
        lines, title=f"{found.model} on {found.dataset}, {found.optimizer}",
        detail=f"{metric} against the mean slope; {count}", y_label=unit_of(metric), whole=True,
        x_label="mean slope d ln T / d ln sigma",
    )  # fmt: skip
