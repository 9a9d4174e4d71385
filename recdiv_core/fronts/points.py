"""Trials that differ by seed alone as one point: their means stand for it, and one of them.

Not the choosing between points (trials.py). The one idea: a point is a Trial, whose figures are
means, so that fronts, knees and tables need not know of seeds. The run that is named, whose model
would be shipped, is the one nearest to the means: the best of several seeds would look better on
the figures that chose it than it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from recdiv_core.fronts.trials import Sweep, Trial, metric_of
from recdiv_core.metrics.repeats import half_widths_of, means_of, most_typical


def points(sweep: Sweep) -> tuple[Trial, ...]:
    """Return the points that finished, in the order of their first trials.

    Of trials with the same settings and seed the first counts. A point that lost some of its seeds
    is judged by the others, if they are two at least: a single one, and the base model, would stand
    among means by its luck.
    """
    names = [metric_of(objective) for objective in sweep.objectives]
    groups = [_finished(own) for own in _grouped(sweep).values()]
    fewest = 2 if len(sweep.seeds) > 1 else 1
    return tuple(_merge(own, names, sweep.least) for own in groups if len(own) >= fewest)


def ended_points(sweep: Sweep) -> tuple[Trial, ...]:
    """Return the points of which no trial is to come; of a running sweep those with all seeds.

    A point's means still move while its seeds end one by one; once it is here, they stay.
    """
    whole = {
        key: own
        for key, own in _grouped(sweep).items()
        if sweep.status != "RUNNING" or _num_ended(own) >= len(sweep.seeds)
    }
    trials = tuple(trial for own in whole.values() for trial in own)
    return points(replace(sweep, trials=trials))


def _grouped(sweep: Sweep) -> Mapping[str, Sequence[Trial]]:
    groups: dict[str, list[Trial]] = {}
    for trial in sweep.trials:
        groups.setdefault(trial.point or trial.run_id, []).append(trial)
    return groups


def _finished(trials: Sequence[Trial]) -> list[Trial]:
    by_seed: dict[object, Trial] = {}
    for trial in trials:
        if trial.status == "FINISHED" and trial.val:
            by_seed.setdefault(trial.seed, trial)
    return list(by_seed.values())


def _num_ended(trials: Sequence[Trial]) -> int:
    return len({trial.seed for trial in trials if trial.status in ("FINISHED", "FAILED")})


def _merge(trials: Sequence[Trial], names: Sequence[str], least: Mapping[str, float]) -> Trial:
    """Return the point of some trials; a single one is its own."""
    val = [trial.val for trial in trials]
    named = trials[most_typical(val, names)]
    if len(trials) == 1:
        return named
    means, test = means_of(val), [trial.test for trial in trials]
    return replace(
        named,
        val=means,
        test=means_of(test),
        val_half=half_widths_of(val),
        test_half=half_widths_of(test),
        repeats=tuple(trials),
        breaks=tuple(
            name for name, value in least.items() if means.get(_bare(name), value) < value
        ),
        ended_ms=max(trial.ended_ms or 0 for trial in trials),
    )


def _bare(metric: str) -> str:
    return metric.rpartition("/")[2]
