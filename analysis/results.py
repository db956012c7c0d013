"""docs/RESULTS.md from the archives in results/: written, or checked against them.

So are the front of README.md and the table of all sweeps in docs/sweeps.md.

spectral-bench results
spectral-bench results --check
"""

from __future__ import annotations

import difflib
import os
import sys
import warnings
from itertools import islice
from pathlib import Path

from pydantic import Field

from analysis.page.results import FRONT, pages
from analysis.page.study import studies
from analysis.page.sweeps import table
from analysis.run.frame import RunWarning
from bench import files as paths
from bench import options as cli
from bench.errors import UserError

FRESH = "fresh_seeds"  # below the results: archives of seeds trained after their study was seen
_SHOWN = 12  # lines of a difference
# The part of another page between two such lines is ours.
_BEGIN, _END = "<!-- {}: made by spectral-bench results -->", "<!-- /{} -->"


class ResultsOptions(cli.Options):
    """Options of ``spectral-bench results``."""

    results: Path = Field(Path("results"), description="the folder of archives, one a study")
    sweeps: Path = Field(paths.home() / "sweeps", description="the studies' files")
    out: Path = Field(Path("docs/RESULTS.md"), description="the page")
    figures: Path = Field(Path("docs/figures"), description="its figures; others there stay")
    readme: Path = Field(
        Path("README.md"), description="holds the front's verdicts and figure between two marks"
    )
    listing: Path = Field(
        Path("docs/sweeps.md"), description="holds the table of all sweeps between two marks"
    )
    check: bool = Field(
        False, description="write nothing; exit code 1 where the files do not match the archives"
    )


def main(argv: list[str]) -> int:
    """Write the page and its figures, or compare."""
    arguments = ["check=true" if word == "--check" else word for word in argv]
    options = cli.parse(
        ResultsOptions,
        arguments,
        prog="spectral-bench results",
        description="Write docs/RESULTS.md and its figures from the archives in results/.",
        examples=["", "--check"],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RunWarning)  # unfinished runs are counted on the page
        try:
            made = _files(options)
        except ValueError as error:
            raise UserError(str(error)) from error
    if options.check:
        return _check(made)
    try:
        for path, text in made.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}; name another file") from error
    print("\n".join(str(path) for path in made))
    return 0


def _files(options: ResultsOptions) -> dict[Path, str]:
    """Return the text of each file that is to be there.

    Raises:
        ValueError: as `analysis.page.results.pages`.
        UserError: there is no folder of sweeps.
    """
    if not options.sweeps.is_dir():
        raise UserError(f"sweeps={options.sweeps}: no such folder")
    link = Path(os.path.relpath(options.figures, options.out.parent)).as_posix()
    known = studies(options.results, options.sweeps)
    fresh = [study for study in studies(options.results / FRESH, options.sweeps) if study.archive]
    page, front, drawn = pages(known, link, fresh)
    files = {options.out: page, **{options.figures / name: text for name, text in drawn.items()}}
    parts = {
        options.readme: ("front", _front(options, front)),
        options.listing: ("sweeps", table(options.sweeps, known)),
    }
    for path, (mark, text) in parts.items():
        whole = _with_part(path, mark, text)
        files |= {} if whole is None else {path: whole}
    return files


def _with_part(path: Path, mark: str, part: str) -> str | None:
    """Return a page with what is between its marks replaced; None where it has no such marks."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    before, begin, rest = text.partition(_BEGIN.format(mark))
    _, end, after = rest.partition(_END.format(mark))
    return f"{before}{begin}\n{part}{end}{after}" if begin and end else None


def _front(options: ResultsOptions, sentence: str) -> str:
    """Return README's front picture and verdict."""
    picture, page = (
        Path(os.path.relpath(path, options.readme.parent)).as_posix()
        for path in (options.figures / FRONT, options.out)
    )
    front = "No verdict yet.\n"
    if sentence:
        front = f"![differences by outcome and length]({picture})\n\n{sentence}"
    return f"{front}\n[All results]({page})\n"


def _check(made: dict[Path, str]) -> int:
    """Return 0 where every file is as it is to be, else 1, with the first lines that differ."""
    wrong = 0
    for path, text in made.items():
        try:
            there = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            there = ""
        if there == text:
            continue
        wrong = 1
        print(f"{path}: does not match the archives; spectral-bench results", file=sys.stderr)
        difference = difflib.unified_diff(
            there.splitlines(), text.splitlines(), "committed", "archives", lineterm="", n=0
        )
        for line in islice(difference, _SHOWN):
            print(f"  {line[:160]}", file=sys.stderr)
    if not wrong:
        print(f"{len(made)} files match the archives")
    return wrong


if __name__ == "__main__":
    cli.run(main)
