"""Check the settings of re-ranking in the driver, before Ray or PyTorch are loaded.

Not the grammar of rules (slate_rules.py), nor what the catalogue calls things (rule_labels.py).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from recdiv_core.config import Config, rerank_candidates
from recdiv_core.data.catalogue import load_catalogue
from recdiv_core.data.rule_labels import labels_of_items, labels_of_rule
from recdiv_core.errors import UserError
from recdiv_core.idle import idle_in_reranking
from recdiv_core.schema import Manifest, read_manifest
from recdiv_core.slate_rules import parse_rule
from recdiv_core.slates.eligibility import eligibility_of, may_limit

logger = logging.getLogger(__name__)


def check_eligible(config: Config, prepared: Path) -> None:
    """Check which items may be shown, and name ids and values that the catalogue does not have.

    Raises:
        UserError: see `eligibility_of`.
    """
    if not may_limit(config, prepared):
        return
    eligible = eligibility_of(config, load_catalogue(prepared), read_manifest(prepared))
    for note in () if eligible is None else eligible.notes:
        logger.warning("%s", note)


def warn_of_few_items(k: int, num_items: int) -> None:
    """Warn if slates of `k` places hold the whole catalogue, because every metric is then high."""
    if num_items <= k:
        logger.warning(
            "eval.k=%d: the catalogue has %d items, so a slate holds all that a user may be shown, "
            "and metrics say little; set a smaller eval.k",
            k,
            num_items,
        )


def check_rerank(config: Config, prepared: Path, *, swept: Collection[str] = ()) -> None:
    """Refuse attributes that the catalogue does not have, and name settings without effect.

    Keys in `swept` may still change.

    Raises:
        UserError: `rerank.attributes` names no column of the catalogue, or `rerank.rules` an
            attribute, a value or an item that it does not have.
    """
    rerank = config.rerank
    wanted = {name: weight for name, weight in rerank.attributes.items() if name != "category"}
    columns = pq.read_schema(prepared / "catalogue.parquet").names if wanted else []
    for name, weight in wanted.items():
        if name not in columns:
            raise UserError(
                f"rerank.attributes.{name}={weight}: the catalogue of data.prepared={prepared} has "
                f"no column {name!r}; it has {', '.join(columns)}"
            )
    if rerank.rules:
        catalogue = load_catalogue(prepared)
        rules = [parse_rule(text) for text in rerank.rules]
        labels_of_items([rule for rule in rules if rule.item_id], catalogue)
        for rule in rules:
            if not rule.item_id:
                labels_of_rule(rule, catalogue)
    num_candidates = rerank_candidates(config)
    binds = any(parse_rule(text).kind != "exclude" for text in rerank.rules)
    if binds and num_candidates == config.eval.k:
        logger.warning(
            "rerank.num_candidates=%d is eval.k: rerank.rules have nothing to choose from",
            num_candidates,
        )
    if rerank.method != "none" and num_candidates == config.eval.k:
        logger.warning(
            "rerank.num_candidates=%d is eval.k: rerank.method=%s has nothing to choose from and "
            "only changes the order",
            num_candidates,
            rerank.method,
        )
    for message in idle_in_reranking(config, swept=swept):
        logger.warning("%s", message)


def tell_sample(config: Config, manifest: Manifest, splits: Sequence[str]) -> None:
    """Log the splits of which `eval.max_users` evaluates a sample."""
    for split, most in sampled_splits(config, manifest).items():
        if split in splits:
            logger.info(
                "%s: about %d of %d requests are evaluated; eval.max_users=0 evaluates all",
                *(split, most, manifest.num_examples[split]),
            )


def sampled_splits(config: Config, manifest: Manifest) -> dict[str, int]:
    """Return the largest number of requests of each split of which a sample is evaluated."""
    most = config.eval.max_users
    evaluated = {name: manifest.num_examples.get(name, 0) for name in ("val", "test")}
    return {name: most for name, number in evaluated.items() if 0 < most < number}
