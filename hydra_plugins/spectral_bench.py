"""Hands the sweeper and the launchers to Hydra, which looks for them in this namespace only."""

from bench.launch.launcher import GridSweeper as _GridSweeper
from bench.launch.launcher import LocalLauncher as _LocalLauncher
from bench.launch.launcher import SlurmLauncher as _SlurmLauncher


class GridSweeper(_GridSweeper):
    """See bench/launch/launcher.py."""


class LocalLauncher(_LocalLauncher):
    """See bench/launch/launcher.py."""


class SlurmLauncher(_SlurmLauncher):
    """See bench/launch/launcher.py."""
