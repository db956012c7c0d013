"""Find the run folder that a command is asked for, and say clearly why one will not do."""

from __future__ import annotations

import glob
import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from bench.errors import UserError


def find_run(text: str) -> Path:
    """Return the run folder that ``text``, a path or a glob pattern, names.

    Raises:
        UserError: no such folder, a pattern that matches no run or several, or not a run folder.
    """
    folder = Path(text).expanduser()
    if not folder.exists() and glob.has_magic(text):
        folder = _only_match(text)
    if not folder.is_dir():
        raise UserError(f"run={text}: no such folder{_nearest(folder)}")
    if not (folder / "config.json").is_file():
        raise UserError(f"run={text}: not a run folder (it has no config.json)")
    return folder


def require_done(folder: Path) -> None:
    """Raise UserError unless the run in ``folder`` has finished with trained weights."""
    status = _json(folder / "status.json")
    state, cause = status.get("state", "unknown"), status.get("cause")
    if state == "done":
        return
    why = f": {cause}" if cause else ""
    if state == "diverged":
        raise UserError(f"{folder}: the run diverged{why}; it has no trained weights to measure")
    raise UserError(
        f"{folder}: the run is not finished (state {state}{why}); "
        "give its training command again to finish it"
    )


def _only_match(pattern: str) -> Path:
    path = Path(pattern).expanduser()
    root = Path(path.anchor or ".")  # Path.glob takes no absolute pattern
    found = sorted(root.glob(str(path.relative_to(path.anchor) if path.anchor else path)))
    matches = [match for match in found if (match / "config.json").is_file()]
    if not matches:
        raise UserError(f"run={pattern}: the pattern matches no run folder")
    if len(matches) > 1:
        names = ", ".join(match.name for match in matches[:3])
        more = ", ..." if len(matches) > 3 else ""
        raise UserError(
            f"run={pattern}: the pattern matches {len(matches)} run folders ({names}{more}); "
            "make it match one"
        )
    return matches[0]


def _nearest(folder: Path) -> str:
    if not folder.parent.is_dir():
        return ""
    names = [entry.name for entry in folder.parent.iterdir() if entry.is_dir()]
    close = get_close_matches(folder.name, names, n=1)
    return f"; did you mean {folder.parent / close[0]}?" if close else ""


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
