"""The points of a searched space, proposed by an Optuna study that is asked and told.

This module adds three things to Optuna: it reads Tune's domains, it tries no point twice, and it
learns from trials of earlier sweeps. A point maps each parameter to a value as Optuna knows it:
choices must be hashable there, so a choice is JSON text.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.trial import TrialState, create_trial
from ray import tune
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.sample import Categorical

from recdiv_core.search_space import SearchSpace

logger = logging.getLogger(__name__)

ATTEMPTS: Final = 20
"""Proposals of points already tried before the first untried point is taken instead."""
GENERATIONS: Final = 4
"""Generations of NSGA-II within a sweep's trials."""


class Study:
    """An Optuna study of a space's objectives and constraints.

    For `minimum` see `FrontSearch`.
    """

    def __init__(self, space: SearchSpace, seed: int, minimum: Mapping[str, float]) -> None:
        self.distributions = distributions_of(space.parameters)
        self.objectives = [objective.metric for objective in space.objectives]
        self.minimum = dict(minimum)
        self.study = optuna.create_study(
            directions=[
                "maximize" if o.direction == "max" else "minimize" for o in space.objectives
            ],
            sampler=_sampler(space, seed),
        )
        self.running: dict[str, optuna.Trial] = {}
        self.tried: set[str] = set()

    def ask(self, name: str) -> dict[str, Any] | None:
        """Return the settings of a point that was not tried yet; None after the last one."""
        values = [_values(distribution) for distribution in self.distributions.values()]
        total = math.prod(len(own) or math.inf for own in values)
        attempts = 0
        while len(self.tried) < total:
            attempts += 1
            if attempts > ATTEMPTS and math.isfinite(total):
                points = (
                    dict(zip(self.distributions, p, strict=True))
                    for p in itertools.product(*values)
                )
                self.study.enqueue_trial(next(p for p in points if _key(p) not in self.tried))
            trial = self.study.ask(fixed_distributions=self.distributions)
            if _key(trial.params) not in self.tried:
                self.tried.add(_key(trial.params))
                self.running[name] = trial
                return self._settings(trial.params)
            self.study.tell(trial, state=TrialState.FAIL)
        logger.info("every point has been tried (%d)", len(self.tried))
        return None

    def tell(self, name: str, metrics: Mapping[str, float] | None) -> None:
        """Tell Optuna what a point reached; None = it failed."""
        trial = self.running.pop(name)
        if metrics is None:
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            self._complete(trial, metrics)

    def learn(self, settings: Mapping[str, Any], metrics: Mapping[str, float]) -> bool:
        """Tell Optuna of an earlier trial; return whether it is a new point of this space."""
        point = self._point(settings)
        if point is None or _key(point) in self.tried:
            return False
        # asked and told: NSGA-II breeds from no trial that `add_trial` adds, it has no generation
        self.study.enqueue_trial(point)
        self._complete(self.study.ask(fixed_distributions=self.distributions), metrics)
        self.tried.add(_key(point))
        return True

    def _complete(self, trial: optuna.Trial, metrics: Mapping[str, float]) -> None:
        for name, value in self.minimum.items():
            trial.set_constraint(name, value - metrics[name])
        self.study.tell(trial, [metrics[name] for name in self.objectives])

    def _settings(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of a trial from a point."""
        choices = {
            n for n, d in self.distributions.items() if isinstance(d, CategoricalDistribution)
        }
        return {n: json.loads(value) if n in choices else value for n, value in point.items()}

    def _point(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the point of some settings; None if it is not in the space."""
        point = {name: settings.get(name) for name in self.distributions}
        for name, distribution in self.distributions.items():
            if isinstance(distribution, CategoricalDistribution):
                texts = {_sorted(json.loads(text)): text for text in map(str, distribution.choices)}
                point[name] = texts.get(_sorted(point[name]))
        try:
            create_trial(state=TrialState.FAIL, params=point, distributions=self.distributions)
        except ValueError:
            return None
        return point


def distributions_of(parameters: Mapping[str, object]) -> dict[str, BaseDistribution]:
    """Return Optuna's distributions of Tune's domains.

    Raises:
        ValueError: Optuna has no such distribution.
    """
    return OptunaSearch.convert_search_space(
        {
            key: tune.choice([json.dumps(value) for value in domain.categories])
            if isinstance(domain, Categorical)
            else domain
            for key, domain in parameters.items()
        }
    )


def _sampler(space: SearchSpace, seed: int) -> BaseSampler:
    if space.search == "tpe":
        return optuna.samplers.TPESampler(seed=seed)
    if space.search == "nsga2":
        # Optuna's default of 50 a generation would leave a sweep one generation, drawn at random
        size = max(4, space.num_samples // GENERATIONS)
        return optuna.samplers.NSGAIISampler(population_size=size, seed=seed)
    if space.search == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.QMCSampler(scramble=True, seed=seed)


def _values(distribution: BaseDistribution) -> Sequence[Any]:
    """Return all values of a distribution; none of a continuous one."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, IntDistribution):
        return range(distribution.low, distribution.high + 1, distribution.step)
    assert isinstance(distribution, FloatDistribution)
    if distribution.step is None:
        return ()
    steps = round((distribution.high - distribution.low) / distribution.step)
    return [distribution.low + step * distribution.step for step in range(steps + 1)]


def _key(point: Mapping[str, Any]) -> str:
    """Return a text that is the same for equal points; floats count to ten digits."""
    return _sorted({n: float(f"{v:.10g}") if isinstance(v, float) else v for n, v in point.items()})


def _sorted(value: object) -> str:
    return json.dumps(value, sort_keys=True)
