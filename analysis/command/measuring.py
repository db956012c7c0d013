"""What the commands that measure a run's network share.

Options, the run that is asked for, errors in one line, progress, and what is stored.
"""

from __future__ import annotations

import glob
import re
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import pandas as pd
import torch
from pydantic import Field, field_validator
from rich.console import Console
from rich.progress import Progress

from analysis.curvature_core.objective import Mode, Settings
from analysis.measure import files
from bench import options as cli
from bench.errors import UserError
from bench.parts import Restored, restore
from bench.run_folder import CONFIG, RunFolder, is_run
from bench.table_writer import Table, drawn


def find_run(text: str) -> Path:
    """Return the run folder that ``text``, a path or a glob pattern, names.

    Raises:
        UserError: no such folder, a pattern that matches no run or several, or not a run folder.
    """
    folder = Path(text).expanduser()
    if not folder.exists() and glob.has_magic(text):
        folder = _only_match(text)
    if not folder.is_dir():
        raise UserError(f"run={text}: no such folder{_nearest(folder)}")
    if not is_run(folder):
        raise UserError(f"run={text}: not a run folder (it has no {CONFIG})")
    return folder


def require_done(folder: Path) -> None:
    """Raise UserError unless the run in ``folder`` has finished with trained weights."""
    status = RunFolder(folder).status
    state, cause = status.get("state", "unknown"), status.get("cause")
    if state == "done":
        return
    why = f": {cause}" if cause else ""
    if state == "diverged":
        raise UserError(f"{folder}: the run diverged{why}; it has no trained weights to measure")
    raise UserError(
        f"{folder}: the run is not finished (state {state}{why}); "
        "give its training command again to finish it"
    )


def _only_match(pattern: str) -> Path:
    path = Path(pattern).expanduser()
    root = Path(path.anchor or ".")  # Path.glob takes no absolute pattern
    paths = sorted(root.glob(str(path.relative_to(path.anchor) if path.anchor else path)))
    matches = [match for match in paths if is_run(match)]
    if not matches:
        raise UserError(f"run={pattern}: the pattern matches no run folder")
    if len(matches) > 1:
        names = ", ".join(match.name for match in matches[:3])
        more = ", ..." if len(matches) > 3 else ""
        raise UserError(
            f"run={pattern}: the pattern matches {len(matches)} run folders ({names}{more}); "
            "make it match one"
        )
    return matches[0]


def _nearest(folder: Path) -> str:
    if not folder.parent.is_dir():
        return ""
    names = [entry.name for entry in folder.parent.iterdir() if entry.is_dir()]
    close = get_close_matches(folder.name, names, n=1)
    return f"; did you mean {folder.parent / close[0]}?" if close else ""


class MeasurementOptions(cli.Options):
    """Which run is measured, on which samples, and how it is computed."""

    run: str = Field(description="Run folder, or a quoted pattern that matches exactly one.")
    batch: int = Field(2048, ge=1, description="Training samples, unaugmented, from the first on.")
    microbatch: int | Literal["auto"] = Field(
        "auto", description="Samples a pass: bounds memory, not accuracy; auto: what fits."
    )
    dtype: Literal["float32", "float64"] = Field("float32", description="Precision of the Hessian.")
    mode: Mode = Field("eval", description="BatchNorm and dropout as in evaluation or training.")
    device: str = Field("cpu", description="Where to compute: cpu, cuda, cuda:1.")
    threads: int | None = Field(None, ge=1, description="CPU threads; default: the run's.")
    trust: list[str] = Field(
        [],
        description="Packages whose code the run's config may name, beside what your YAML files"
        " name; also written --trust=<package>. See docs/security.md.",
    )
    force: bool = Field(False, description="Measure again although the files are there.")

    @field_validator("microbatch")
    @classmethod
    def _some_samples(cls, microbatch: int | str) -> int | str:
        if isinstance(microbatch, int) and microbatch < 1:
            raise ValueError("expected auto or an integer >= 1")
        return microbatch

    @field_validator("device")
    @classmethod
    def _device_is_here(cls, device: str) -> str:
        if not re.fullmatch(r"cpu|cuda(:[0-9]+)?", device):
            raise ValueError("expected cpu, cuda or cuda:<number>")
        count = torch.cuda.device_count()
        if device != "cpu" and int(device.partition(":")[2] or 0) >= count:
            raise ValueError(f"not on this machine ({count} CUDA devices); use device=cpu")
        return device

    def settings(self) -> Settings:
        """Return how to compute."""
        return Settings(getattr(torch, self.dtype), self.microbatch, self.mode, self.device)


OptionsT = TypeVar("OptionsT", bound=MeasurementOptions)


@contextmanager
def explained(options: MeasurementOptions) -> Iterator[None]:
    """Turn what a measurement cannot do into one line."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise UserError(
            f"device={options.device} is out of memory; use a smaller microbatch "
            f"(now microbatch={options.microbatch})"
        ) from None
    except ValueError as error:
        raise UserError(f"run={options.run}: {error}") from None


@contextmanager
def progress(task_name: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal's stderr, nothing elsewhere; give what takes (done, total)."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(task_name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


# What decides the numbers of every measurement: tables of other options are measured again.
DECISIVE = ("batch", "microbatch", "dtype", "mode", "device")


@dataclass
class Subject(Generic[OptionsT]):
    """The run that a command measures: its folder, and its network and data."""

    options: OptionsT
    folder: Path
    restored: Restored

    def announce(self, samples: int, rest: str) -> None:
        """Print what is about to be measured."""
        at = f"step {self.restored.step} (epoch {self.restored.epoch:g})"
        print(f"measuring {at} on {samples} training samples{rest}")

    def tables(
        self,
        names: tuple[str, ...],
        wanted: dict[str, Any],
        measure: Callable[[], Sequence[pd.DataFrame]],
    ) -> tuple[Sequence[pd.DataFrame], bool]:
        """Return tables, and whether they were stored; write what is measured, saying so.

        Args:
            names: of the files that hold the tables, without their suffix.
            wanted: options that decide the numbers beside `DECISIVE`.
            measure: returns the tables, in the order of ``names``.

        Raises:
            UserError: a file cannot be written.
        """
        options = {**self.options.model_dump(include=set(DECISIVE)), **wanted}
        force = self.options.force
        stored = None if force else files.stored(self.folder, self.restored.step, options, names)
        if stored is not None:
            return stored, True
        tables = measure()
        for name, table in zip(names, tables, strict=True):
            path = self.folder / f"{name}.parquet"
            try:
                files.add_table(path, table, options)
            except OSError as error:
                raise UserError(f"{self.folder}: cannot write the tables ({error})") from None
            print(f"wrote {path} ({len(table)} rows)")
        return tables, False

    def print_stored(self) -> None:
        """Print that nothing was measured."""
        print(f"{self.folder}: already measured with these options; force=true measures again")


@contextmanager
def measuring(kind: type[OptionsT], argv: list[str], **page: Any) -> Iterator[Subject[OptionsT]]:
    """Give the finished run that ``argv`` asks for; print the seconds at the end.

    Args:
        kind: the command's options.
        argv: its arguments.
        page: ``prog``, ``description`` and ``examples`` of its help page.

    Raises:
        UserError: there is no such run, or it cannot be measured.
    """
    started = time.perf_counter()
    options = cli.parse(kind, argv, **page)
    folder = find_run(options.run)
    require_done(folder)
    restored = restore(folder, getattr(options, "at", "trained"), options.trust)
    if (threads := options.threads or restored.config["trainer"]["threads"]) is not None:
        torch.set_num_threads(threads)
    yield Subject(options, folder, restored)
    print(f"{time.perf_counter() - started:.1f} s")


def show(table: Table, *below: str) -> None:
    """Print a table, and paragraphs below it."""
    cli.show(drawn(table))
    for paragraph in below:
        print(textwrap.fill(paragraph, 88))
