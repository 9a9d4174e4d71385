"""Measure what each term of a blend adds, without training anew.

    python -m benchmarks.blend CHECKPOINT --terms graph,text,item_knn,ease
    python -m benchmarks.blend CHECKPOINT --terms buy_again,graph --set eval.filter_seen=false

The learned score is that of the checkpoint. All terms are fitted on the train split. The weights
are fitted on a sample of validation users, as in training, and judged on the other validation
users. So the test split stays unseen. Prints one JSON line: the metrics at `eval.k` of the learned
score alone, of each term alone, of all terms, of all but one, of all without the learned score, and
of all with weights that do not depend on the length of the history.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from recdiv_core.config import Config
from recdiv_core.data.arrays import Examples
from recdiv_core.data.batches import pack, pad_targets
from recdiv_core.data.reading import read_eval
from recdiv_core.evaluation.evaluate import tally_split
from recdiv_core.metrics.tally import Tally, finish
from recdiv_core.models.blend import Blend, features_of
from recdiv_core.models.blend_weights import Choices, fit_likelihood, fit_weights
from recdiv_core.models.recommender import Recommender
from recdiv_core.schema import NO_QUERY
from recdiv_core.slates.dataset import Dataset, load_dataset
from recdiv_core.slates.fitting import fit_terms
from recdiv_core.slates.inputs import checkpoint_config
from recdiv_core.slates.loading import load_model
from recdiv_core.slates.policy import slate_policy
from recdiv_core.slates.scoring import HeldOut, Scoring, histories_of, learned_scoring
from recdiv_core.training.blending import observe, sample_users

logger = logging.getLogger(__name__)

METRICS = ("ndcg", "hit", "coverage", "gini")


def variants(terms: Sequence[str]) -> dict[str, list[int]]:
    """Return which scores each variant uses: 0 is the learned one, 1 the first term.

    >>> variants(["graph", "text"])["without graph"]
    [0, 2]
    """
    every = list(range(len(terms) + 1))
    found = {"learned": [0]} | {name: [place] for place, name in enumerate(terms, start=1)}
    found["all"] = every
    for place, name in enumerate(["learned", *terms]):
        found[f"without {name}"] = [other for other in every if other != place]
    return found


def fit_variants(terms: Sequence[str], choices: Choices, k: int) -> dict[str, torch.Tensor]:
    """Return weight_T2 of each variant; scores that a variant leaves out have the weight 0."""
    weights: dict[str, torch.Tensor] = {}
    for name, places in variants(terms).items():
        own = choices._replace(scores_BCT=choices.scores_BCT[..., places])
        weights[name] = torch.zeros(len(terms) + 1, 2)
        alone = torch.tensor([[1.0, 0.0]])
        weights[name][places] = fit_weights(own, k=k) if len(places) > 1 else alone
    constant_B2 = choices.features_B2 * torch.tensor([1.0, 0.0])
    weights["all, without gate"] = fit_weights(choices._replace(features_B2=constant_B2), k=k)
    weights["all, likelihood alone"] = fit_likelihood(choices.that_count())
    return weights


def judge(
    weights: Mapping[str, torch.Tensor],
    blend: Blend,
    score: Scoring,
    users: Sequence[Examples],
    dataset: Dataset,
    config: Config,
) -> dict[str, dict[str, float]]:
    """Return the metrics of each variant over some users."""
    policy, sums = slate_policy(config, dataset), dict[str, Tally]()
    for examples in users:
        packed = pack(examples, max_history=config.model.max_history)
        histories, targets_BT = histories_of(examples, packed), pad_targets(examples)
        with torch.inference_mode():
            each = blend.each(score(examples, packed), histories)
        for name, weight_T2 in weights.items():
            weight_BT = features_of(histories) @ weight_T2.T
            scores_BV = torch.zeros_like(each[0])
            for place, values_BV in enumerate(each):
                scores_BV.addcmul_(values_BV, weight_BT[:, place : place + 1])
            shown = tally_split([HeldOut(examples, packed, targets_BT, scores_BV)], dataset, policy)
            sums[name] = sums[name] + shown if name in sums else shown
    found = {name: finish(tally) for name, tally in sums.items()}
    names = [f"{metric}_at_{config.eval.k}" for metric in METRICS]
    return {key: {name: round(of[name], 4) for name in names} for key, of in found.items()}


def without_sample(
    config: Config, dataset: Dataset, sample: Sequence[Examples], most: int
) -> list[Examples]:
    """Return validation batches that hold no user of the sample, at most so many users."""
    taken = {user for examples in sample for user in examples.user_ids}
    kept: list[Examples] = []
    for examples in read_eval(dataset.prepared, "val", batch_size=64, rank=0, world_size=1):
        if sum(len(each.user_ids) for each in kept) >= most:
            break
        if not taken & set(examples.user_ids):
            kept.append(examples)
    return kept


def main() -> None:
    """Run the measurement of the command line."""
    parser = argparse.ArgumentParser(description="What each term of a blend adds.")
    parser.add_argument("checkpoint")
    parser.add_argument("--terms", required=True, help="kinds of baselines, with commas")
    parser.add_argument("--users", type=int, default=6_000, help="validation users that judge")
    parser.add_argument("--set", nargs="*", default=[], help="settings, key=value")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    terms = given.terms.split(",")
    settings = dict(each.split("=", 1) for each in given.set)
    config = checkpoint_config(given.checkpoint, settings | {"model.blend": terms})
    dataset = load_dataset(Path(config.data.prepared))
    learned = checkpoint_config(given.checkpoint, {})
    model = load_model(learned, dataset, Path(given.checkpoint))
    assert isinstance(model, Recommender)
    started = time.monotonic()
    is_warm_V = torch.as_tensor(dataset.catalogue.popularity_V > 0)
    blend = Blend(fit_terms(config, dataset), is_warm_V)
    logger.info("terms fitted in %.1f s", time.monotonic() - started)
    score = learned_scoring(model, config.model.diversity)
    sample = [each for each in sample_users(dataset) if (each.queries == NO_QUERY).all()]
    users = without_sample(config, dataset, sample, given.users)
    if not users:  # a small log: half of the sample judges
        sample, users = sample[::2], sample[1::2]
    choices = observe(blend, score, sample, dataset, config)
    weights = fit_variants(terms, choices, config.eval.k)
    for name, weight_T2 in weights.items():
        logger.info("%s: %s", name, weight_T2.T.tolist())
    print(json.dumps(judge(weights, blend, score, users, dataset, config)))


if __name__ == "__main__":
    main()
