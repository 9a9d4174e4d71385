"""Evaluate a trained model under the re-ranking settings of `eval.dials`, at the end of a run.

The settings share one pass over the scores of a split (slates/dials.py). A report chooses among
them on validation, and looks up test metrics of the chosen ones only, as it does for trials.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from recdiv_core.config import DIALS_FILE, Config
from recdiv_core.models.lifts import Lifts
from recdiv_core.slates.checkpoint import Progress
from recdiv_core.slates.dataset import Dataset
from recdiv_core.slates.dials import dial_policies, dials_of
from recdiv_core.slates.policy import SlatePolicy, slate_policy

logger = logging.getLogger(__name__)

Metrics = Mapping[str, float]
Evaluate = Callable[[str, Sequence[SlatePolicy]], Sequence[Metrics]]
"""split, policies -> metrics under each policy."""


def judge_dials(
    config: Config,
    dataset: Dataset,
    lifts: Lifts | None,
    evaluate: Evaluate,
    *,
    on_val: Sequence[Metrics] = (),
    is_first: bool,
) -> tuple[Metrics, str]:
    """Return the test metrics of a model, and its metrics under each entry of `eval.dials`.

    Args:
        config: `eval` and `rerank`.
        dataset: the prepared data set.
        lifts: lifts of the model.
        evaluate: evaluates the model over the users of all ranks.
        on_val: validation metrics under the entries, if they are known; saves a pass.
        is_first: whether this is rank 0, which logs.

    Returns:
        test metrics under the config's own settings, and what `dials_json` returns; empty without
        entries.
    """
    started = time.monotonic()
    policies = dial_policies(config, dataset, lifts)
    test, *on_test = evaluate("test", [slate_policy(config, dataset, lifts), *policies])
    if not policies:
        return test, ""
    found = on_val or evaluate("val", policies)
    if is_first:
        logger.info(
            "%s: test and %d re-ranking settings evaluated in %.1f s",
            config.run.name,
            len(policies),
            time.monotonic() - started,
        )
    return test, dials_json(config, found, on_test)


def dials_report(progress: Progress) -> dict[str, str]:
    """Return the part of a run's last report that holds the metrics of its dials."""
    return {DIALS_FILE: progress.dials} if progress.dials else {}


def settings_of(config: Config) -> dict[str, object]:
    """Return the settings that differ between entries of `eval.dials`, by their dotted keys."""
    rerank = config.rerank
    return {
        "rerank.method": rerank.method,
        "rerank.diversity": rerank.diversity,
        "rerank.logit_adjustment": rerank.logit_adjustment,
        "rerank.lift": rerank.lift,
    }


def dials_json(config: Config, val: Sequence[Metrics], test: Sequence[Metrics]) -> str:
    """Return the metrics of each of `dials_of` as JSON: [{settings, val, test}, ...]."""
    entries = [
        {
            "settings": settings_of(each),
            "val": own_val,
            "test": own_test,
        }
        for each, own_val, own_test in zip(dials_of(config), val, test, strict=True)
    ]
    return json.dumps(entries)
