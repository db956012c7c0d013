"""A run's setup: what its config leaves to the machine, decided once, before anything is built."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from bench.config import RunConfig, absent
from bench.digest import component_digests
from bench.errors import UserError
from bench.identity import Identity, identify, tracker_label
from bench.launch import pool
from bench.training import target
from bench.training.parallel import ALONE, Team
from bench.training.target import Target

_DEFAULT_THREADS = torch.get_num_threads()
# The user's choice: torch itself writes its default there as soon as its compiler is imported.
_CHOSEN_CACHE = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
# What the compiled code in this process is of, and how many runs have used it. So many may: where
# it is compiled again for each, torch refuses the ninth.
_kept: tuple[str | None, int] = (None, 0)
_MOST_RUNS = 6


@dataclass(frozen=True)
class Setup:
    """A run as it is carried out here: nobody who gets one decides "auto" again.

    Attributes:
        config: as it was asked for.
        identity: the run's names.
        tracker_label: of the tracker that is to hold the run.
        device: where this process computes.
        precision: "float32", or "bf16" for autocast to bfloat16 (parameters stay float32).
        memory_format: of the network and of images.
        threads: of torch on the CPU.
        compile_key: all that decides the run's code, so no seed, schedule or rate.
        cuda_graph: whether to record steps as a graph.
        target: what to note the arrival at.
        team: the processes that make this run together, seen from this one.
    """

    config: RunConfig
    identity: Identity
    tracker_label: str
    device: torch.device
    precision: str
    memory_format: torch.memory_format
    threads: int
    compile_key: str
    cuda_graph: bool
    target: Target | None
    team: Team = ALONE

    @classmethod
    def of(cls, config: RunConfig) -> Setup:
        """Decide everything, for the process that leads the run."""
        trainer = config.trainer
        device = choose_device(trainer.device)
        cuda = device.type == "cuda"
        precision = "bf16" if cuda else "float32"
        channels_last = cuda if trainer.channels_last == "auto" else trainer.channels_last
        return cls(
            config=config,
            identity=identify(config),
            tracker_label=tracker_label(config),
            device=device,
            precision=precision if trainer.precision == "auto" else trainer.precision,
            memory_format=torch.channels_last if channels_last else torch.contiguous_format,
            threads=trainer.threads or _DEFAULT_THREADS,
            compile_key=pool.compile_key(config.model_dump(mode="json")),
            cuda_graph=cuda and trainer.cuda_graph is not False and trainer.devices == 1,
            target=target.find(config.target, config.names),
        )

    def joined(self, team: Team) -> Setup:
        """Return the setup of this process of ``team``: GPUs go by rank, the one CPU is shared."""
        if team.size == 1 or self.device.type != "cuda":
            return replace(self, team=team)
        return replace(self, team=team, device=torch.device("cuda", team.rank))

    @property
    def folder(self) -> Path:
        """Where the run is kept."""
        return Path(self.config.runs_dir) / self.identity.id

    @cached_property
    def sources(self) -> dict[str, dict[str, str | None]]:
        """Hashes of the code of model and optimizer, by the names of what is built in them."""
        parts = {"model": self.config.model, "optimizer": self.config.optimizer}
        return {name: component_digests(part) for name, part in parts.items()}

    @property
    def stored(self) -> dict[str, Any]:
        """What the run folder keeps of it: the config, with the run's id and variant."""
        return {
            "id": self.identity.id,
            "variant": self.identity.variant,
            **self.config.model_dump(mode="json"),
        }

    def note(self, text: str) -> None:
        """Print a line about the run, once for all ranks."""
        if self.team.leads:
            print(f"{self.identity.id}: {text}", flush=True)

    def check(self) -> None:
        """Refuse what this machine cannot do.

        Raises:
            UserError: the batch cannot be split evenly, there are not so many GPUs, or no graph can
                be recorded.
        """
        trainer, cuda = self.config.trainer, self.device.type == "cuda"
        size = trainer.devices
        if trainer.batch_size % size:
            raise UserError(
                f"trainer.devices={size} does not divide trainer.batch_size={trainer.batch_size}; "
                "choose a multiple"
            )
        if size > 1 and trainer.device.startswith("cuda:"):
            raise UserError(
                f"trainer.device={trainer.device} is one device; write cuda, or trainer.devices=1"
            )
        if cuda and size > torch.cuda.device_count():
            count = torch.cuda.device_count()
            raise UserError(f"trainer.devices={size}: there are {count} CUDA devices here")
        if trainer.cuda_graph is True and size > 1:
            raise UserError(
                f"trainer.cuda_graph=true does not go with trainer.devices={size}; use auto"
            )
        if trainer.cuda_graph is True and not cuda:
            raise UserError(
                "trainer.cuda_graph=true needs a CUDA device; use auto, or trainer.device=cuda"
            )

    def prepare(self) -> None:
        """Set what torch keeps for the whole process: a run must not depend on the one before it.

        Compiled code is kept in ``<data_dir>/compile_cache`` (TORCHINDUCTOR_CACHE_DIR, if set, says
        otherwise), so that only the first start of its kind compiles. A run whose ``compile_key``
        is that of the run before takes over what that one compiled, and does not even look there.
        """
        global _kept  # noqa: PLW0603  (compiled code is the process's own)
        torch.set_num_threads(self.threads)
        if self.device.type == "cuda":
            # Shapes stay the same: the fastest convolution is worth searching for.
            torch.backends.cudnn.benchmark = True
            # Optimizers that solve in float32 mean it; the compiler would advise each user anew.
            warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
        if self.config.trainer.compile:
            own = str((Path(self.config.data_dir) / "compile_cache").absolute())
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = _CHOSEN_CACHE or own
            if self.compile_key != _kept[0] or _kept[1] == _MOST_RUNS:
                torch.compiler.reset()
                _kept = (self.compile_key, 0)
            _kept = (self.compile_key, _kept[1] + 1)


def device_here(wanted: str) -> torch.device:
    """Return the device that a command's option names, "auto" decided.

    Raises:
        UserError: there is none of this name here.
    """
    try:
        why = absent(wanted)
    except RuntimeError:
        why = f"{wanted!r} is no device; use auto, cpu or cuda"
    if why is not None:
        raise UserError(f"device={wanted}: {why}")
    return choose_device(wanted)


def choose_device(wanted: str) -> torch.device:
    """Decide "auto": CUDA where there is one; of GPUs the first, where none is named."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device("cuda", 0) if wanted == "cuda" else torch.device(wanted)
