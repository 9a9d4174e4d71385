# pyright: strict
"""Hold the diversity of slates from day to day, by the re-ranking that a candidate is served with.

In a loop of slates and clicks each model learns from what the model before it showed, so slates
narrow a little every day. A training with a diversity penalty slows that, but nothing pulls back
what is lost. So the first candidate sets levels, and each later one is served with the most
accurate entry of `eval.dials` that reaches all of them on validation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from recdiv_core.fronts.choice import KEEP
from recdiv_core.slates.checkpoint import read_progress

HELD: Final = ("coverage", "ild", "diversity_index")
"""Metrics that are held, at `eval.k`; higher is more diverse."""


class Serving(NamedTuple):
    """A way to serve a candidate.

    Attributes:
        settings: dotted key -> value of its re-ranking; empty = as it was trained.
        val: validation metrics by name with cut-off.
        test: test metrics by name with cut-off.
    """

    settings: Mapping[str, Any]
    val: Mapping[str, float]
    test: Mapping[str, float]


def ways_of(checkpoint: Path) -> list[Serving]:
    """Return the ways to serve a finished run: as it was trained, and each entry of `eval.dials`.

    Args:
        checkpoint: last checkpoint of the run.
    """
    progress = read_progress(checkpoint)

    def own(prefix: str) -> dict[str, float]:
        found = progress.metrics.items()
        return {
            name.removeprefix(prefix): value for name, value in found if name.startswith(prefix)
        }

    entries: list[dict[str, Any]] = json.loads(progress.dials) if progress.dials else []
    return [
        Serving({}, own("best/val/"), own("test/")),
        *(Serving(each["settings"], each["val"], each["test"]) for each in entries),
    ]


def levels_of(val: Mapping[str, float], k: int) -> dict[str, float]:
    """Return the levels that a candidate sets: its own metrics of HELD."""
    return {f"{name}_at_{k}": val[f"{name}_at_{k}"] for name in HELD}


def reached(val: Mapping[str, float], levels: Mapping[str, float]) -> float:
    """Return the smallest share of a level that is reached; 1 or more = all are held.

    >>> reached({"ild_at_10": 0.3, "coverage_at_10": 0.5}, {"ild_at_10": 0.6})
    0.5
    """
    return min((val[name] / level for name, level in levels.items() if level > 0), default=1.0)


def choose_serving(
    ways: Sequence[Serving], levels: Mapping[str, float], objective: str, keep: float = KEEP
) -> Serving:
    """Return the most accurate way that holds all levels, or else the one that comes nearest.

    Args:
        ways: as the candidate was trained, and each entry of `eval.dials`.
        levels: metric -> value to hold; empty = none.
        objective: name of the accuracy in `val`.
        keep: share of the highest accuracy of any way that the chosen one keeps, in (0, 1].
    """
    least = keep * max(way.val[objective] for way in ways)
    able = [way for way in ways if way.val[objective] >= least]
    holding = [way for way in able if reached(way.val, levels) >= 1]
    if holding:
        return max(holding, key=lambda way: way.val[objective])
    return max(able, key=lambda way: reached(way.val, levels))
