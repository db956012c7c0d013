"""Hands the sweeper and the launchers to Hydra, which looks for them in this namespace only."""

from bench.launch.sweeper import GridSweeper as _GridSweeper
from bench.launcher import LocalLauncher as _LocalLauncher
from bench.launcher import SlurmLauncher as _SlurmLauncher


class GridSweeper(_GridSweeper):
    """See bench/launch/sweeper.py."""


class LocalLauncher(_LocalLauncher):
    """See bench/launcher.py."""


class SlurmLauncher(_SlurmLauncher):
    """See bench/launcher.py."""
