"""Which code a run's optimizer had: a digest for each of its parts, of old runs as of new ones.

Runs up to December 2026 recorded one digest of the whole folder of their optimizer, which any
comment in any file of it changed. former_sources.json has, for those of the committed archives,
the digests of the parts at the commit that had this folder: ``{old: {"commit": ..., "parts":
{target: digest}}}``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from bench.digest import is_ours
from bench.public_names import canonical, targets_of

FORMER = Path(__file__).with_name("former_sources.json")


def source_digests(recorded: Any, optimizer: Any) -> str | None:
    """Return the digests of an optimizer's parts as JSON, ``{target: digest}``; None if unknown.

    Args:
        recorded: what the run recorded: such JSON, or one digest of the old kind. One that is not
            in former_sources.json stands for every part, as a version of its own.
        optimizer: the optimizer's config, which names the parts.
    """
    if recorded is None or str(recorded).startswith("{"):
        return None if recorded is None else str(recorded)
    targets = tuple(targets_of(dict(optimizer))) if isinstance(optimizer, Mapping) else ()
    return _of_old(str(recorded), targets or ("an optimizer",))


@cache
def _of_old(recorded: str, targets: tuple[str, ...]) -> str:
    former = _former().get(recorded, {}).get("parts", {})
    parts = [canonical(one) for one in targets if one == targets[0] or is_ours(one)]
    return json.dumps({part: former.get(part, recorded) for part in parts}, sort_keys=True)


@cache
def _former() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(FORMER.read_text(encoding="utf-8"))
    return read
