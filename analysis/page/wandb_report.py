"""A comparison as a W&B Report, and a saved view of its runs (the package wandb-workspaces).

On top of the report stands the table with its verdicts; below it are, for each dataset and model,
curves of the runs that the W&B project holds, and heat maps of exponents where they were measured.
Runs are grouped by variant, so that a curve is a mean over seeds and over nothing else.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from typing import Any

from analysis.page.text import render

# Of a run's config; a variant is all of it but the seed.
_GROUPS = ("names.optimizer", "variant")
# Of a run's history; two panels a line.
_CURVES = ("test/accuracy", "val/loss", "test/loss", "train/loss")
_WIDTH, _HEIGHT = 12, 8  # of a panel; a line is 24 wide
_MOST = 100  # variants in a panel; W&B's own limit is 10
# Columns beside a run's name, as W&B writes them.
_PINNED = ("config:names.value.dataset", "config:names.value.model",
           "config:names.value.optimizer", "config:seed.value")  # fmt: skip


class NoReportError(Exception):
    """The report could not be written; the text says why, in one line."""


@dataclass(frozen=True)
class Published:
    """A table that is on W&B: the run that holds it, with its pictures and page."""

    entity: str
    project: str
    name: str
    run_id: str
    run_url: str
    pictures: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The report's; where there is one of this title, it is written anew."""
        return f"Comparison {self.name}"


def write(
    published: Published,
    table: str,
    networks: Sequence[tuple[str, str]],
    *,
    sweep: str | None,
    metric: str,
) -> list[str]:
    """Write the report, and the view of a sweep if there is none; return their addresses.

    Args:
        published: the table's run.
        table: as Markdown, with its notes.
        networks: the (dataset, model) whose runs are compared.
        sweep: only its runs are shown, and it gets a view; None: all of the project, and no view.
        metric: of the table, for the view's column of results.

    Raises:
        NoReportError: the package is missing, or W&B refused.
    """
    try:
        import wandb_workspaces.reports.v2 as _  # noqa: F401
    except ModuleNotFoundError as error:
        raise NoReportError(
            "it needs the `wandb-reports` extra: pip install 'spectral-bench[wandb-reports]'"
        ) from error
    try:
        with redirect_stderr(io.StringIO()):  # the package prints the addresses in its own way
            report = _report(published, table, networks, sweep)
            report.id = _existing(published)
            addresses = [str(report.save().url)]
            if sweep is not None:
                addresses.append(_view(published, sweep, metric))
    except Exception as error:  # the client has several unrelated families of errors
        raise NoReportError(" ".join(str(error).split()).rstrip(".")) from error
    return addresses


def _existing(published: Published) -> str:
    """Return the id of the project's report of this title, empty where there is none."""
    import wandb

    reports = wandb.Api().reports(f"{published.entity}/{published.project}")
    return next((str(one.id) for one in reports if one.display_name == published.title), "")


def _report(
    published: Published, table: str, networks: Sequence[tuple[str, str]], sweep: str | None
) -> Any:
    import wandb_workspaces.reports.v2 as wr

    own = {"entity": published.entity, "project": published.project}
    text = render("wandb_report.md.j2", table=table, sweep=sweep, run_url=published.run_url)
    blocks: list[Any] = [wr.MarkdownBlock(text)]
    for dataset, model in networks:
        blocks += [wr.H2(f"{model} on {dataset}"), _curves(dataset, model, sweep, own)]
    if published.pictures:
        blocks += [wr.H2("Exponents"), _pictures(published, own)]
    return wr.Report(
        **own, title=published.title, description="Written by spectral-bench tables.",
        blocks=blocks, width="fluid",
    )  # fmt: skip


def _curves(dataset: str, model: str, sweep: str | None, own: dict[str, str]) -> Any:
    """Return panels of the finished runs of one network, a line a variant."""
    import wandb_workspaces.reports.v2 as wr

    chosen = [
        ("Config", "names.value.dataset", dataset),
        ("Config", "names.value.model", model),
        ("SummaryMetric", "state", "done"),
        *_of_sweep(sweep),
    ]
    groups = [f"config.{key}" for key in _GROUPS]
    runs = wr.Runset(**own, name=f"{model} on {dataset}", filters=_all(chosen), groupby=groups)
    return wr.PanelGrid(runsets=[runs], panels=_line_plots())


def _line_plots() -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.LinePlot(
            title=name, x="epoch", y=[name], groupby_aggfunc="mean", groupby_rangefunc="stddev",
            max_runs_to_show=_MOST,
            layout=wr.Layout(x=_WIDTH * (at % 2), y=_HEIGHT * (at // 2), w=_WIDTH, h=_HEIGHT),
        )
        for at, name in enumerate(_CURVES)
    ]  # fmt: skip


def _pictures(published: Published, own: dict[str, str]) -> Any:
    """Return a panel with what the table's own run logged as images."""
    import wandb_workspaces.reports.v2 as wr

    runs = wr.Runset(**own, name="Comparison", filters=_all([("Metric", "ID", published.run_id)]))
    shown = wr.MediaBrowser(
        title="layer by epoch", media_keys=list(published.pictures), num_columns=1,
        layout=wr.Layout(w=2 * _WIDTH, h=2 * _HEIGHT),
    )  # fmt: skip
    return wr.PanelGrid(runsets=[runs], panels=[shown])


def _of_sweep(sweep: str | None) -> list[tuple[str, str, str]]:
    return [] if sweep is None else [("Config", "sweep.value", sweep)]


def _all(tests: Sequence[tuple[str, str, str]]) -> str:
    """Return a filter by (section, name, value).

    As text: of the package's expressions some turn the names "sweep" and "state" into others.
    """
    return " and ".join(f"{section}({name!r}) == {value!r}" for section, name, value in tests)


def _view(published: Published, sweep: str, metric: str) -> str:
    """Return the address of the sweep's saved view; what people changed in it stays."""
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces import expr

    key = hashlib.sha256(sweep.encode()).hexdigest()[:11]
    view = ws.Workspace(
        entity=published.entity,
        project=published.project,
        name=f"Sweep {sweep}",
        sections=[ws.Section(name="Curves", panels=_line_plots(), is_open=True)],
        settings=ws.WorkspaceSettings(x_axis="epoch", max_runs=_MOST),
        runset_settings=ws.RunsetSettings(
            filters=_all(_of_sweep(sweep)),
            groupby=[expr.Config(name) for name in _GROUPS],
            pinned_columns=[*_PINNED, f"summary:{metric}"],
        ),
    )
    view._internal_name = f"nw-{key}-v"  # the package draws one: the same sweep's is to be found
    address = str(view.url)
    try:
        ws.Workspace.from_url(address)
    except ValueError as error:
        if "not found in project" not in str(error):
            raise
        view.save()
    return address
