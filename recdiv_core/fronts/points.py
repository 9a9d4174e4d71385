"""Make the points of a sweep from its trials: one per training and re-ranking setting.

Trials that differ by seed alone are one training, and a point has the means of their metrics. A
point is a Trial, so that fronts, knees and tables need not know of seeds. It names the run
nearest to the means, whose model would be shipped. The best of several seeds would look better than
it is, on the metrics that chose it. trials.py chooses between points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from recdiv_core.fronts.trials import Sweep, Trial, broken, metric_of
from recdiv_core.metrics.repeats import half_widths_of, means_of, most_typical


def points(sweep: Sweep) -> tuple[Trial, ...]:
    """Return the points that finished, in the order of their first trials.

    The model as it was trained comes before the same model under each entry of `eval.dials`. Of
    trials with the same settings and seed the first counts. A point counts with the seeds that
    finished, if there are at least two: a single trial among means may stand out by luck.
    """
    names = [metric_of(objective) for objective in sweep.objectives]
    finished = [_finished(own) for own in _grouped(sweep).values()]
    groups = [own for trained in finished for own in _by_dials(trained)]
    fewest = 2 if len(sweep.seeds) > 1 else 1
    return tuple(_merge(own, names, sweep.least) for own in groups if len(own) >= fewest)


def ended_points(sweep: Sweep) -> tuple[Trial, ...]:
    """Return the points that are final: in a running sweep those whose seeds have all ended.

    The means of a point change while its seeds end one after another.
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


def _by_dials(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Return the trials of a training as they were trained, then under each of their dials."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        for own in trial.reranked:
            groups.setdefault(str(own.dials), []).append(own)
    return [list(trials), *groups.values()]


def _finished(trials: Sequence[Trial]) -> list[Trial]:
    by_seed: dict[object, Trial] = {}
    for trial in trials:
        if trial.status == "FINISHED" and trial.val:
            by_seed.setdefault(trial.seed, trial)
    return list(by_seed.values())


def _num_ended(trials: Sequence[Trial]) -> int:
    return len({trial.seed for trial in trials if trial.status in ("FINISHED", "FAILED")})


def _merge(trials: Sequence[Trial], names: Sequence[str], least: Mapping[str, float]) -> Trial:
    """Return the point of some trials; a single trial is its own point."""
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
        breaks=broken(means, least),
        ended_ms=max(trial.ended_ms or 0 for trial in trials),
    )
