"""Where a run's numbers come from: code, versions and device of one attempt."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_object

_PACKAGES = ("torch", "torchvision", "numpy", "scipy", "hydra-core", "omegaconf", "wandb")


def collect(optimizer_target: str, device: torch.device, precision: str) -> dict[str, Any]:
    """Describe this attempt; every value is JSON-able.

    Args:
        optimizer_target: the optimizer's ``_target_``; its source files are hashed.
        device: the device in use.
        precision: the precision in use ("float32" or "bf16"), after "auto" was decided.
    """
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": git_state(Path(__file__).resolve().parent.parent),
        "optimizer_source": source_digest(optimizer_target),
        "versions": {"python": platform.python_version(), **_versions()},
        "platform": platform.platform(),
        "device": device_name(device),
        "device_type": device.type,
        "threads": torch.get_num_threads(),
        "precision": precision,
    }


def git_state(root: Path) -> dict[str, Any]:
    """Return commit, dirty flag and hash of uncommitted changes; Nones where ``root`` has no git.

    A folder somewhere inside a checkout, such as a virtual environment, is none itself.
    """
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


def source_digest(target: str) -> str | None:
    """Return a hash of the module that defines ``target`` and of its siblings; None if built in.

    Siblings count because an optimizer of ours shares its mathematics with the files beside it.
    """
    try:
        file = inspect.getsourcefile(get_object(target))
    except TypeError:
        return None
    if file is None:
        return None
    path = Path(file)
    ours = path.parent.parent == Path(__file__).resolve().parent.parent
    files = sorted(path.parent.glob("*.py")) if ours else [path]
    whole = hashlib.sha256()
    for source in files:
        whole.update(source.name.encode() + b"\0" + source.read_bytes())
    return whole.hexdigest()[:16]


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
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
