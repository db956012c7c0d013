"""Which folders of conf/ are groups to Hydra: all but conf/tuned, which bench.tune writes.

Hydra takes any folder beside its config for a group, and would read ``tuned=true`` as the choice of
a file in conf/tuned as soon as the first tuned settings are there.
"""

from __future__ import annotations

from typing import Any

from hydra._internal.config_repository import ConfigRepository

NOT_A_GROUP = "tuned"

_exists, _options = ConfigRepository.group_exists, ConfigRepository.get_group_options


def _group_exists(self: ConfigRepository, config_path: str) -> bool:
    return config_path.partition("/")[0] != NOT_A_GROUP and _exists(self, config_path)


def _group_options(self: ConfigRepository, group_name: str, *args: Any, **how: Any) -> list[str]:
    found = _options(self, group_name, *args, **how)
    return [name for name in found if group_name or name != NOT_A_GROUP]


def hide_tuned_settings() -> None:
    """Make Hydra see no group ``tuned`` in this process; a second call changes nothing."""
    ConfigRepository.group_exists = _group_exists  # type: ignore[method-assign]
    ConfigRepository.get_group_options = _group_options  # type: ignore[method-assign]
