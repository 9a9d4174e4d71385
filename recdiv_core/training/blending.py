"""Fit the weights of a blend on validation users.

Users with a query and users without have weights of their own, fitted on each kind alone.
slates/fitting.py fits the terms once, before the first step. The weights follow the model: they are
fitted anew before each evaluation on the validation split, on the same sample of its users. Beside
a penalty over all slates, such as `coverage`, the fit raises coverage too: by accuracy alone it
would move weight from the learned score, which the penalty changes, to the terms, which it cannot
change. A conditioned model does so at dial 1, and counts accuracy alone at dial 0. Runs with
penalties inside slates alone keep the weights of the model that they start from.
All ranks do the same work, and rank 0 decides, so the ranks agree to the bit.
Shapes: see models/blend.py; U users of the sample.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import pyarrow.compute as pc
import torch
import torch.distributed as dist
from torch.nn import functional as F

from recdiv_core.config import Config
from recdiv_core.data.arrays import Examples
from recdiv_core.data.batches import pack, pad_targets
from recdiv_core.data.reading import SplitRows, eval_examples
from recdiv_core.losses.aggregate import SHOWN_ENOUGH
from recdiv_core.losses.diversity import OVER_ALL
from recdiv_core.models.baselines import READ_QUERIES
from recdiv_core.models.blend import (
    TYPICAL_LENGTH,
    Blend,
    features_of,
    gate_features,
    query_prior,
)
from recdiv_core.models.blend_weights import STRENGTH, Choices, Spread, fit_weights
from recdiv_core.models.recommender import Recommender
from recdiv_core.schema import NO_QUERY, QUERY
from recdiv_core.slates.dataset import Dataset
from recdiv_core.slates.eligibility import Eligibility, eligibility_of
from recdiv_core.slates.ineligible import ineligible_of
from recdiv_core.slates.scoring import Scoring, histories_of, learned_scoring, with_queries

logger = logging.getLogger(__name__)

SAMPLE_USERS: Final = 2048
"""Validation users that fit the weights."""

SAMPLE_CHUNKS: Final = 16
"""Ranges of rows that the sample is made of, spread evenly over the split."""

TRUST: Final = 5.0
"""Pull of the weights for queries to `query_prior`, in nats per squared weight, summed over the
requests: few requests move them little."""

GATED_REQUESTS: Final = 1000
"""Requests with a query from which on the history has a say in their scores, and their weights
depend on its length. With fewer, the fit takes chance for an effect of the history: it lost 8 % of
NDCG@10 to the query's terms alone (docs/search.md)."""

WITHOUT_HISTORY: Final = frozenset({*READ_QUERIES, "recent_popular", "popular"})
"""Kinds of terms that do not read the history."""

READ_AHEAD: Final = 8
"""Rows that are read for each user of the sample with a query, because few may have one."""

WORTH: Final = 0.4
"""Worth of coverage in the fit (Spread) at a diversity weight of 1."""

DEPTH: Final = 100
"""Best items of each score that are candidates of a user."""


def spread_of(config: Config, dataset: Dataset) -> Spread | None:
    """Return how much coverage counts in the fit; None without a penalty over all slates."""
    if not spreads(config):
        return None
    num_users = SplitRows(dataset.prepared, "val", config.eval.max_users).num_rows
    worth = WORTH * config.loss.diversity_weight
    return Spread(worth, num_users, len(dataset.catalogue), SHOWN_ENOUGH)


def spreads(config: Config) -> bool:
    """Return whether the fit raises coverage: a run with a penalty over all slates."""
    loss = config.loss
    has_penalty = any(weight for name, weight in loss.diversity.items() if name in OVER_ALL)
    return has_penalty and loss.diversity_weight > 0


def keeps_weights(config: Config, start: Config) -> bool:
    """Return whether a run keeps the blend weights of the model that it starts from.

    It does so with a penalty that the fit of the weights does not know: inside slates alone. The
    weights of a conditioned model at dial 0 have no penalty to know.

    Args:
        config: of the run.
        start: of the training of `train.init_from`.
    """
    mine, theirs = ((each.model.blend, each.eval.filter_seen) for each in (config, start))
    is_inside = config.loss.diversity_weight > 0 and not spreads(config)
    return is_inside and mine == theirs and not config.loss.conditioned


def sample_users(dataset: Dataset) -> list[Examples]:
    """Read the validation users that fit the weights: a part of the split, the same in each run.

    Returns:
        batches of users without a query, and batches of users with one.
    """
    rows = SplitRows(dataset.prepared, "val")
    size = -(-min(SAMPLE_USERS, rows.num_rows) // SAMPLE_CHUNKS)
    edges = [rows.num_rows * chunk // SAMPLE_CHUNKS for chunk in range(SAMPLE_CHUNKS + 1)]
    has_queries = dataset.queries_QH is not None
    sample: list[Examples] = []
    for start, stop in pairwise(edges):
        if start == stop:
            continue
        table = rows.read(start, min(start + size, stop))
        sample.append(eval_examples(table.filter(pc.field(QUERY) == NO_QUERY)))
        if has_queries:
            table = rows.read(start, min(start + READ_AHEAD * size, stop))
            sample.append(eval_examples(table.filter(pc.field(QUERY) != NO_QUERY).slice(0, size)))
    return [examples for examples in sample if len(examples.user_ids)]


def fit_blend(
    model: Recommender, dataset: Dataset, config: Config, sample: Sequence[Examples]
) -> None:
    """Fit the weights of the model's blend, in place; without terms nothing happens.

    Args:
        model: on the device of the data set; its other weights stay.
        dataset: the prepared data set.
        config: `eval.filter_seen` and `model.max_history`.
        sample: see `sample_users`.
    """
    blend = model.blend
    if blend is None:
        return
    score = learned_scoring(model, 0.0)
    kinds = blend.kinds
    asking = [examples for examples in sample if (examples.queries != NO_QUERY).all()]
    others = [examples for examples in sample if (examples.queries == NO_QUERY).all()]
    if others:
        choices = observe(blend, score, others, dataset, config)
        spread, k = spread_of(config, dataset), config.eval.k
        has_dial = blend.dial_change_T2 is not None
        _set(blend.weight_T2, fit_weights(choices, k=k, spread=None if has_dial else spread))
        if blend.dial_change_T2 is not None and spread is not None:
            choices = observe(blend, learned_scoring(model, 1.0), others, dataset, config)
            at_1_T2 = fit_weights(choices, k=k, spread=spread)
            _set(blend.dial_change_T2, at_1_T2 - blend.weight_T2)
    num_asking = sum(len(examples.user_ids) for examples in asking)
    if blend.query_weight_U2 is not None and num_asking:
        choices = observe(blend, score, asking, dataset, config)
        prior_U2, strength = query_prior(kinds), max(STRENGTH, TRUST / num_asking)
        if num_asking < GATED_REQUESTS:
            features_B2 = choices.features_B2 * choices.features_B2.new_tensor([1.0, 0.0])
            # scores of 0 keep the weight of the prior, which is 0 too
            is_kept_U = torch.tensor([kind in WITHOUT_HISTORY for kind in ("learned", *kinds)])
            scores_BCU = choices.scores_BCT * is_kept_U.to(choices.scores_BCT)
            choices = choices._replace(scores_BCT=scores_BCU, features_B2=features_B2)
            prior_U2 = prior_U2 * is_kept_U[:, None]
        fitted_U2 = fit_weights(choices, k=config.eval.k, prior_T2=prior_U2, strength=strength)
        _set(blend.query_weight_U2, fitted_U2)
    logger.debug("blend: %s", describe_blend(blend, has_queries=num_asking > 0))


def _set(weight: torch.Tensor, fitted: torch.Tensor) -> None:
    """Copy fitted weights into those of a blend; rank 0 decides."""
    if dist.is_initialized():
        dist.broadcast(fitted, src=0)
    weight.copy_(fitted)


def log_blend(run: str, epoch: int, blend: Blend | None, *, has_queries: bool) -> None:
    """Log the weights of a run's selected epoch in one line; nothing without a blend."""
    if blend is not None:
        said = describe_blend(blend, has_queries=has_queries)
        logger.info("%s: blend after epoch %d: %s", run, epoch, said)


def describe_blend(blend: Blend, *, has_queries: bool) -> str:
    """Write the weights of a blend for people; with queries in the log, those of such requests."""
    of_histories = blend.kinds[: len(blend.weight_T2) - 1]
    text = describe(of_histories, blend.weight_T2)
    if blend.dial_change_T2 is not None:
        at_1_T2 = blend.weight_T2 + blend.dial_change_T2
        text = f"{text}; at dial 1: {describe(of_histories, at_1_T2)}"
    if blend.query_weight_U2 is None or not has_queries:
        return text
    return f"{text}; with a query: {describe(blend.kinds, blend.query_weight_U2)}"


def describe(kinds: Sequence[str], weight_T2: torch.Tensor) -> str:
    """Write each score's weight at a typical history, and at one of ten times its length.

    >>> describe(["text"], torch.tensor([[1.0, 0.0], [0.5, -0.1]]))
    'learned 1.000 to 1.000, text 0.500 to 0.270'
    """
    columns = gate_features(torch.tensor([TYPICAL_LENGTH, 10 * TYPICAL_LENGTH + 9]))
    weights = (columns.to(weight_T2) @ weight_T2.T).T.tolist()
    pairs = zip(("learned", *kinds), weights, strict=True)
    return ", ".join(f"{name} {first:.3f} to {then:.3f}" for name, (first, then) in pairs)


def observe(
    blend: Blend, score: Scoring, sample: Sequence[Examples], dataset: Dataset, config: Config
) -> Choices:
    """Score the sample, and keep the best candidates of each score of each user.

    Args:
        blend: its terms; its weights are not read.
        score: learned scores, see `learned_scoring`.
        sample: users with held-out items.
        dataset: the prepared data set.
        config: `eval.filter_seen`, `eligible` and `model.max_history`.
    """
    eligible = eligibility_of(config, dataset.catalogue, dataset.manifest)
    found = [_observe(blend, score, examples, dataset, config, eligible) for examples in sample]
    widest = max(each.scores_BCT.shape[1] for each in found)
    padded = [_pad(each, widest) for each in found]
    return Choices(*(torch.cat(parts) for parts in zip(*padded, strict=True)))


@torch.inference_mode()
def _observe(
    blend: Blend,
    score: Scoring,
    examples: Examples,
    dataset: Dataset,
    config: Config,
    eligible: Eligibility | None,
) -> Choices:
    """Score some users, and keep the best candidates of each score.

    A held-out item that no score puts among its best is left out: as a candidate it would be the
    only one with low scores, and the fit would learn that low scores are good.
    """
    device = dataset.text_VH.device
    examples = with_queries(examples, dataset)
    packed = pack(examples, max_history=config.model.max_history).to(device)
    histories = histories_of(examples, packed)
    each = blend.each(score(examples, packed), histories)
    is_allowed_BV = torch.ones_like(each[0], dtype=torch.bool)
    if config.eval.filter_seen:
        is_allowed_BV[packed.seen_user_S, packed.seen_item_S] = False
    if eligible is not None:
        ineligible = ineligible_of(eligible, examples.requested, device)
        is_allowed_BV[:, ineligible.items_C] &= ~ineligible.is_out_BC
    is_target_BV = torch.zeros_like(is_allowed_BV)
    targets_BT = pad_targets(examples).to(device)
    user_N, place_N = (targets_BT >= 0).nonzero(as_tuple=True)
    is_target_BV[user_N, targets_BT[user_N, place_N]] = True
    is_candidate_BV = torch.zeros_like(is_allowed_BV)
    depth = min(DEPTH, is_allowed_BV.shape[1])
    for scores_BV in each:
        best_BM = scores_BV.masked_fill(~is_allowed_BV, -torch.inf).topk(depth, dim=1).indices
        is_candidate_BV.scatter_(1, best_BM, True)
    is_candidate_BV &= is_allowed_BV
    most = int(is_candidate_BV.sum(dim=1).max())
    is_candidate_BC, candidates_BC = is_candidate_BV.to(torch.uint8).topk(most, dim=1)
    return Choices(
        torch.stack([scores_BV.gather(1, candidates_BC) for scores_BV in each], dim=2),
        is_target_BV.gather(1, candidates_BC),
        is_candidate_BC.bool(),
        features_of(histories),
        (is_target_BV & is_allowed_BV).sum(dim=1),
        candidates_BC,
    )


def _pad(choices: Choices, width: int) -> Choices:
    """Add candidates that are not allowed, up to a width."""
    more = width - choices.scores_BCT.shape[1]
    return choices._replace(
        scores_BCT=F.pad(choices.scores_BCT, (0, 0, 0, more)),
        is_target_BC=F.pad(choices.is_target_BC, (0, more)),
        is_allowed_BC=F.pad(choices.is_allowed_BC, (0, more)),
        items_BC=F.pad(choices.items_BC, (0, more)),
    )
