"""Tune every optimizer of a study with the same budget, on the validation split.

    spectral-bench tune +sweeps=study_a_small                      (docs/comparing.md)
    spectral-bench tune +sweeps=study_a_8 optimizer=adamw,muon     only these
    spectral-bench tune +sweeps=study_a_8 hydra/launcher=slurm     on a cluster; waits for its jobs

It takes the arguments of `spectral-bench train`. The study's file declares the search
(study.tuning). Winners go to conf/tuned/<model>_<dataset>/<optimizer>.yaml, or to the folder of
tuned=<folder>, and are used by `spectral-bench train -m +sweeps=<study> tuned=true`. Trials are
ordinary runs of the sweep <study>_tune: the same command again trains only what is missing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf

from bench import parts
from bench.cli import guarded
from bench.compose import composing
from bench.errors import RunsFailedError, UserError
from bench.hydra_private import make_launcher, register_interpolations
from bench.launch.grid import Composer, combinations, master_config
from bench.launch.launcher import GridLauncher
from bench.options import show
from bench.tuning import settings, trials
from bench.tuning.spec import study_of
from bench.tuning.trials import Candidate, candidates


def tune(arguments: Sequence[str]) -> None:
    """Carry out the search that ``arguments`` describe, or the rest of it; write its winners.

    Raises:
        UserError: the study is not one that can be tuned; nothing was started.
        RunsFailedError: some trials failed, or all of an optimizer's diverged; the others are
            finished and written.
    """
    register_interpolations()
    with composing() as loader, parts.keeping_data():
        master = master_config(loader, arguments)
        tuned = candidates_of(loader, master)
        launcher = _launcher(loader, master)
        problems = []
        for batch in [tuned] if launcher.side_by_side else [[one] for one in tuned]:
            problems += _carry_out(launcher, batch)
        for one in tuned:
            if len(one.scores()) == one.search.trials:
                try:
                    print(trials.write(one, settings.folder(master.tuned)))
                except RunsFailedError as error:
                    problems.append(str(error))
        show(trials.table(tuned))
    if problems:
        raise RunsFailedError("\n".join(problems))


def candidates_of(loader: ConfigLoader, master: DictConfig) -> list[Candidate]:
    """Return what the study of a composed multirun tunes.

    Raises:
        UserError: it declares no search, or one that cannot be carried out.
    """
    tuning = study_of(master).tuning
    if master.sweep is None or tuning is None:
        raise UserError(
            f"sweep={master.sweep}: no search is declared for it; give a study whose file has "
            "study.tuning, such as +sweeps=study_a_small"
        )
    elsewhere = "slurm" in str(master.hydra.runtime.choices.get("hydra/launcher"))
    composer = Composer(loader, master, elsewhere=elsewhere)
    more = ["trainer.accounting=false"]  # what a step costs is not asked of a trial
    more += ["tracker.job_type=tune"] if "job_type" in master.tracker else []
    return candidates(composer, combinations(master), tuning, str(master.sweep), more)


def _launcher(loader: ConfigLoader, master: DictConfig) -> GridLauncher:
    """Return the launcher that the config chooses, made to wait for its runs."""
    if "wait" in master.hydra.launcher:
        OmegaConf.update(master, "hydra.launcher.wait", True)
    launcher = make_launcher(master, loader)
    assert isinstance(launcher, GridLauncher)
    return launcher


def _carry_out(launcher: GridLauncher, batch: Sequence[Candidate]) -> list[str]:
    """Make the trials of ``batch``, round by round; return what failed."""
    problems = []
    open_ = list(batch)
    while open_:
        rounds = {one.label: one.missing() for one in open_}
        asked = [overrides for round_ in rounds.values() for overrides in round_]
        if not asked:
            break
        try:
            launcher.launch(asked, 0)
        except RunsFailedError as error:
            problems.append(str(error))
        # An optimizer whose round is not finished asks for the same again: it cannot go on.
        open_ = [one for one in open_ if one.missing() != rounds[one.label]]
    return problems


def main(arguments: Sequence[str]) -> None:
    """Print the help page, or tune."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__.strip())
        return
    tune(arguments)


if __name__ == "__main__":
    guarded(lambda: main(sys.argv[1:]))
