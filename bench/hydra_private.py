"""Every use of what Hydra does not document, and what its versions 1.3 and 1.4 call differently.

Not documented are its internals, its config loader and its registry of plugins.
tests/bench/test_hydra_private.py says with which versions each was seen to work, and fails with a
line on the first that has changed. What is used elsewhere is documented: ``hydra.main``,
``compose``, ``HydraConfig``, the interfaces of plugins, the errors, and the override parser that
sweepers are written with.
"""

from __future__ import annotations

import functools
import itertools
import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import hydra.utils
import omegaconf
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import setup_globals
from hydra.errors import HydraException, InstantiationException
from hydra.plugins.completion_plugin import DefaultCompletionPlugin
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf

from bench.public_names import targets_of, with_current

_HYDRA, _OMEGACONF = (
    tuple(int(part) for part in version.split(".")[:2])
    for version in (hydra.__version__, omegaconf.__version__)
)
# Hydra 1.3 warns where this is not given, 1.4 where it is.
VERSION_BASE: dict[str, Any] = {} if _HYDRA >= (1, 4) else {"version_base": "1.3"}

_exists, _options = ConfigRepository.group_exists, ConfigRepository.get_group_options
_hidden: set[str] = set()


def register_resolver(name: str, function: Callable[[], str]) -> None:
    """Make ``${name:}`` known to OmegaConf; a second call replaces the first."""
    new = _OMEGACONF >= (2, 4)
    register = OmegaConf.register_resolver if new else OmegaConf.register_new_resolver
    register(name, function, replace=True)  # type: ignore[call-arg]


def instantiate(component: Mapping[str, Any], **arguments: Any) -> Any:
    """As Hydra's ``instantiate``, by public names of any time; its targets allowed, as 1.4 asks.

    1.4 also asks for what targets return, such as a network of another package, so that every
    package is allowed; of the standard library no more than the config names. What a config that
    is not the user's own may name is checked before it comes here.
    """
    component = with_current(component)
    if _HYDRA >= (1, 4):
        targets = set(targets_of(component))
        packages = {name.partition(".")[0] for name in (*targets, *sys.modules)} | _installed()
        packages -= sys.stdlib_module_names
        arguments["_execution_whitelist_"] = [*targets, *(f"{name}.*" for name in packages)]
    try:
        return hydra.utils.instantiate(component, **arguments)
    except InstantiationException:
        raise
    except Exception as error:  # of the component itself: 1.4 lets it pass, 1.3 wraps it
        raise InstantiationException(str(error)) from error


@functools.cache
def _installed() -> frozenset[str]:
    """Return the name of every package and module on the path."""
    return frozenset(module.name for module in pkgutil.iter_modules())


def hide_group(name: str) -> None:
    """Make the folder ``name`` of a config tree no group to Hydra in this process.

    Hydra takes any folder beside its config for a group, and has no word against it.
    """
    _hidden.add(name)
    ConfigRepository.group_exists = _group_exists  # type: ignore[method-assign]
    ConfigRepository.get_group_options = _group_options  # type: ignore[method-assign]


def _group_exists(self: ConfigRepository, config_path: str) -> bool:
    return config_path.partition("/")[0] not in _hidden and _exists(self, config_path)


def _group_options(self: ConfigRepository, group_name: str, *args: Any, **how: Any) -> list[str]:
    names = _options(self, group_name, *args, **how)
    return [name for name in names if group_name or name not in _hidden]


def active_loader() -> ConfigLoader:
    """Return the config loader of the application or ``initialize`` that is in force."""
    return GlobalHydra.instance().config_loader()


def close_active() -> None:
    """End what is in force; nothing happens where nothing is."""
    GlobalHydra.instance().clear()


def load_multirun(loader: ConfigLoader, name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose the config of a multirun itself; several values of a key stay in its overrides."""
    return loader.load_configuration(
        config_name=name, overrides=list(overrides), run_mode=RunMode.MULTIRUN
    )


def load_combination(
    loader: ConfigLoader, multirun: DictConfig, overrides: Sequence[str]
) -> DictConfig:
    """Compose one combination of a multirun, with its Hydra node."""
    return loader.load_sweep_config(multirun, list(overrides))


def split_combinations(overrides: Sequence[str]) -> list[list[str]]:
    """Return every combination of what ``overrides`` give several values for.

    Hydra's own sweeper does the same, but writes ``~key`` as ``~key=null`` since 1.4, which deletes
    nothing.

    Raises:
        HydraException: a range of real numbers, which has no combinations.
    """
    active = GlobalHydra.instance()
    # Only with a loader does it know what optimizer=glob(*) means.
    loader = active.config_loader() if active.is_initialized() else None
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
    choices: dict[str, list[str]] = {}
    for one in parsed:
        key = one.get_key_element()
        if one.is_sweep_override():
            if not one.is_discrete_sweep():
                raise HydraException(f"{one.input_line}: only single values make a grid")
            choices[key] = [f"{key}={value}" for value in one.sweep_string_iterator()]
        elif one.is_delete() and one.value() is None:
            choices[key] = [key]
        else:
            choices[key] = [f"{key}={one.get_value_element_as_str()}"]
    return [list(combination) for combination in itertools.product(*choices.values())]


def make_launcher(
    multirun: DictConfig,
    context: HydraContext | ConfigLoader,
    task: TaskFunction = lambda _: None,
) -> Launcher:
    """Return the launcher that a multirun's config chooses, set up.

    ``context``: Hydra's, or outside of an application of its own the loader.
    """
    if isinstance(context, ConfigLoader):
        context = HydraContext(config_loader=context, callbacks=Callbacks())
    return Plugins.instance().instantiate_launcher(
        hydra_context=context, task_function=task, config=multirun
    )


def register_interpolations() -> None:
    """Make ``${hydra:...}`` and ``${now:...}`` known, as ``hydra.main`` does."""
    setup_globals()


def without_plugins() -> None:
    """Keep Hydra from importing plugin packages in this process; to be called before any use."""
    sys.modules["hydra_plugins"] = None  # type: ignore[assignment]


def complete(loader: ConfigLoader, name: str, words: Sequence[str], word: str) -> list[str]:
    """Return what Hydra's tab completion offers for ``word`` after ``words`` of a multirun."""
    line = " ".join(["--multirun", *words, word])
    return DefaultCompletionPlugin(loader)._query(name, line)
