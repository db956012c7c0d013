"""Keep what a study measured in one small file, and get its run folders back.

spectral-bench archive source=runs sweeps=study,study_tune out=results/study.parquet
spectral-bench archive unpack results/study.parquet into=runs
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import Field

from analysis.command.messages import user_messages, writing
from analysis.run import archive as run_archive
from analysis.run.archive import Files
from bench import options as cli
from bench.errors import UserError, suggestion

_PROG = "spectral-bench archive"
_MEBIBYTE = 2**20


class PackOptions(cli.Options):
    """Options of ``spectral-bench archive``."""

    source: str = Field("runs", description="a folder of run folders, or archives")
    sweeps: list[str] = Field([], description="only the runs of these sweeps; empty: all")
    out: Path = Field(description="the archive; runs that it has already stay in it")
    replace: bool = Field(
        False, description="where both have a result of a run and they differ, take the source's"
    )


class UnpackOptions(cli.Options):
    """Options of ``spectral-bench archive unpack``."""

    source: str = Field(description="an archive, several (a,b), or a folder of archives")
    into: Path = Field(Path("runs"), description="where the run folders go; those there stay")


def main(argv: list[str]) -> None:
    """Pack, or unpack."""
    arguments = [] if argv[:1] == ["unpack"] else argv
    if arguments and "=" not in arguments[0] and not arguments[0].startswith("-"):
        hint = suggestion(arguments[0], ["unpack"])
        raise UserError(f"{arguments[0]}: options are written key=value, as in out=...; {hint}")
    with user_messages():
        _unpack(argv[1:]) if argv[:1] == ["unpack"] else _pack(argv)


def _pack(argv: Sequence[str]) -> None:
    options = cli.parse(
        PackOptions,
        argv,
        prog=_PROG,
        description="Put run folders, without checkpoints, into one Parquet file; add to it later."
        f"\n\n{_PROG} unpack ARCHIVE into=runs makes run folders of it again.",
        examples=["source=runs sweeps=study_a_8,study_a_8_tune out=results/study_a_8.parquet"],
    )
    new = _chosen(options)
    old = run_archive.read(options.out) if options.out.exists() else {}
    clashes = run_archive.conflicts(old, new)
    if clashes and not options.replace:
        run_id, name = next(iter(clashes.items()))
        more = f" (and of {len(clashes) - 1} more runs)" if len(clashes) > 1 else ""
        raise UserError(
            f"{options.out}: it has another result of {run_id}{more}: {name} differs; nothing was "
            "written; replace=true takes those of the source"
        )
    whole = run_archive.merged(old, new)
    with writing(options.out):
        run_archive.write(options.out, whole)
    size = options.out.stat().st_size / _MEBIBYTE
    print(
        f"{options.out}: {_counts(whole.values())}; {len(whole.keys() - old.keys())} new,"
        f" {len(clashes)} replaced; {size:.2f} MiB"
    )


def _chosen(options: PackOptions) -> dict[str, Files]:
    """Return the runs to pack.

    Raises:
        UserError: there are none. A sweep without runs, beside others with some, is warned of:
            a study is packed piece by piece.
    """
    root = Path(run_archive.local(options.source))
    if not root.is_dir():
        raise UserError(f"source={options.source}: no such folder of runs, nor an archive of them")
    gathered = run_archive.gather(root)
    by_sweep = {run_id: run_archive.sweep(files) for run_id, files in gathered.items()}
    if not gathered:
        raise UserError(f"source={options.source}: no runs there")
    if not options.sweeps:
        return gathered
    known = {sweep for sweep in by_sweep.values() if sweep}
    missing = [
        f"sweeps={name}: no run of it in {options.source}; {suggestion(name, known)}"
        for name in options.sweeps
        if name not in known
    ]
    if len(missing) == len(options.sweeps):
        raise UserError(missing[0])
    for line in missing:
        print(f"warning: {line}", file=sys.stderr)
    return {
        run_id: files for run_id, files in gathered.items() if by_sweep[run_id] in options.sweeps
    }


def _unpack(argv: Sequence[str]) -> None:
    arguments = [f"source={word}" if "=" not in word and word[:1] != "-" else word for word in argv]
    options = cli.parse(
        UnpackOptions,
        arguments,
        prog=f"{_PROG} unpack",
        description="Make run folders of archives, so that a sweep goes on from them.",
        examples=["results/study_a_8.parquet into=runs", "results into=runs"],
    )
    paths = run_archive.archives(options.source)
    if not paths:
        raise UserError(f"{options.source}: no archive of runs there")
    runs = run_archive.read_all(paths)
    there = [run_id for run_id in runs if (options.into / run_id).exists()]
    for run_id in there:
        _warn_unfinished(options.into / run_id, runs[run_id])
    try:
        for run_id in sorted(runs.keys() - set(there)):
            run_archive.write_folder(options.into / run_id, runs[run_id])
    except OSError as error:
        raise UserError(f"into={options.into}: {error.strerror}; name another folder") from error
    note = f"; {len(there)} were there already and stay as they are" if there else ""
    print(f"{options.into}: {len(runs) - len(there)} of {_counts(runs.values())} unpacked{note}")


def _warn_unfinished(folder: Path, files: Files) -> None:
    own = run_archive.gather(folder).get(folder.name)
    if run_archive.finished(files) and (own is None or not run_archive.finished(own)):
        print(
            f"warning: {folder}: unfinished here, finished in the archive; remove this folder and"
            " unpack again to take that",
            file=sys.stderr,
        )


def _counts(runs: Iterable[Files]) -> str:
    """Return "12 runs (11 done, 1 diverged)"."""
    states = Counter(run_archive.state(files) for files in runs)
    parts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    return f"{states.total()} runs ({parts})"


if __name__ == "__main__":
    cli.run(main)
