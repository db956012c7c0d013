"""Where a run's numbers come from: code, versions and device of one attempt."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from packaging.utils import canonicalize_name

from bench.data.base import Data
from bench.digest import is_ours
from bench.errors import PROJECT
from bench.files import read_json
from bench.launch.pool import PACKED
from bench.public_names import locate, targets_of
from bench.setup import Setup

_ROOT = Path(__file__).resolve().parent.parent
# In a folder of code that was frozen for jobs: the git state of the tree that it was copied from.
SNAPSHOT = "snapshot.json"
_PACKAGES = ("torch", "torchvision", "numpy", "scipy", "hydra-core", "omegaconf", "wandb")


def collect(setup: Setup, data: Data) -> dict[str, Any]:
    """Describe this attempt; every value is JSON-able.

    ``optimizer_source`` has hashes of the code that the optimizer's ``_target_``s name, ``data``
    where the data come from, with a checksum: None where the config alone decides them.
    """
    git = git_state(_ROOT)
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": git,
        "optimizer_source": setup.sources["optimizer"],
        "optimizer_packages": optimizer_packages(setup.config.optimizer, git),
        "versions": {"python": platform.python_version(), **_versions()},
        "platform": platform.platform(),
        "device": device_name(setup.device),
        "device_type": setup.device.type,
        "threads": torch.get_num_threads(),
        "precision": setup.precision,
        "packed": int(os.environ.get(PACKED, "1")),
        "data": getattr(data, "origin", None),
    }


def git_state(root: Path) -> dict[str, Any]:
    """Return commit, dirty flag and hash of uncommitted changes; Nones where ``root`` has no git.

    A folder somewhere inside a checkout, such as a virtual environment, is none itself.
    """
    frozen = read_json(root / SNAPSHOT)
    if frozen is not None:
        return frozen
    top = _git(root, "rev-parse", "--show-toplevel")
    commit = _git(root, "rev-parse", "HEAD")
    if top is None or commit is None or Path(top.strip()).resolve() != root.resolve():
        return {"commit": None, "dirty": None, "diff": None}
    changes = (_git(root, "status", "--porcelain") or "") + (_git(root, "diff", "HEAD") or "")
    diff = hashlib.sha256(changes.encode()).hexdigest()[:16] if changes else None
    return {"commit": commit.strip(), "dirty": bool(changes), "diff": diff}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            errors="replace",  # a diff may hold text of any encoding
            check=False,
        )
    except OSError:  # no git on this machine
        return None
    return done.stdout if done.returncode == 0 else None


def optimizer_packages(
    component: Mapping[str, Any], git: Mapping[str, Any]
) -> dict[str, str | None]:
    """Return the versions of the packages that a config's ``_target_``s come from, by their names.

    Ours has the commit of ``git`` (:func:`git_state`) behind its version, as in
    0.1.0+1a2b3c4d5e6f, and ".dirty" with changes. A module of no installed package has None.
    """
    versions: dict[str, str | None] = {}
    for target in targets_of(component):
        for module in _modules(target):
            versions |= _package(module, git)
    return versions


def _modules(target: str) -> list[str]:
    """Return the top module of a target, and those that a class of ours is derived from but torch.

    A class of ours around another package's is as much of that package's version as of ours.
    """
    own = target.partition(".")[0]
    if not is_ours(own):
        return [own]
    bases = getattr(locate(target), "__mro__", ())
    above = {base.__module__.partition(".")[0] for base in bases}
    return [own, *sorted(above - {own, "torch", *sys.stdlib_module_names})]


def _package(module: str, git: Mapping[str, Any]) -> dict[str, str | None]:
    if is_ours(module):
        commit = f"+{git['commit'][:12]}" if git["commit"] else ""
        return {PROJECT: f"{_version(PROJECT)}{commit}{'.dirty' if git['dirty'] else ''}"}
    version = _version(module)  # a module nearly always has its package's name
    if version is not None:
        return {canonicalize_name(module): version}
    brought_by = importlib.metadata.packages_distributions().get(module)  # slow: reads them all
    return {brought_by[0]: _version(brought_by[0])} if brought_by else {module: None}


def device_name(device: torch.device) -> str:
    """Return the GPU's or the processor's model."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _versions() -> dict[str, str]:
    versions = {package: _version(package) for package in _PACKAGES}
    return {package: version for package, version in versions.items() if version is not None}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
