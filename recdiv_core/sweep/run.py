"""Run a search space: many training runs on one cluster, each a child of one MLflow run.

A trial is `override(config, sample)` and the same `launch` that `pipelines.train` calls. Text
vectors, the base model and the baseline are made once, before the first trial. The driver of the
sweep keeps the MLflow runs of all trials (tracking.py). A sweep whose `run.name` exists is resumed.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, Final, cast

from ray.tune.search.sample import Categorical

from recdiv_core.cluster.start import start_ray
from recdiv_core.config import Config, to_yaml
from recdiv_core.data.text_vectors import ensure_vectors
from recdiv_core.report.dashboard import trials_url
from recdiv_core.report.report import report
from recdiv_core.schema import Manifest, check_unchanged
from recdiv_core.search_space import SearchSpace, at_k
from recdiv_core.sweep.checks import check_objectives, check_search, with_useful_points
from recdiv_core.sweep.search import Budget
from recdiv_core.sweep.tracking import open_parent
from recdiv_core.sweep.tuner import run_trials
from recdiv_core.sweep.warm_start import prepare_trials
from recdiv_core.tracking.children import close_stale_children
from recdiv_core.tracking.runs import RunHandle, finish_run, machine_watched, set_tags
from recdiv_core.tracking.store import tracking_uri
from recdiv_core.training.checks import check_config
from recdiv_core.training.launch import ensure_frozen, shared_places
from recdiv_core.training.run_files import (
    claim_run,
    existing_result,
    on_own_version,
    place_run,
    write_result,
    write_run_file,
)
from recdiv_core.wording import counted

logger = logging.getLogger(__name__)

DEPTH: Final = "model.text.trainable_layers"


def run(config: Config, space: SearchSpace, name: str) -> dict[str, Any]:
    """Run a space and write its report.

    `space.fixed` is applied to `config`.

    Returns:
        `{"experiment", "parent_run_id", "num_trials", "front", ...}`.

    Raises:
        UserError: a bad config or space, or a cluster that cannot hold even one trial.
    """
    config = on_own_version(place_run(config, name))
    check_search(space, name)
    space = at_k(space, config.eval.k, name)
    budget = Budget(space.max_epochs, space.max_hours)
    swept = {*space.keys, *(space.warm_start or {})}
    config, manifest = check_config(config, swept=swept)
    check_objectives(config, space, name)
    space = with_useful_points(space, config, name)
    if existing_result(config) is None:
        with claim_run(config):
            if existing_result(config) is None:  # another process may just have finished it
                return _run(config, space, name, manifest, budget=budget)
    logger.info("run.name=%s has finished already", config.run.name)
    return _result(config, open_parent(config, space, name, manifest, reopen=False))


def _run(
    config: Config, space: SearchSpace, name: str, manifest: Manifest, *, budget: Budget
) -> dict[str, Any]:
    """Run a sweep that has not finished, from where it stopped."""
    tracking_uri(config)
    start_ray(config, shared_places(config))
    parent = open_parent(config, space, name, manifest, reopen=True)
    logger.info("the trials in MLflow (`make dashboard`): %s", trials_url(parent))
    status = "FAILED"
    try:
        ensure_vectors(Path(config.data.prepared), manifest)
        for depth in _depths(config, space):
            ensure_frozen(config, manifest, depth)
        write_run_file(config, "config.yaml", to_yaml(config))
        shared, minimum = prepare_trials(config, space, parent, manifest)
        set_tags(parent, {"recdiv.least": json.dumps(minimum)})
        with machine_watched(parent):
            run_trials(shared, space, parent, manifest, minimum=minimum, budget=budget)
        check_unchanged(Path(config.data.prepared), manifest)
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):  # Ray answers SIGTERM with SystemExit
        status = "KILLED"
        raise KeyboardInterrupt from None
    finally:
        stale = close_stale_children(parent)
        if stale:
            logger.warning("%s still running: marked KILLED", counted(stale, "trial"))
        finish_run(parent, status)
    result = _result(config, parent)
    write_result(config, result)
    return result


def _depths(config: Config, space: SearchSpace) -> set[int]:
    """Return the numbers of trained layers of the encoder that trials may have, as listed."""
    found = {config.model.text.trainable_layers}
    found |= {cast("int", point[DEPTH]) for point in space.points if DEPTH in point}
    domain: Any = space.parameters.get(DEPTH)
    if isinstance(domain, dict):
        found |= set(domain["grid_search"])
    elif isinstance(domain, Categorical):
        found |= set(domain.categories)
    return found


def _result(config: Config, parent: RunHandle) -> dict[str, Any]:
    """Write the report of a sweep; return what the pipeline prints."""
    written = report(config, parent_run_id=parent.run_id)
    shown = ("experiment", "parent_run_id", "num_trials", "front", "headline", "dashboard")
    return {key: written[key] for key in (*shown, "report")}
