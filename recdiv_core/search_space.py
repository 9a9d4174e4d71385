# pyright: strict
"""A search space: parameters, how they are searched, objectives, constraints, budget.

Data only; sweep/run.py runs it. Each file in `tune_spaces/` holds one `SPACE`.
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
    """Coordinate of the hypervolume's reference point on this axis, fixed beforehand."""


@dataclass(frozen=True)
class Constraint:
    """A share of the baseline's metric that a trial must keep, e.g. 98 % of its `val/ndcg`.

    The baseline is the run without diversity (w = 0) that the sweep trains before its trials. A
    trial that breaks a constraint is shown, but never recommended.
    """

    metric: str
    """Metric for which higher is better."""
    at_least: float
    """Share of the baseline's metric."""


@dataclass(frozen=True)
class SearchSpace:
    """One sweep. Every key of `parameters`, `points` and `fixed` is a dotted Config key.

    A point is one configuration of the parameters. A trial is one training run of a point.

    Attributes:
        description: what the sweep compares, in one line.
        parameters: dotted key -> Ray Tune domain (`tune.grid_search`, `tune.uniform`, ...).
        objectives: axes of the front; the first one is accuracy.
        search: how points are chosen. `grid` walks every `tune.grid_search` and draws all other
            domains at random. `tpe` and `nsga2` learn from finished trials; `quasi_random` and
            `random` spread evenly. Only `grid` takes `tune.grid_search`; the others try no point
            twice.
        num_samples: largest number of points; a grid is walked this many times.
        points: settings that vary together, and may differ in their keys; each point of the grid
            takes one of them beside the parameters. Empty = the parameters alone. Only for a grid.
        seeds: random seeds that each point is trained with; empty = once, with the config's seed.
            Reports and searches use a point's means, and the baseline is trained once per seed too.
            The base model of a warm start is trained once, so that intervals do not cover its
            training. No trial is stopped early, because means need equal epochs.
        max_epochs: epochs of all trials together after which no new point starts; 0 = no limit.
        max_hours: hours after which no new point starts; 0 = no limit. The base model, the baseline
            and earlier processes of a resumed sweep count. Running points finish with all seeds.
        constraints: shares of the baseline's metrics that trials must keep. The search prefers
            trials that keep them.
        learn_from_earlier: whether finished trials of earlier sweeps teach the search and are not
            run again. They must have the same data, settings and parameters. Not for a grid.
        fixed: settings of all trials; they override a preset, the command line overrides them.
        warm_start: settings of the base model that every trial starts from, at w = 0 unless they
            say otherwise; None = every trial trains from scratch. `train.init_from` replaces the
            base model. A baseline at w = 0 is trained from the base too.
        grace_epochs: epochs before any trial is stopped early. Later a trial is stopped when
            another one is clearly ahead on every objective at the same epoch.
    """

    description: str
    parameters: Mapping[str, object]
    objectives: tuple[Objective, ...]
    search: Search = "grid"
    num_samples: int = 1
    points: tuple[Mapping[str, object], ...] = ()
    seeds: tuple[int, ...] = ()
    max_epochs: int = 0
    max_hours: float = 0.0
    constraints: tuple[Constraint, ...] = ()
    learn_from_earlier: bool = False
    fixed: Mapping[str, object] = field(default_factory=dict[str, object])
    warm_start: Mapping[str, object] | None = None
    grace_epochs: int = 1

    @property
    def keys(self) -> list[str]:
        """Keys that differ between trials, those of the parameters first."""
        return list(dict.fromkeys([*self.parameters, *(key for own in self.points for key in own)]))


def at_k(space: SearchSpace, k: int, name: str) -> SearchSpace:
    """Return a space with the cut-off in the names of its objectives and constraints.

    Its metrics have no cut-off, or `k`; `name` is for the message.

    Raises:
        UserError: a metric has another cut-off.
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
