"""Checks of a search space, before anything is spent on it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ray.tune.search.sample import Domain

from recdiv_core.config import Config, override, parse_dial
from recdiv_core.data.queries import count_requests
from recdiv_core.errors import UserError
from recdiv_core.models.baselines import READ_QUERIES
from recdiv_core.search_space import SearchSpace
from recdiv_core.sweep.study import distributions_of
from recdiv_core.training.checks import check_queries, measured_names

logger = logging.getLogger(__name__)


def check_search(space: SearchSpace, name: str) -> None:
    """Refuse a budget, seeds or parameters that the search of a space cannot use.

    Raises:
        UserError: names the space and the setting.
    """
    for setting, limit in (("max_epochs", space.max_epochs), ("max_hours", space.max_hours)):
        if not (math.isfinite(limit) and limit >= 0):
            raise UserError(
                f"--space {name}: {setting}={limit} is no budget; allowed: a number above 0, "
                "or 0, no limit"
            )
    _check_seeds(space, name)
    if swept := [key for key in space.keys if key in parse_dial("none")]:
        logger.warning(
            "--space %s sweeps %s, and each value is a trial of its own; as entries of eval.dials "
            "they would share one trial",
            name,
            ", ".join(swept),
        )
    if space.search == "grid":
        if space.learn_from_earlier:
            raise UserError(
                f"--space {name}: learn_from_earlier has no effect with search='grid'; allowed: "
                "random, quasi_random, tpe, nsga2"
            )
        both = set(space.parameters) & {key for own in space.points for key in own}
        if both:
            raise UserError(
                f"--space {name}: {', '.join(sorted(both))} in parameters and in points; allowed: "
                "one of them"
            )
        return
    if space.points:
        raise UserError(
            f"--space {name}: points have no effect with search={space.search!r}; allowed: grid"
        )
    for key, domain in space.parameters.items():
        if not isinstance(domain, Domain):
            raise UserError(
                f"--space {name}: {key}={domain!r} cannot be searched by {space.search}; allowed: "
                "tune.uniform, quniform, loguniform, randint, choice (a grid: search='grid')"
            )
    distributions_of(space.parameters)


def check_objectives(config: Config, space: SearchSpace, name: str) -> None:
    """Refuse objectives and constraints that no trial would report, and seeds without training.

    Metrics of the space have the cut-off in their names.

    Raises:
        UserError: names the space and the metric or setting.
    """
    if len(space.objectives) < 2:
        raise UserError(
            f"--space {name} has {len(space.objectives)} objectives; a front needs two or more"
        )
    k = config.eval.k
    if "eval.k" in space.keys:
        raise UserError(
            f"--space {name}: eval.k cannot be swept: metrics of different k cannot be compared"
        )
    rising = [f"val/{metric}" for metric in measured_names(k)]
    falling = [f"val/gini_at_{k}", f"val/homogeneity_at_{k}"]
    for objective in space.objectives:
        _check_metric(objective.metric, [*rising, *falling], f"--space {name} trades off", k)
    for metric in (each.metric for each in (*space.objectives, *space.constraints)):
        own = metric.removeprefix("val/")
        check_queries(Path(config.data.prepared), own, f"--space {name}: {metric}")
    for constraint in space.constraints:
        _check_metric(constraint.metric, rising, f"--space {name} constrains", k)
    if space.seeds and not config.train.epochs:
        raise UserError(
            f"--space {name}: seeds={space.seeds} have no effect without training (train.epochs=0)"
        )
    if space.constraints and config.loss.conditioned and not config.train.epochs:
        raise UserError(
            f"--space {name} has constraints, but no baseline: none is trained for a conditioned "
            "model that is not trained further (train.epochs=0)"
        )


def with_useful_points(space: SearchSpace, config: Config, name: str) -> SearchSpace:
    """Return a space without the points whose `model.kind` would only rank by popularity here.

    The kinds that are left out are logged with the reason.

    Raises:
        UserError: no point would be left.
    """
    has_queries = count_requests(Path(config.data.prepared), "val") > 0
    skipped: dict[str, list[str]] = {}
    kept: list[Mapping[str, object]] = []
    for point in space.points:
        own = override(config, point) if "model.kind" in point else None
        reason = own and _why_useless(own, has_queries=has_queries)
        if own and reason:
            skipped.setdefault(reason, []).append(own.model.kind)
        else:
            kept.append(point)
    said = "; ".join(
        f"{', '.join(dict.fromkeys(kinds))} ({reason})" for reason, kinds in skipped.items()
    )
    if said and not kept:
        raise UserError(f"--space {name}: no point is left without {said}")
    if said:
        logger.info("--space %s: left out: %s", name, said)
    return replace(space, points=tuple(kept))


def _why_useless(config: Config, *, has_queries: bool) -> str:
    """Return why this `model.kind` would only rank by popularity; empty = it does more."""
    if config.model.kind in READ_QUERIES and not has_queries:
        return "no validation request has a query"
    if config.model.kind == "buy_again" and config.eval.filter_seen:
        return "eval.filter_seen=true leaves out the items of the history"
    return ""


def _check_metric(metric: str, allowed: list[str], what: str, k: int) -> None:
    if metric not in allowed:
        raise UserError(
            f"{what} {metric}, which is not measured with eval.k={k}; allowed: {', '.join(allowed)}"
        )


def _check_seeds(space: SearchSpace, name: str) -> None:
    if not space.seeds:
        return
    given = f"--space {name}: seeds={space.seeds}"
    if len(set(space.seeds)) < len(space.seeds) or min(space.seeds) < 0:
        raise UserError(f"{given}; allowed: different whole numbers, 0 or more")
    if "seed" in {*space.keys, *space.fixed}:
        raise UserError(f"{given}, and seed among its parameters or fixed; allowed: one of them")
    if space.learn_from_earlier:
        raise UserError(f"{given}: cannot go with learn_from_earlier, which takes single trials")
