"""What a number of seeds can show, before anything is spent.

Verdicts are by sign flips over seeds: of n seeds the least p is 2 / 2^n, whatever the data. The
smallest difference that is shown with a given power follows from the spread of paired differences,
which past runs give.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from statistics import median, variance

from bench.past_runs import PastRun
from bench.tuning.settings import FIRST_TUNING_SEED

LEVEL, POWER = 0.05, 0.8
_FEWEST = 3  # seeds in common from which a spread is taken


def least_p(seeds: int, looks: int = 1, share: float = 1.0) -> float:
    """Return the smallest p that so many seeds can give, times the interim analyses.

    ``share``: the part of the level that the comparison's family has.
    """
    return min(1.0, looks * 2.0 ** (1 - seeds) / share)


def fewest_seeds(looks: int = 1, share: float = 1.0) -> int:
    """Return the number of seeds from which a verdict is possible."""
    return next(seeds for seeds in range(1, 64) if least_p(seeds, looks, share) <= LEVEL)


@dataclass(frozen=True)
class Effect:
    """A mean difference in units of the paired differences' standard deviation.

    ``bound``: that many standard deviations are enough; else more are needed, how many more
    depends on the comparisons beside it.
    """

    size: float
    bound: bool


def smallest_effect(
    seeds: int, comparisons: int = 1, looks: int = 1, share: float = 1.0
) -> Effect | None:
    """Return the mean difference that an exact sign-flip test shows with 80 % power.

    The power of the paired t-test (noncentral t) at the largest level that the 2^n sign patterns
    have and that Bonferroni allows: a bound, since the max-T correction costs no more. Where only
    the most extreme pattern is left, all differences must have one sign: Phi(effect)^n.

    Args:
        seeds: n.
        comparisons: judged together.
        looks: interim analyses.
        share: the part of the level that their family has.

    Returns None where no verdict is possible.
    """
    from scipy import special  # here: a plan of one optimizer does without

    if least_p(seeds, looks, share) > LEVEL:
        return None
    # Of many seeds the patterns are as good as continuous.
    scale = 2.0 ** min(seeds - 1, 60)
    patterns = math.floor(share * LEVEL / (looks * comparisons) * scale + 1e-9)
    level = max(patterns, 1) / scale
    critical, degrees = special.stdtrit(seeds - 1, 1 - level / 2), seeds - 1
    low, high = 0.0, 100.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        shown = 1 - special.nctdtr(degrees, middle * math.sqrt(seeds), critical) >= POWER
        low, high = (low, middle) if shown else (middle, high)
    one_sign = float(special.ndtri(POWER ** (1 / seeds))) if patterns <= 1 else 0.0
    return Effect(max(high, one_sign), patterns >= 1)


# -- the spread of past runs -----------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """The standard deviation of differences paired by seed, between two optimizers.

    Attributes:
        deviation: in the outcome's unit.
        pairs: of how many pairs it is the typical one.
        source: what their runs have in common with those asked about.
    """

    deviation: float
    pairs: int
    source: str


def paired_spread(
    runs: Iterable[PastRun], outcome: str, *, dataset: str, model: str, epochs: int
) -> Spread | None:
    """Return the spread of ``outcome`` by past report runs, None where there are none like these.

    Of runs of the same dataset, model and epochs, else of the first two, else of the dataset. Only
    optimizers of one sweep are paired. The median of their variances counts, corrected for few
    seeds.
    """
    from scipy import special

    groups: dict[tuple[str, str, int], list[tuple[float, int]]] = defaultdict(list)
    for (_, its_model, its_epochs), methods in _values(runs, outcome, dataset).items():
        for ((name, _), one), ((other_name, _), other) in combinations(methods.items(), 2):
            shared = sorted(one.keys() & other.keys())
            if name != other_name and len(shared) >= _FEWEST:
                spread = variance([one[seed] - other[seed] for seed in shared])
                groups[dataset, its_model, its_epochs].append((spread, len(shared) - 1))
    for source, fits in (
        (f"{model} on {dataset}, {epochs} epochs", lambda key: key == (dataset, model, epochs)),
        (f"{model} on {dataset}, other lengths", lambda key: key[1] == model),
        (f"{dataset}, other models", lambda _: True),
    ):
        found = [pair for key, pairs in groups.items() if fits(key) for pair in pairs]
        if found:
            typical = median(v * n / special.chdtri(n, 0.5) for v, n in found)
            return Spread(math.sqrt(typical), len(found), source)
    return None


def _values(
    runs: Iterable[PastRun], outcome: str, dataset: str
) -> Mapping[tuple[str, str, int], dict[tuple[str, str], dict[int, float]]]:
    """Return the outcome by sweep, model and epochs; in each by optimizer, variant and seed."""
    found: dict[tuple[str, str, int], dict[tuple[str, str], dict[int, float]]] = defaultdict(dict)
    for run in runs:
        config, value = run.config, run.summary.get(outcome)
        names, seed = config.get("names") or {}, config.get("seed", FIRST_TUNING_SEED)
        if (
            run.status.get("state") == "done"
            and names.get("dataset") == dataset
            and seed < FIRST_TUNING_SEED
            and isinstance(value, int | float)
            and math.isfinite(value)
        ):
            epochs = int(config["trainer"]["epochs"])
            group = found[str(config.get("sweep")), str(names.get("model")), epochs]
            method = (str(names.get("optimizer")), str(config.get("variant")))
            group.setdefault(method, {})[seed] = float(value)
    return found
