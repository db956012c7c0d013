"""Hydra's own sweeper, without its check.

For ``hydra_plugins/`` alone to import: Hydra executes its modules once more when it looks for
plugins, and a class made from the earlier ``BasicSweeper`` could not be instantiated any more.
"""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper


class GridSweeper(BasicSweeper):
    """Every combination of the values given, as Hydra's own; the launcher checks them all."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Do nothing: Hydra would compose each combination once more."""
