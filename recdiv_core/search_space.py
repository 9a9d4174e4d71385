# pyright: strict
"""What a sweep is made of: parameters, how they are searched, objectives, constraints, budget.

Data only; `sweep.py` runs it. A file in `tune_spaces/` holds one `SPACE` of this kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from recdiv_core.errors import UserError

Search = Literal["grid", "random", "quasi_random", "tpe", "nsga2"]


@dataclass(frozen=True)
class Objective:
    """A metric that the sweep trades off, e.g. `val/ndcg`, at the cut-off `eval.k`."""

    metric: str
    direction: Literal["max", "min"]
    reference: float
    """Value of the hypervolume's reference point on this axis, fixed beforehand."""


@dataclass(frozen=True)
class Constraint:
    """What a trial must keep of the baseline's figure, e.g. 98 % of its `val/ndcg`.

    The baseline is the w = 0 run that the sweep trains before its trials. A trial that breaks a
    constraint is shown, never recommended.
    """

    metric: str
    at_least: float
    """Share of the baseline's figure, which is better when higher."""


@dataclass(frozen=True)
class SearchSpace:
    """One sweep. Every key of `parameters` and `fixed` is a dotted Config key.

    Attributes:
        parameters: dotted key -> Ray Tune domain (`tune.grid_search`, `tune.uniform`, ...).
        objectives: the axes of the front; the first one is accuracy.
        search: `grid` walks every `tune.grid_search` and draws what else there is at random; the
            others learn from the trials that ended (`tpe`, `nsga2`) or spread evenly
            (`quasi_random`, `random`), take no grids and try no configuration twice.
        num_samples: points at most (a grid is walked this many times).
        seeds: each point (configuration) is trained once a seed; none = once, with the config's.
            Reports judge a point by its means, searches learn from them. The baseline is trained
            once a seed too: a comparison within a seed is the narrower one. The base model of a
            warm start is trained once, so that the intervals hold what the further training does,
            not what another base would. No trial is stopped early: means want equal epochs. What
            is random in a grid, and `learn_from_earlier`, do not go with it.
        max_epochs: no point is begun once all together have trained so many; 0 = no limit. Not of a
            grid.
        max_hours: no point is begun once the sweep has run so long, its base model and baseline and
            what it ran before it was interrupted included; those that have begun end, with all
            their seeds. 0 = no limit.
        constraints: what trials must keep of the baseline; the search prefers those that do.
        learn_from_earlier: finished trials of earlier sweeps with the same data, the same settings
            and the same parameters are told to the search, and not run again. Not of a grid.
        fixed: settings common to all trials; above a preset, below the command line.
        warm_start: overrides of one base run trained first, at w = 0 unless they say otherwise,
            from which every trial starts (unless `train.init_from` is given, which then is the
            base), and one more at w = 0, the baseline; None = every trial trains from nothing.
        grace_epochs: epochs that no trial is stopped before; from then on one is whose figures
            others at the same epoch have left behind on every objective.
    """

    description: str
    parameters: Mapping[str, object]
    objectives: tuple[Objective, ...]
    search: Search = "grid"
    num_samples: int = 1
    seeds: tuple[int, ...] = ()
    max_epochs: int = 0
    max_hours: float = 0.0
    constraints: tuple[Constraint, ...] = ()
    learn_from_earlier: bool = False
    fixed: Mapping[str, object] = field(default_factory=dict[str, object])
    warm_start: Mapping[str, object] | None = None
    grace_epochs: int = 1


def at_k(space: SearchSpace, k: int, name: str) -> SearchSpace:
    """Return a space with the cut-off in the names of its objectives and constraints.

    Args:
        space: whose metrics have no cut-off, or that of `eval.k`.
        k: `eval.k`.
        name: of the space, for the message.

    Raises:
        UserError: a name has another cut-off already.
    """
    return replace(
        space,
        objectives=tuple(replace(o, metric=_named(o.metric, k, name)) for o in space.objectives),
        constraints=tuple(replace(c, metric=_named(c.metric, k, name)) for c in space.constraints),
    )


def _named(metric: str, k: int, space: str) -> str:
    name, _, cut_off = metric.rpartition("_at_")
    if name and cut_off != str(k):
        raise UserError(
            f"--space {space} names {metric}, which is not measured with eval.k={k}; write {name}, "
            "which follows eval.k"
        )
    return f"{name or metric}_at_{k}"
