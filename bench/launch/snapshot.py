"""The code as it is at submit, copied: jobs run the copy, whatever becomes of the tree.

A snapshot is named by its content, so that launches of the same code share one. It holds this
project's packages and configs, and the user's own modules that configs name by ``_target_``; what
is installed in the environment stays where it is.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import secrets
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from bench import files
from bench.digest import PACKAGES
from bench.files import write_json
from bench.provenance import SNAPSHOT, git_state

_CONFIGS = ("conf", "sweeps")
_IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


def freeze(runs_dir: Path, targets: Iterable[str]) -> Path:
    """Return a folder with the code as it is now; ``targets`` are the runs' ``_target_``."""
    home, site = files.home(), Path(__file__).resolve().parent.parent.parent
    sources = {name: site / name for name in PACKAGES} | {name: home / name for name in _CONFIGS}
    sources |= {path.name: path for path in _own_modules(targets)}
    code = runs_dir.resolve() / ".launches" / "code"
    building = code / f".{secrets.token_hex(8)}"  # a pid may be another node's too
    for name, source in sources.items():
        _copy(source, building / name)
    final = code / _digest(building)
    git = git_state(site)
    write_json(building / SNAPSHOT, git)
    if git["commit"] is not None:
        diff = subprocess.run(
            ["git", "-C", str(site), "diff", "HEAD"], capture_output=True, check=False
        )
        (building / "code.diff").write_bytes(diff.stdout)
    try:
        building.rename(final)
    except OSError:  # another launch of the same code has it already
        shutil.rmtree(building)
    return final


def environment(code: Path) -> dict[str, str]:
    """Return the variables with which Python runs the snapshot ``code``.

    The working directory would go before everything (``python -m``), hence the safe path.
    """
    rest = os.environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(code), rest])), "PYTHONSAFEPATH": "1"}


def _own_modules(targets: Iterable[str]) -> Iterator[Path]:
    """Yield the files or packages of modules that are neither ours nor installed."""
    installed = [Path(sysconfig.get_path(key)) for key in ("purelib", "platlib", "stdlib")]
    for name in sorted({target.split(".")[0] for target in targets} - {*PACKAGES}):
        spec = importlib.util.find_spec(name)
        if spec is None:
            continue
        folders = list(spec.submodule_search_locations or ())  # a package's, with __init__ or not
        place = folders[0] if folders else spec.origin
        if place in (None, "built-in", "frozen"):
            continue
        file = Path(place).resolve()
        if not any(file.is_relative_to(root.resolve()) for root in installed):
            yield file


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=_IGNORED)
    else:
        shutil.copy2(source, target)


def _digest(root: Path) -> str:
    whole = hashlib.sha256(sys.version.encode())
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        whole.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()[:16]
