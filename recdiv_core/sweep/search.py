"""What a sweep tries next, learnt from what its trials have reached so far.

Not the running of trials (sweep.py) nor the stopping of those that fall behind (rungs.py). The one
idea: a trial counts with the figures of its selected epoch, those that the report judges it by.
Ray Tune's OptunaSearch hands Tune's domains to Optuna's samplers; what it lacks (ray 2.60) is here:
choices that are mappings, constraints, earlier trials, that nothing is tried twice, and points of
several seeds, each of them a trial. A grid is walked by Tune, as far as the hours last, one with
seeds here: Tune goes by the names of the axes. All of it is saved and restored with the sweep.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search import Searcher
from ray.tune.search.basic_variant import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.sample import Categorical, Domain

from recdiv_core.config import Config
from recdiv_core.errors import UserError
from recdiv_core.metrics.repeats import means_of
from recdiv_core.search_space import SearchSpace
from recdiv_core.training.selection import is_selected

logger = logging.getLogger(__name__)

FINISHED: Final = cast("dict[str, Any]", Searcher.FINISHED)
ATTEMPTS: Final = 20
"""How often a sampler may offer what has been tried, before any untried point will do."""

GENERATIONS: Final = 4
"""Of NSGA-II within the trials of a sweep."""


class Hours:
    """How long a sweep may run, over all the processes that it has run in.

    What was spent is part of what is pickled; the time between two processes is none of it.

    Args:
        limit: in hours; 0 = none.
    """

    def __init__(self, limit: float) -> None:
        self.limit_s, self.before_s, self.began = 3600 * limit, 0.0, time.monotonic()

    def are_spent(self) -> bool:
        """Tell whether no more trials begin."""
        if not self.limit_s or self.spent_s() < self.limit_s:
            return False
        logger.info("the sweep has run %.2f hours: no more trials begin", self.spent_s() / 3600)
        return True

    def spent_s(self) -> float:
        """Return the seconds that the sweep has run."""
        return self.before_s + time.monotonic() - self.began

    def __getstate__(self) -> dict[str, float]:
        """Return what to save; the clock of another machine shows something else."""
        return {"limit_s": self.limit_s, "before_s": self.spent_s()}

    def __setstate__(self, state: Mapping[str, float]) -> None:
        """Go on from what was saved."""
        self.limit_s, self.before_s = state["limit_s"], state["before_s"]
        self.began = time.monotonic()


class FrontSearch(OptunaSearch):
    """Search a space for the front of its objectives.

    Args:
        space: a grid with seeds is walked point by point.
        config: what all trials share.
        least: metric -> figure that a trial must reach, or it breaks a constraint.
        hours: that the sweep may run.
    """

    def __init__(
        self, space: SearchSpace, config: Config, least: Mapping[str, float], hours: Hours
    ) -> None:
        self.is_grid = space.search == "grid"
        self.domains = _distributions(_choices(space) if self.is_grid else space.parameters)
        super().__init__(
            self.domains,
            metric=[objective.metric for objective in space.objectives],
            mode=[objective.direction for objective in space.objectives],
            sampler=_sampler(space, config.seed),
        )
        assert self._ot_study is not None
        self.study: optuna.Study = self._ot_study
        self.config, self.least = config, dict(least)
        self.max_epochs, self.hours = space.max_epochs, hours
        self.seen: set[str] = set()
        self.selected: dict[str, dict[str, float]] = {}
        self.epochs: dict[str, int] = {}
        self.seeds = space.seeds
        self.to_come: list[dict[str, Any]] = []
        self.newest = ""
        self.point_of: dict[str, str] = {}
        self.reached: dict[str, dict[str, dict[str, float] | None]] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Return settings that no trial has had, or Searcher.FINISHED, which is text.

        Those of a point, which bears the name of its first trial, once a seed.
        """
        if not self.to_come:
            settings = self._next_point(trial_id)
            if settings is None:
                return FINISHED
            self.newest, self.reached[trial_id] = trial_id, {}
            self.to_come = [{**settings, "seed": seed} for seed in self.seeds] or [settings]
        self.point_of[trial_id] = self.newest
        return self.to_come.pop(0)

    def _next_point(self, name: str) -> dict[str, Any] | None:
        """Return settings that no point has had; None where no more points begin."""
        if self.max_epochs and sum(self.epochs.values()) >= self.max_epochs:
            logger.info("the trials have trained %d epochs: no more begin", self.max_epochs)
            return None
        if self.hours.are_spent():
            return None
        num_points, attempts = _num_points(self.domains), 0
        while len(self.seen) < num_points:
            attempts += 1
            if self.is_grid or (attempts > ATTEMPTS and math.isfinite(num_points)):
                self.study.enqueue_trial(self._untried())
            point = super().suggest(name)
            assert point is not None
            if _key(point) not in self.seen:
                self.seen.add(_key(point))
                return self._decode(point)
            self.study.tell(self._ot_trials.pop(name), state=optuna.trial.TrialState.FAIL)
        logger.info("all %d configurations have been tried", len(self.seen))
        return None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Note the epoch, and its figures where it is the selected one so far."""
        self.epochs[trial_id] = int(result["epoch"])
        figures = {name: float(v) for name, v in result.items() if name.startswith("val/")}
        select, objective = self.config.train.select, f"val/{self.config.eval.objective_at_k}"
        if is_selected(select, objective, figures, self.selected.get(trial_id)):
            self.selected[trial_id] = figures

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Learn what a trial reached: its selected epoch, of one that was stopped the one so far.

        A trial without figures, or with one that is not finite, has failed. Optuna is told of a
        point once all its trials have ended: the means of those that did not fail.
        """
        if result and "epoch" in result:
            self.on_trial_result(trial_id, result)  # Tune leaves out the one that a trial ends with
        figures = self.selected.pop(trial_id, {})
        if result and "best/epoch" in result:
            figures = {name: result[f"best/{name}"] for name in figures}
        needed = [*self.metric, *self.least]
        has_failed = error or not all(math.isfinite(figures.get(n, math.nan)) for n in needed)
        point = self.point_of[trial_id]
        if point not in self.reached:  # told: a restored sweep runs again what had failed
            return
        self.reached[point][trial_id] = None if has_failed else figures
        if len(self.reached[point]) == max(1, len(self.seeds)):
            ended = self.reached.pop(point).values()
            self._tell(point, [own for own in ended if own is not None])

    def _tell(self, point: str, reached: Sequence[Mapping[str, float]]) -> None:
        means = means_of(reached)
        if reached:
            self._constrain(self._ot_trials[point], means)
        super().on_trial_complete(point, means or None, error=not reached)

    def learn(self, sample: Mapping[str, Any], figures: Mapping[str, float]) -> bool:
        """Take in a trial of an earlier sweep; return whether it is of this space.

        Args:
            sample: parameter -> value.
            figures: of its selected epoch, with their `val/`.
        """
        point = self._encode(sample)
        needed = [*self.metric, *self.least]
        if (
            point is None
            or _key(point) in self.seen
            or not all(math.isfinite(figures.get(name, math.nan)) for name in needed)
        ):
            return False
        # asked and told: a trial that is only added is of no generation of NSGA-II
        self.study.enqueue_trial(point)
        trial = self.study.ask(fixed_distributions=self.domains)
        self._constrain(trial, figures)
        self.study.tell(trial, [figures[name] for name in self.metric])
        self.seen.add(_key(point))
        return True

    def _constrain(self, trial: optuna.Trial, figures: Mapping[str, float]) -> None:
        for name, least in self.least.items():
            trial.set_constraint(name, least - figures[name])

    def _untried(self) -> dict[str, Any]:
        """Return the first point in the order of the domains that nobody had; there is one."""
        names = list(self.domains)
        points = itertools.product(*(_values(self.domains[name]) for name in names))
        named = (dict(zip(names, values, strict=True)) for values in points)
        return next(point for point in named if _key(point) not in self.seen)

    def _decode(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of a point, in which a choice is JSON text."""
        return {
            name: json.loads(value)
            if isinstance(self.domains[name], CategoricalDistribution)
            else value
            for name, value in point.items()
        }

    def _encode(self, sample: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the point of some settings; None where the space does not have it."""
        point: dict[str, Any] = {}
        for name, distribution in self.domains.items():
            value = sample.get(name)
            if isinstance(distribution, CategoricalDistribution):
                texts = {_sorted(json.loads(text)): text for text in map(str, distribution.choices)}
                value = texts.get(_sorted(value))
            if value is None or not _holds(distribution, value):
                return None
            point[name] = value
        return point


class GridWalk(BasicVariantGenerator):
    """Walk a grid as Tune does, until the hours are spent.

    Args:
        hours: that the sweep may run.
        max_concurrent: trials at once. Tune draws up no more of a grid than may run.
    """

    def __init__(self, hours: Hours, *, max_concurrent: int) -> None:
        super().__init__(max_concurrent=max_concurrent)
        self.hours = hours

    def next_trial(self) -> Trial | None:
        """Return the next point of the grid; None where there is none now."""
        if self.hours.are_spent():
            self.set_finished()
        return super().next_trial()


def most_trials(space: SearchSpace) -> int:
    """Return how many trials a searcher may be asked for."""
    is_grid = space.search == "grid"
    axes = [len(axis.categories) for axis in _choices(space).values()] if is_grid else []
    points = math.prod(axes) if is_grid else space.num_samples
    return points * max(1, len(space.seeds))


def check_search(space: SearchSpace, name: str) -> None:
    """Refuse a space that cannot be searched as it asks.

    Raises:
        UserError: naming the space and the parameter or setting.
    """
    for setting, limit in (("max_epochs", space.max_epochs), ("max_hours", space.max_hours)):
        if not (math.isfinite(limit) and limit >= 0):
            raise UserError(
                f"--space {name}: {setting}={limit} is no budget; allowed: a number above 0, "
                "or 0, no limit"
            )
    _check_seeds(space, name)
    if space.search == "grid":
        if space.max_epochs or space.learn_from_earlier:
            raise UserError(
                f"--space {name}: max_epochs and learn_from_earlier have no effect with "
                "search='grid'; allowed: random, quasi_random, tpe, nsga2"
            )
        return
    for key, domain in space.parameters.items():
        if not isinstance(domain, Domain):
            raise UserError(
                f"--space {name}: {key}={domain!r} cannot be searched by {space.search}; allowed: "
                "tune.uniform, quniform, loguniform, randint, choice (a grid: search='grid')"
            )
    _distributions(space.parameters)


def _check_seeds(space: SearchSpace, name: str) -> None:
    if not space.seeds:
        return
    said = f"--space {name}: seeds={space.seeds}"
    if len(set(space.seeds)) < len(space.seeds) or min(space.seeds) < 0:
        raise UserError(f"{said}; allowed: different whole numbers, 0 or more")
    if "seed" in {*space.parameters, *space.fixed}:
        raise UserError(f"{said}, and seed among its parameters or fixed; allowed: one of them")
    if space.learn_from_earlier:
        raise UserError(f"{said}: learn_from_earlier, of single trials, does not go with them")
    drawn = [key for key, domain in space.parameters.items() if isinstance(domain, Domain)]
    if space.search == "grid" and (drawn or space.num_samples > 1):
        what = f"{', '.join(drawn)}, drawn anew each time," if drawn else "num_samples above 1"
        raise UserError(
            f"{said}: {what} cannot be the same point for every seed of a grid; allowed: "
            "tune.grid_search and num_samples=1, or another search"
        )


def _sampler(space: SearchSpace, seed: int) -> BaseSampler:
    if space.search == "tpe":
        return optuna.samplers.TPESampler(seed=seed)
    if space.search == "nsga2":
        # Optuna's 50 a generation would be one generation, drawn at random
        size = max(4, space.num_samples // GENERATIONS)
        return optuna.samplers.NSGAIISampler(population_size=size, seed=seed)
    if space.search in ("random", "grid"):  # of a grid it is never asked
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.QMCSampler(scramble=True, seed=seed)


def _choices(space: SearchSpace) -> dict[str, Categorical]:
    """Return the axes of a grid as choices."""
    axes = {
        key: axis["grid_search"] if isinstance(axis, Mapping) and "grid_search" in axis else [axis]
        for key, axis in space.parameters.items()
    }
    return {key: tune.choice(values) for key, values in axes.items()}


def _distributions(parameters: Mapping[str, object]) -> dict[str, BaseDistribution]:
    """Return Optuna's form of Tune's domains, each choice as JSON text: Optuna hashes choices."""
    return OptunaSearch.convert_search_space(
        {
            key: tune.choice([json.dumps(value) for value in domain.categories])
            if isinstance(domain, Categorical)
            else domain
            for key, domain in parameters.items()
        }
    )


def _values(distribution: BaseDistribution) -> Sequence[Any]:
    """Return all values of a domain; none of a continuous one."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, IntDistribution):
        return range(distribution.low, distribution.high + 1, distribution.step)
    assert isinstance(distribution, FloatDistribution)
    if distribution.step is None:
        return ()
    steps = round((distribution.high - distribution.low) / distribution.step)
    return [distribution.low + step * distribution.step for step in range(steps + 1)]


def _num_points(space: Mapping[str, BaseDistribution]) -> float:
    """Return how many configurations there are."""
    return math.prod(len(_values(distribution)) or math.inf for distribution in space.values())


def _holds(distribution: BaseDistribution, value: object) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    values = _values(distribution)
    is_within = distribution.low <= value <= distribution.high
    return is_within and (not values or any(math.isclose(value, other) for other in values))


def _key(point: Mapping[str, Any]) -> str:
    """Return the text that equal configurations share; floats to ten digits."""
    rounded = {n: float(f"{v:.10g}") if isinstance(v, float) else v for n, v in point.items()}
    return _sorted(rounded)


def _sorted(value: object) -> str:
    return json.dumps(value, sort_keys=True)
