# pyright: strict
"""What a sweep is made of: parameters, objectives with directions, constraints, budget.

Data only; `sweep.py` runs it. A file in `tune_spaces/` holds one `SPACE` of this kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Objective:
    """A metric that the sweep trades off, e.g. `val/ndcg_at_10`."""

    metric: str
    direction: Literal["max", "min"]
    reference: float
    """Value of the hypervolume's reference point on this axis, fixed beforehand."""


@dataclass(frozen=True)
class SearchSpace:
    """One sweep. Every key of `parameters` and `fixed` is a dotted Config key.

    Attributes:
        parameters: dotted key -> Ray Tune domain (`tune.grid_search`, `tune.uniform`, ...).
        objectives: the axes of the front; the first one is accuracy.
        num_samples: how often the space is sampled (a grid is walked this many times).
        fixed: settings common to all trials; above a preset, below the command line.
        warm_start: overrides of one base run trained first, at w = 0 unless they say otherwise,
            from which every trial starts (unless `train.init_from` is given, which then is the
            base), and one more at w = 0, the baseline; None = every trial trains from nothing.
        grace_epochs: epochs that no trial is stopped before.
    """

    description: str
    parameters: Mapping[str, object]
    objectives: tuple[Objective, ...]
    num_samples: int = 1
    fixed: Mapping[str, object] = field(default_factory=dict[str, object])
    warm_start: Mapping[str, object] | None = None
    grace_epochs: int = 1
