"""Where the config tree and the sweeps lie: in the checkout, or beside an installed package."""

from __future__ import annotations

from pathlib import Path

_SITE = Path(__file__).resolve().parent.parent


def home() -> Path:
    """Return the folder that holds ``conf/`` and ``sweeps/``, whatever the working directory.

    Raises:
        FileNotFoundError: neither a checkout nor a complete installation is around this file.
    """
    for candidate in (_SITE, _SITE / "spectral_bench_shipped"):
        if (candidate / "conf" / "train.yaml").is_file():
            return candidate
    raise FileNotFoundError(
        f"no conf/train.yaml near {_SITE}: the installation is incomplete; reinstall spectral-bench"
    )


def conf_dir() -> Path:
    """Return the root of the config tree."""
    return home() / "conf"
