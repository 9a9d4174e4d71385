"""Compare trained runs on the same users: runs, groups of seeds, and whole fronts.

Not how a run is judged (judged_runs.py), how a difference gets its interval (drawn_figures.py) nor
how it is said (compare_text.py). The first run is the reference of all others, and its accuracy
what fronts are matched at. Whatever is claimed in one call is corrected together. docs/compare.md
says what the intervals cover and what not.

Legend: R draws, S runs.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from recdiv_core.config import Config
from recdiv_core.errors import UserError
from recdiv_core.evaluation.compare_text import comparison_sentence, front_sentence, short_names
from recdiv_core.evaluation.differences import (
    ACCURACY,
    Drawn,
    Floats,
    correct_claims,
    difference,
    draw,
)
from recdiv_core.evaluation.judged_runs import check_comparable, find_run, judge_runs
from recdiv_core.metrics import pareto
from recdiv_core.metrics.tally import SYSTEM_METRICS, USER_METRICS

logger = logging.getLogger(__name__)

CLAIMS: Final = ("ndcg", "coverage", "ild")
"""What is claimed where nobody says: accuracy, all slates together, the inside of a slate."""

SHARES: Final = (0.99, 0.95, 0.90)
"""Of the reference's accuracy, at which fronts are matched."""

LOWER_IS_BETTER: Final = ("gini", "homogeneity")
"""Not to be an axis of a front."""


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
    """Compare runs, or groups of them, with the first; and fronts of runs with the first front.

    Args:
        config: of this call, for `tracking.uri`.
        runs: RUN, or `RUN,RUN,...`: the seeds of one model, in the same order everywhere.
        fronts: `NAME=RUN,RUN,...`.
        settings: dotted key -> value for all runs.
        split: `val` or `test`.
        num_resamples: draws.
        claims: metrics that are claimed, accuracy among them or not.

    Returns:
        `{"split", "k", "num_users", "resamples", "claims", "figures", "comparisons", "fronts"}`.

    Raises:
        UserError: nothing to compare, a name that is unknown, runs that do not compare.
    """
    groups = [tuple(group.split(",")) for group in runs]
    sides = dict(_parse_front(text) for text in fronts)
    check_call(groups, sides, len(fronts), claims, num_resamples)
    words = list(dict.fromkeys([run for group in (*groups, *sides.values()) for run in group]))

    def uri() -> str:
        from recdiv_core.tracking.store import tracking_uri

        return tracking_uri(config)

    found = [find_run(word, settings, uri) for word in words]
    check_comparable(found)
    judged = judge_runs(found, split)
    drawn = draw(judged, num_resamples)
    logger.info("%d draws of %d users", num_resamples, len(judged[0].slates_UK))
    k = found[0].config.eval.k
    comparisons = [compare_groups(drawn, words, groups[0], group, claims) for group in groups[1:]]
    axes = [name for name in claims if name != ACCURACY and name not in LOWER_IS_BETTER]
    against = [compare_fronts(drawn, words, sides, name, axes) for name in list(sides)[1:]]
    num_claims = correct_claims([*comparisons, *against])
    names = short_names(words)
    for each in comparisons:
        each["sentence"] = comparison_sentence(each, names, num_claims)
        each["metrics"] = at_k(each["metrics"], k)
    for each in against:
        each["sentence"] = front_sentence(each, num_claims)
        each["axes"] = at_k(each["axes"], k)
    return {
        "split": split,
        "k": k,
        "num_users": len(judged[0].slates_UK),
        "resamples": num_resamples,
        "claims": list(at_k(dict.fromkeys(claims), k)),
        "figures": {
            word: at_k(dict(zip(drawn.names, row, strict=True)), k)
            for word, row in zip(words, drawn.figures_SM.tolist(), strict=True)
        },
        "comparisons": comparisons,
        "fronts": against,
    }


def at_k(by_name: Mapping[str, Any], k: int) -> dict[str, Any]:
    """Return what stands under a metric's name under its name with the cut-off.

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
    """Check what can be checked before anything is read.

    Raises:
        UserError: what was given and what is allowed.
    """
    if len(groups) == 1 or num_fronts == 1 or not (groups or sides):
        raise UserError(
            f"got {len(groups)} RUN and {num_fronts} --front: give two RUN or more, the first the "
            "reference, or two --front NAME=RUN,RUN,... or more"
        )
    if len(sides) != num_fronts:
        raise UserError("two --front have the same NAME")
    if len({len(group) for group in groups}) > 1:
        sizes = ", ".join(str(len(group)) for group in groups)
        raise UserError(f"groups of seeds must be of one size, got {sizes} runs")
    for group in (*groups, *sides.values()):
        if "" in group or len(set(group)) != len(group):
            raise UserError(f"{','.join(group)}: an empty name, or a run that stands there twice")
    allowed = [*USER_METRICS, *SYSTEM_METRICS]
    unknown = [name for name in claims if name not in allowed]
    if unknown or not claims or len(set(claims)) != len(claims):
        raise UserError(f"--claims {','.join(claims)}: allowed, once each: {', '.join(allowed)}")
    if sides and not set(claims) - {ACCURACY, *LOWER_IS_BETTER}:
        raise UserError(
            f"--claims {','.join(claims)} names no axis for --front beside {ACCURACY}; "
            f"{' and '.join(LOWER_IS_BETTER)} are better when lower and cannot be one"
        )
    if num_resamples < 1000:
        raise UserError(f"--resamples {num_resamples}: at least 1000, or the ends are too coarse")


def _parse_front(text: str) -> tuple[str, tuple[str, ...]]:
    name, equals, runs = text.partition("=")
    if not (name and equals and runs):
        raise UserError(f"--front {text} is not NAME=RUN,RUN,...")
    return name, tuple(runs.split(","))


def compare_groups(
    drawn: Drawn,
    words: Sequence[str],
    reference: Sequence[str],
    other: Sequence[str],
    claims: Sequence[str],
) -> dict[str, Any]:
    """Compare two groups of as many runs on every metric; means over each."""
    of = [[words.index(run) for run in group] for group in (reference, other)]
    metrics: dict[str, dict[str, Any]] = {}
    for place, name in enumerate(drawn.names):
        before, behind = (drawn.figures_SM[places, place] for places in of)
        draws = [drawn.draws_RSM[:, places, place].mean(axis=1) for places in of]
        entry = difference(float(before.mean()), float(behind.mean()), draws[0], draws[1])
        if name not in claims:
            del entry["p"]
        if len(before) > 1:
            by_seed = [float(gain) for gain in behind - before]
            entry |= {"by_seed": by_seed, "sd_of_seeds": statistics.stdev(by_seed)}
        metrics[name] = entry
    return {"reference": ",".join(reference), "other": ",".join(other), "metrics": metrics}


def compare_fronts(
    drawn: Drawn,
    words: Sequence[str],
    sides: Mapping[str, Sequence[str]],
    other: str,
    axes: Sequence[str],
) -> dict[str, Any]:
    """Compare a front with the first: hypervolume from (0, 0), diversity at matched accuracy.

    Accuracy is matched at shares of that of the run that was named first.
    """
    reference = next(iter(sides))
    of = [[words.index(run) for run in sides[name]] for name in (reference, other)]
    base = drawn.points([0], axes[0])[0][0, 0]
    found: dict[str, dict[str, Any]] = {}
    for axis in axes:
        sets = [drawn.points(places, axis) for places in of]
        base_R = drawn.points([0], axis)[1][:, 0, 0]
        found[axis] = {"hypervolume": _between(sets, [_volume] * (len(base_R) + 1))}
        for share in SHARES:
            levels = [share * base, *(share * base_R)]
            found[axis][f"{share:.0%}"] = _between(sets, [_at(level) for level in levels])
    return {"reference": reference, "other": other, "accuracy_of": words[0], "axes": found}


def _between(
    sets: Sequence[tuple[Floats, Floats]], figures: Sequence[Callable[[Floats], float]]
) -> dict[str, Any]:
    """Compare two fronts by a figure: the first of what was measured, the others of each draw."""
    values = [
        [figure(points) for figure, points in zip(figures, (measured, *drawn), strict=True)]
        for measured, drawn in sets
    ]
    (before, *before_R), (behind, *behind_R) = values
    return difference(before, behind, np.array(before_R), np.array(behind_R))


def _volume(points: Floats) -> float:
    return pareto.hypervolume(points, (0.0, 0.0), ("max", "max"))


def _at(level: float) -> Callable[[Floats], float]:
    return lambda points: pareto.diversity_at(points, level)
