"""Compare an exported model with its checkpoint: scores, top items and metrics.

Parity: the ONNX file must give the scores and the top items of the checkpoint. Loss: int8 changes
metrics, and this module measures the change of each, with intervals. Requests come without their
queries, because an exported model reads none. Shapes: B users, V catalogue, K slate length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Final

import numpy as np
import torch

from recdiv_core.config import Config, override
from recdiv_core.data.arrays import Examples
from recdiv_core.data.reading import read_eval
from recdiv_core.errors import UserError
from recdiv_core.evaluation.differences import difference, resample
from recdiv_core.evaluation.per_user import judge_users
from recdiv_core.metrics.jackknife import UserResults
from recdiv_core.metrics.tally import LOWER_IS_BETTER, USER_METRICS
from recdiv_core.schema import NO_QUERY
from recdiv_core.slates.dataset import Dataset
from recdiv_core.slates.policy import slate_policy
from recdiv_core.slates.scoring import Scoring, score_users

USERS: Final = 512
"""Most users whose scores are compared."""

MAX_DIFFERENCE: Final = 5e-3
"""Largest difference of a score that counts as rounding, in standard deviations of the scores.
12,101 items have 3e-4; int8 has 4e-2."""

LEAST_EQUAL: Final = 0.99
"""Least share of the places of the top k with the same item."""

RESAMPLES: Final = 2000


@dataclass(frozen=True)
class Parity:
    """How an exported model compares with its checkpoint.

    Attributes:
        split: split whose requests were compared.
        num_users: number of requests.
        max_difference: largest difference of a score, in standard deviations of a user's scores.
        equal_top_k: share of the places of the top k with the same item, in [0, 1].
    """

    split: str
    num_users: int
    max_difference: float
    equal_top_k: float

    @property
    def is_kept(self) -> bool:
        """Whether the differences are those of rounding alone."""
        return self.max_difference <= MAX_DIFFERENCE and self.equal_top_k >= LEAST_EQUAL

    def in_words(self) -> str:
        """Describe the parity in a line of a log."""
        return (
            f"on {self.num_users} requests of {self.split} scores differ by at most "
            f"{self.max_difference:.1g} standard deviations, and {100 * self.equal_top_k:.2f} % of "
            "the top places hold the same item"
        )

    def as_json(self) -> dict[str, Any]:
        """Return the numbers for `model.json`."""
        limits = {"max_difference_allowed": MAX_DIFFERENCE, "equal_top_k_least": LEAST_EQUAL}
        return {**asdict(self), **limits}


def held_out_split(dataset: Dataset) -> str:
    """Return the split with requests: `val`, else `test`.

    Raises:
        UserError: neither has a request.
    """
    for split in ("val", "test"):
        if dataset.manifest.num_examples.get(split):
            return split
    raise UserError(
        f"data.prepared={dataset.prepared} has no held-out user to check the export with"
    )


def requests_of(dataset: Dataset, split: str, config: Config) -> Iterator[Examples]:
    """Yield the requests of a split without their queries, batch by batch."""
    share = read_eval(
        dataset.prepared, split, batch_size=config.eval.batch_size, rank=0, world_size=1
    )
    for examples in share:
        queries = np.full_like(examples.queries, NO_QUERY)
        yield replace(examples, queries=queries, asked=None)


def check_parity(wanted: Scoring, got: Scoring, dataset: Dataset, config: Config) -> Parity:
    """Compare two ways to score on held-out requests."""
    split, settings = held_out_split(dataset), config.eval
    num_users, largest, num_equal, num_places = 0, 0.0, 0, 0
    num_batches = -(-USERS // settings.batch_size)
    batches = list(islice(requests_of(dataset, split, config), num_batches))
    lengths = {"max_history": config.model.max_history}
    for one in score_users(batches, dataset, wanted, **lengths):
        wanted_BV = one.scores_BV.clone()
        got_BV = got(one.examples, one.packed)
        spread_B1 = wanted_BV.std(dim=1, keepdim=True).clamp_min(1e-12)
        largest = max(largest, float(((got_BV - wanted_BV).abs() / spread_B1).max()))
        if settings.filter_seen:
            for scores_BV in (wanted_BV, got_BV):
                scores_BV[one.packed.seen_user_S, one.packed.seen_item_S] = -torch.inf
        is_equal_BK = _top(wanted_BV, settings.k) == _top(got_BV, settings.k)
        num_equal, num_places = num_equal + int(is_equal_BK.sum()), num_places + is_equal_BK.numel()
        num_users += len(wanted_BV)
    return Parity(split, num_users, largest, num_equal / max(1, num_places))


def _top(scores_BV: torch.Tensor, k: int) -> torch.Tensor:
    return scores_BV.sort(dim=1, descending=True, stable=True).indices[:, :k]


def losses(before: Scoring, behind: Scoring, dataset: Dataset, config: Config) -> dict[str, Any]:
    """Measure what another way to score costs, by the metrics of every epoch.

    Slates are made with the re-ranking of the config, on all users of `held_out_split`. Scores of
    both contain logit adjustment and lift.

    Returns:
        metric -> `{"reference", "other", "percent", "percent_low", "percent_high",
        "loss_percent"}`. A percentage is the change over the reference, with its 95 % interval;
        `loss_percent` is the change for the worse, <= 0 = no loss. None = does not exist.
    """
    judged = [_judged(scoring, dataset, config) for scoring in (before, behind)]
    samples, found = resample(judged, RESAMPLES), dict[str, Any]()
    for place, name in enumerate(samples.names):
        values_S, values_RS = samples.values_SM[:, place], samples.samples_RSM[:, :, place]
        entry = difference(float(values_S[0]), float(values_S[1]), *values_RS.T)
        kept = ("reference", "other", "percent", "percent_low", "percent_high")
        found[name] = {key: entry[key] for key in kept}
        sign = 1.0 if name in LOWER_IS_BETTER else -1.0
        percent = entry["percent"]
        found[name]["loss_percent"] = None if percent is None else sign * percent + 0.0  # no -0.0
    return found


def _judged(scoring: Scoring, dataset: Dataset, config: Config) -> UserResults:
    in_scores = {"rerank.logit_adjustment": 0.0, "rerank.lift": 0.0}
    policy = slate_policy(override(config, in_scores), dataset)
    batches = requests_of(dataset, held_out_split(dataset), config)
    scored = score_users(batches, dataset, scoring, max_history=config.model.max_history)
    slates = ((*each.slates(dataset, policy), each.histories) for each in scored)
    return judge_users(slates, dataset, USER_METRICS, k=policy.k)
