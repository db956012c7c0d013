"""Hydra on our config tree outside of an application of its own, without torch."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader

from bench import files, hydra_private

# Short for hydra.launcher.<name>: those that a user gives from one launch to the next.
LAUNCH_OPTIONS = ("retry", "wait", "pack", "workers", "fail_fast_after", "time")


def spelled_out(arguments: Sequence[str]) -> list[str]:
    """Return a command line with short launch options written as Hydra knows them."""
    return [
        f"hydra.launcher.{one}" if one.partition("=")[0] in LAUNCH_OPTIONS and "=" in one else one
        for one in arguments
    ]


@contextmanager
def composing() -> Iterator[ConfigLoader]:
    """Have Hydra read our configs outside of an application of its own; give its loader."""
    register_resolvers()
    hydra_private.close_active()
    with initialize_config_dir(str(files.conf_dir()), **hydra_private.VERSION_BASE):
        yield hydra_private.active_loader()


def register_resolvers() -> None:
    """Make our resolvers known to OmegaConf, and conf/tuned no group of Hydra's.

    ``${bench_home:}`` is the parent of conf/ and sweeps/; ``${bench_scratch:}`` a folder of this
    process for what Hydra insists on writing, so that a refused command leaves nothing behind.
    """
    hydra_private.register_resolver("bench_home", lambda: files.home().as_posix())
    hydra_private.register_resolver("bench_scratch", lambda: _scratch().name)
    # It would read tuned=true as the choice of a file as soon as settings are tuned.
    hydra_private.hide_group("tuned")


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="spectral-bench-")
