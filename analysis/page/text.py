"""Text for people: the templates of this folder, filled with numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from typing import Any

import jinja2

from analysis.table.model import text as typed


def render(template: str, **values: Any) -> str:
    """Return a template with its values; what it lacks is an error, and HTML is escaped."""
    return _environment().get_template(template).render(values)


def phrase(template: str, macro: str, *values: Any) -> str:
    """Return what a macro of a template says of ``values``."""
    module = _environment().get_template(template).module
    return str(getattr(module, macro)(*values))


def listed(names: Iterable[str]) -> str:
    """Return "a, b and c"."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def number(value: float, percent: bool = False) -> str:
    """Return three significant digits, "-" for NaN."""
    if math.isnan(value):
        return "-"
    return f"{100 * value:.3g} %" if percent else f"{value:.3g}"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis.page"), undefined=jinja2.StrictUndefined,
        autoescape=lambda name: (name or "").endswith(".html.j2"), trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"listed": listed, "number": number, "typed": typed}
    environment.filters["code"] = lambda names: [f"`{name}`" for name in names]
    return environment
