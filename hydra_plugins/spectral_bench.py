"""Hands the launcher to Hydra, which looks for launchers in this namespace only."""

from bench.launcher import LocalLauncher as _LocalLauncher


class LocalLauncher(_LocalLauncher):
    """See bench/launcher.py."""
