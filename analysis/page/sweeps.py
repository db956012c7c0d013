"""The table of all sweeps: what each asks, plans and costs, and how far its archive is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analysis.page.study import Study, header, plan
from bench.tuning.spec import study_in

_FINISHED = ("done", "diverged")


def table(sweeps: Path, archived: Sequence[Study]) -> str:
    """Return a Markdown table, a row a file of ``sweeps``.

    Args:
        sweeps: the folder of sweep files.
        archived: the studies; one whose archive has the runs of a sweep says how far it is.

    Raises:
        ValueError: an archive that cannot be read.
        UserError: a sweep file whose ``study`` is not valid.
    """
    lines = ["| sweep | question | part of | runs | cost | archived |"]
    lines.append("| --- | --- | --- | ---: | --- | --- |")
    by_name = {study.name: study for study in archived if study.archive is not None}
    for file in sorted(sweeps.glob("*.yaml")):
        study, planned = study_in(file), plan(file).size
        cells = [
            f"[{file.stem}](../sweeps/{file.name})",
            header(file).question,
            study.part_of or "",
            str(planned),
            str(study.cost or ""),
            _state(by_name.get(file.stem), planned),
        ]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _state(study: Study | None, planned: int) -> str:
    if study is None:
        return "no"
    finished = int(study.runs["state"].isin(_FINISHED).sum())
    return f"{'complete' if finished >= planned else 'partial'}, {finished} runs"
