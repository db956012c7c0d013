"""Where and in which form a run computes, and what must be set in torch for it."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch

from bench.config import RunConfig, TrainerConfig
from bench.launch import pool

_DEFAULT_THREADS = torch.get_num_threads()
# The user's choice: torch itself writes its default there as soon as its compiler is imported.
_CHOSEN_CACHE = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
# What the compiled code in this process is of, and how many runs have used it. So many may: where
# it is compiled again for each, torch refuses the ninth.
_kept: tuple[str | None, int] = (None, 0)
_MOST_RUNS = 6


def choose_device(device: str) -> torch.device:
    """Decide "auto": CUDA where there is one."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def choose_precision(precision: str, device: torch.device) -> str:
    """Decide "auto": bf16 on CUDA, float32 elsewhere."""
    if precision == "auto":
        return "bf16" if device.type == "cuda" else "float32"
    return precision


def choose_memory_format(channels_last: bool | str, device: torch.device) -> torch.memory_format:
    """Decide "auto": channels_last on CUDA."""
    wanted = device.type == "cuda" if channels_last == "auto" else bool(channels_last)
    return torch.channels_last if wanted else torch.contiguous_format


def compile_key(run: RunConfig) -> str:
    """Return the compile key of a run: all that decides its code, so no seed, schedule or rate."""
    return pool.compile_key(run.model_dump(mode="json"))


def prepare(
    trainer: TrainerConfig, device: torch.device, data_dir: Path, code: str | None = None
) -> None:
    """Set what torch keeps for the whole process: a run must not depend on the one before it.

    Compiled code is kept in ``<data_dir>/compile_cache`` (TORCHINDUCTOR_CACHE_DIR, if set, says
    otherwise), so that only the first start of its kind compiles. A run whose ``compile_key`` is
    that of the run before takes over what that one compiled, and does not even look there.
    """
    global _kept  # noqa: PLW0603  (compiled code is the process's own)
    torch.set_num_threads(trainer.threads or _DEFAULT_THREADS)
    if device.type == "cuda":
        # Shapes stay the same: the fastest convolution is worth searching for.
        torch.backends.cudnn.benchmark = True
        # Optimizers that solve in float32 mean it, and the compiler would advise each user anew.
        warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
    if trainer.compile:
        own = str((data_dir / "compile_cache").absolute())
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = _CHOSEN_CACHE or own
        if code is None or code != _kept[0] or _kept[1] == _MOST_RUNS:
            torch.compiler.reset()
            _kept = (code, 0)
        _kept = (code, _kept[1] + 1)
