"""The entry of Hydra commands: composition errors become one line, and no traceback."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bench import config, files
from bench.compose import register_resolvers, spelled_out
from bench.errors import RunsFailedError, UserError, piped, suggestion
from bench.hydra_private import VERSION_BASE

USAGE_ERROR, RUNS_FAILED, INTERRUPTED = 2, 1, 130
# What composing a config may raise.
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException)


def main(task: Callable[[DictConfig], Any], config_name: str) -> None:
    """Run ``task`` as a Hydra application on ``conf/<config_name>.yaml``.

    Exits with 2 on a user's mistake, 1 if runs of a grid failed, 130 if interrupted, 141 where the
    reader of what is printed has gone. Errors that are ours keep their traceback.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let exceptions reach us instead of being printed
    register_resolvers()
    sys.argv[1:] = spelled_out(sys.argv[1:])
    entry = hydra.main(config_path=str(files.conf_dir()), config_name=config_name, **VERSION_BASE)
    guarded(entry(_quietly(task)))


def guarded(command: Callable[[], object]) -> None:
    """Run ``command``; exit as ``main`` says on what is the user's to mend."""
    warnings.showwarning = _show_warning
    try:
        with piped():
            command()
    except RunsFailedError as error:
        _leave(str(error), RUNS_FAILED)
    except UserError as error:
        _leave(f"error: {error}", USAGE_ERROR)
    except COMPOSITION_ERRORS as error:
        _leave(f"error: {explain(error)}", USAGE_ERROR)
    except ValueError as error:  # of Hydra's defaults list, which has no error class of its own
        if not str(error).startswith("Config group override"):
            raise
        text = f"{error}; write the name of one of its files (optimizer=adamw)"
        _leave(f"error: {text}", USAGE_ERROR)
    except KeyboardInterrupt:
        _leave("interrupted: the same command goes on where this one stopped", INTERRUPTED)


def _quietly(task: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """Leave a single run on a user's mistake, before Hydra adds a line of its own."""

    def wrapped(composed: DictConfig) -> Any:
        try:
            return task(composed)
        except UserError as error:
            if HydraConfig.get().mode is RunMode.MULTIRUN:
                raise
            return _leave(f"error: {error}", USAGE_ERROR)

    return wrapped


def _leave(text: str, status: int) -> NoReturn:
    print(text, file=sys.stderr, flush=True)
    raise SystemExit(status)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)


def explain(error: Exception) -> str:
    """Say in one line what is wrong with a command line that Hydra could not compose."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        known = suggestion(name, error.options or [])
        return f"{group}={name}: there is no such {group}; {known}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read; write key=value, or key=a,b with -m"
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) else error
    if isinstance(cause, OmegaConfBaseException) and cause.key is not None:
        where = cause.full_key or str(cause.key)
        parent = cause.parent_node
        keys = [str(key) for key in parent] if isinstance(parent, DictConfig) else []
        own = [key for key in keys if key != "hydra" and not key.startswith("_")]
        return f"{where}: unknown key; {suggestion(str(cause.key), own)}"
    return _several_values(str(error)) or _unmatched_group(str(error)) or _first_lines(error)


def _several_values(text: str) -> str | None:
    match = re.search(r"Ambiguous value for argument '([^']+)'", text)
    if match is None:
        return None
    return f"{match.group(1)}: for a grid of several values add -m; a list is written key=[a,b]"


def _unmatched_group(text: str) -> str | None:
    """Explain an override of a group that is not in the defaults list."""
    match = re.search(r"Could not override '([^']+)'", text)
    if match is None:
        return None
    key = match.group(1)
    names = [*config.GROUPS, *config.RunConfig.model_fields]
    return f"{key}: there is no such group or key; {suggestion(key, names)}"


def _first_lines(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])
