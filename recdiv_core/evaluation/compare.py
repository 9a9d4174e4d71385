"""Compare systems on the same users: runs, groups of seeds, whole fronts, given slates.

per_user.py evaluates a system, differences.py computes intervals and compare_text.py writes
sentences. The first system is the reference of all others, and fronts are compared at shares of its
accuracy. All claims of one call are corrected together. docs/compare.md says which variation the
intervals cover.

Legend: R resamples, S systems.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from recdiv_core.config import Config
from recdiv_core.errors import UserError
from recdiv_core.evaluation.compare_text import comparison_sentence, front_sentence, short_names
from recdiv_core.evaluation.differences import (
    ACCURACY,
    Floats,
    Resampled,
    correct_claims,
    difference,
    resample,
)
from recdiv_core.evaluation.per_user import judge_systems
from recdiv_core.evaluation.systems import check_comparable, find_systems, judged_data
from recdiv_core.metrics import pareto
from recdiv_core.metrics.tally import EPOCH_METRICS, LOWER_IS_BETTER

logger = logging.getLogger(__name__)

CLAIMS: Final = ("ndcg", "coverage", "ild")
"""Metrics claimed by default: accuracy, diversity over all slates, diversity within a slate."""

SHARES: Final = (0.99, 0.95, 0.90)
"""Shares of the reference's accuracy at which fronts are compared."""


def compare(
    config: Config,
    runs: Sequence[str],
    fronts: Sequence[str],
    settings: Mapping[str, object],
    *,
    split: str = "test",
    num_resamples: int = 10_000,
    claims: Sequence[str] = CLAIMS,
) -> dict[str, Any]:
    """Compare systems, or groups of them, with the first; compare fronts with the first front.

    Args:
        config: config of this call, for `tracking.uri`.
        runs: RUN, `slates:PATH`, or `RUN,RUN,...` with the seeds of one model. All groups list
            their seeds in the same order.
        fronts: `NAME=RUN,RUN,...`.
        settings: dotted key -> value for all runs.
        split: `val` or `test`.
        num_resamples: resamples of the users, >= 1000.
        claims: names of the claimed metrics.

    Returns:
        `{"split", "data", "k", "num_users", "resamples", "claims", "figures", "comparisons",
        "fronts"}`; for `data` see `judged_data`.

    Raises:
        UserError: nothing to compare, an unknown name, or systems that are not comparable.
    """
    groups = [tuple(group.split(",")) for group in runs]
    sides = dict(_parse_front(text) for text in fronts)
    check_call(groups, sides, len(fronts), claims, num_resamples)
    words = list(dict.fromkeys([run for group in (*groups, *sides.values()) for run in group]))
    systems = find_systems(words, settings, lambda: _tracking_uri(config))
    check_comparable(systems)
    judged = judge_systems(systems, split)
    samples = resample(judged, num_resamples)
    logger.info("%d resamples of %d users", num_resamples, len(judged[0].slates_UK))
    k = systems[0].config.eval.k
    return {
        "split": split,
        "data": judged_data(systems),
        "k": k,
        "num_users": len(judged[0].slates_UK),
        "resamples": num_resamples,
        "claims": list(at_k(dict.fromkeys(claims), k)),
        "figures": {
            word: at_k(_existing(samples.names, row), k)
            for word, row in zip(words, samples.values_SM.tolist(), strict=True)
        },
        **_compared(samples, words, groups, sides, claims, k=k),
    }


def _tracking_uri(config: Config) -> str:
    from recdiv_core.tracking.store import tracking_uri

    return tracking_uri(config)


def _compared(
    samples: Resampled,
    words: Sequence[str],
    groups: Sequence[Sequence[str]],
    sides: Mapping[str, Sequence[str]],
    claims: Sequence[str],
    *,
    k: int,
) -> dict[str, list[dict[str, Any]]]:
    """Return the comparisons of groups and of fronts, with their sentences."""
    pairs = [compare_groups(samples, words, groups[0], group, claims) for group in groups[1:]]
    axes = [name for name in claims if name != ACCURACY and name not in LOWER_IS_BETTER]
    fronts = [compare_fronts(samples, words, sides, name, axes) for name in list(sides)[1:]]
    num_claims = correct_claims([*pairs, *fronts])
    names = short_names(words)
    for each in pairs:
        each["sentence"] = comparison_sentence(each, names, num_claims)
        each["metrics"] = at_k(each["metrics"], k)
    for each in fronts:
        each["sentence"] = front_sentence(each, num_claims)
        each["axes"] = at_k(each["axes"], k)
    return {"comparisons": pairs, "fronts": fronts}


def _existing(names: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """Return the metrics that exist for some user, by name."""
    pairs = zip(names, values, strict=True)
    return {name: value for name, value in pairs if math.isfinite(value)}


def at_k(by_name: Mapping[str, Any], k: int) -> dict[str, Any]:
    """Return the same values under the metrics' names with the cut-off.

    >>> at_k({"ndcg": 0.5}, 10)
    {'ndcg_at_10': 0.5}
    """
    return {f"{name}_at_{k}": value for name, value in by_name.items()}


def check_call(
    groups: Sequence[Sequence[str]],
    sides: Mapping[str, Sequence[str]],
    num_fronts: int,
    claims: Sequence[str],
    num_resamples: int,
) -> None:
    """Check the arguments before any file is read.

    Raises:
        UserError: an argument is not allowed.
    """
    if len(groups) == 1 or num_fronts == 1 or not (groups or sides):
        raise UserError(
            f"got {len(groups)} RUN and {num_fronts} --front: give two RUN or more (the first is "
            "the reference), or two --front NAME=RUN,RUN,... or more"
        )
    if len(sides) != num_fronts:
        raise UserError("two --front have the same NAME")
    if len({len(group) for group in groups}) > 1:
        sizes = ", ".join(str(len(group)) for group in groups)
        raise UserError(f"groups of seeds must have the same size, got {sizes} runs")
    for group in (*groups, *sides.values()):
        if "" in group or len(set(group)) != len(group):
            raise UserError(f"{','.join(group)}: an empty name, or a run given twice")
    unknown = [name for name in claims if name not in EPOCH_METRICS]
    if unknown or not claims or len(set(claims)) != len(claims):
        raise UserError(
            f"--claims {','.join(claims)}: allowed, once each: {', '.join(EPOCH_METRICS)}"
        )
    if sides and not set(claims) - {ACCURACY, *LOWER_IS_BETTER}:
        raise UserError(
            f"--claims {','.join(claims)} names no axis for --front beside {ACCURACY}; "
            f"lower is better for {', '.join(LOWER_IS_BETTER)}, so none of these can be an axis"
        )
    if num_resamples < 1000:
        raise UserError(
            f"--resamples {num_resamples}: allowed is 1000 or more; fewer give inexact intervals"
        )


def _parse_front(text: str) -> tuple[str, tuple[str, ...]]:
    name, equals, runs = text.partition("=")
    if not (name and equals and runs):
        raise UserError(f"--front {text} is not NAME=RUN,RUN,...")
    return name, tuple(runs.split(","))


def compare_groups(
    samples: Resampled,
    words: Sequence[str],
    reference: Sequence[str],
    other: Sequence[str],
    claims: Sequence[str],
) -> dict[str, Any]:
    """Compare the means of two groups of the same size on every metric."""
    rows = [[words.index(run) for run in group] for group in (reference, other)]
    metrics: dict[str, dict[str, Any]] = {}
    for column, name in enumerate(samples.names):
        before, behind = (samples.values_SM[own, column] for own in rows)
        means = [samples.samples_RSM[:, own, column].mean(axis=1) for own in rows]
        entry = difference(float(before.mean()), float(behind.mean()), means[0], means[1])
        if name not in claims:
            del entry["p"]
        if len(before) > 1:
            by_seed = [float(gain) for gain in behind - before]
            entry |= {"by_seed": by_seed, "sd_of_seeds": statistics.stdev(by_seed)}
        metrics[name] = entry
    return {"reference": ",".join(reference), "other": ",".join(other), "metrics": metrics}


def compare_fronts(
    samples: Resampled,
    words: Sequence[str],
    sides: Mapping[str, Sequence[str]],
    other: str,
    axes: Sequence[str],
) -> dict[str, Any]:
    """Compare a front with the first: hypervolume from (0, 0), diversity at equal accuracy.

    The levels of equal accuracy are SHARES of the accuracy of the first system.
    """
    reference = next(iter(sides))
    rows = [[words.index(run) for run in sides[name]] for name in (reference, other)]
    base = samples.points([0], axes[0])[0][0, 0]
    found: dict[str, dict[str, Any]] = {}
    for axis in axes:
        points = [samples.points(own, axis) for own in rows]
        base_R = samples.points([0], axis)[1][:, 0, 0]
        found[axis] = {"hypervolume": _between(points, [_volume] * (len(base_R) + 1))}
        for share in SHARES:
            levels = [share * base, *(share * base_R)]
            found[axis][f"{share:.0%}"] = _between(points, [_at(level) for level in levels])
    return {"reference": reference, "other": other, "accuracy_of": words[0], "axes": found}


def _between(
    points: Sequence[tuple[Floats, Floats]], measures: Sequence[Callable[[Floats], float]]
) -> dict[str, Any]:
    """Compare two fronts by a number.

    `points` are the measured and resampled points of each front, see `Resampled.points`. The first
    of `measures` is for the measured points, one follows for each resample.
    """
    values = [
        [measure(own) for measure, own in zip(measures, (measured, *samples), strict=True)]
        for measured, samples in points
    ]
    (before, *before_R), (behind, *behind_R) = values
    return difference(before, behind, np.array(before_R), np.array(behind_R))


def _volume(points: Floats) -> float:
    return pareto.hypervolume(points, (0.0, 0.0), ("max", "max"))


def _at(level: float) -> Callable[[Floats], float]:
    return lambda points: pareto.diversity_at(points, level)
