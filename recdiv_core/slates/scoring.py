"""Score held-out users, batch by batch, and make the slates that metrics look at.

Not the ranking (making.py) nor the sums (evaluation/). The one idea: users come in fixed global
batches that are dealt to the workers in turn. A batch is therefore computed alike on any worker.

Shapes: B users, V catalogue, K slate length, T targets, S (user, item) pairs of the histories.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import torch

from recdiv_core.config import Config
from recdiv_core.data.arrays import Examples
from recdiv_core.data.batches import Packed, pack, pad_targets
from recdiv_core.data.reading import read_eval
from recdiv_core.metrics.slate_batch import Background
from recdiv_core.models.baselines import READ_QUERIES, Baseline, Histories
from recdiv_core.models.queries import Queries
from recdiv_core.models.recommender import Recommender
from recdiv_core.schema import NO_QUERY
from recdiv_core.slates.dataset import Dataset
from recdiv_core.slates.ineligible import ineligible_of
from recdiv_core.slates.making import (
    SlateGrid,
    count_above,
    count_rankable,
    make_slate_grid,
)
from recdiv_core.slates.policy import SlatePolicy

Scoring = Callable[[Examples, Packed], torch.Tensor]
"""The users of a batch, ragged and packed -> [B, V] float32 scores of the whole catalogue."""


@dataclass(frozen=True, eq=False)
class Shown:
    """The slates of a batch of held-out users, and everything that metrics compare them with.

    Attributes:
        slates_BK: int64 item_index, best first, -1 behind the end of a short slate.
        targets_BT: int64 item_index of the held-out items, padded with -1.
        background: histories, and where targets stand among all scores (unknown for slates of a
            system whose scores we do not have).
    """

    examples: Examples
    slates_BK: torch.Tensor
    targets_BT: torch.Tensor
    background: Background


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A batch of held-out users with the scores of a model.

    Attributes:
        targets_BT: held-out items, see `pad_targets`.
        scores_BV: float32 scores of the whole catalogue; overwritten by the next batch, and by the
            first call of `slates` or `shown`.
    """

    examples: Examples
    packed: Packed
    targets_BT: torch.Tensor
    scores_BV: torch.Tensor

    @property
    def histories(self) -> Background:
        """The histories, and who has a query, without the places of targets."""
        return Background(
            self.packed.seen_user_S, self.packed.seen_item_S, has_query_B=self._has_query_B
        )

    @property
    def _has_query_B(self) -> torch.Tensor:
        has_query_B = torch.from_numpy(self.examples.queries != NO_QUERY)
        return has_query_B.to(self.scores_BV.device)

    @torch.inference_mode()
    def slates(self, dataset: Dataset, policy: SlatePolicy) -> tuple[torch.Tensor, torch.Tensor]:
        """Return slates_BK under a policy, and the targets_BT to compare them with.

        The slates are made in the memory of the scores, which then hold what was ranked, before any
        re-ranking.
        """
        return self.grid(dataset, policy).items_BWK[:, 0], self.targets(policy)

    def grid(self, dataset: Dataset, policy: SlatePolicy, dials: Sequence[float] = ()) -> SlateGrid:
        """Return the slates under each dial, without any under that of the policy; see `slates`."""
        return make_slate_grid(
            self.scores_BV,
            self.packed.seen_user_S,
            self.packed.seen_item_S,
            dataset.traits,
            dataset.log_prior_V,
            policy,
            dials or [policy.diversity],
            self.examples.requested,
        )

    def targets(self, policy: SlatePolicy) -> torch.Tensor:
        """Return the targets_BT to compare slates with.

        With `filter_seen`, a held-out item that stands in the user's history is no target (-1),
        because it cannot be recommended.
        """
        if not policy.filter_seen:
            return self.targets_BT
        seen = self.packed.seen_user_S, self.packed.seen_item_S
        return without_seen(self.targets_BT, *seen, self.scores_BV.shape[1])

    @torch.inference_mode()
    def shown(self, dataset: Dataset, policy: SlatePolicy) -> Shown:
        """Return slates, targets and what the whole set of metrics needs besides.

        Where targets stand among all items is read from the scores, before any re-ranking.
        """
        grid, targets_BT = self.grid(dataset, policy), self.targets(policy)
        num_above_BT = count_above(self.scores_BV, targets_BT)
        num_rankable_B = count_rankable(self.scores_BV)
        if policy.eligible is not None:
            ineligible = ineligible_of(policy.eligible, self.examples.requested, targets_BT.device)
            is_out_BT = ineligible.holds(targets_BT)
            num_above_BT, num_rankable_B = put_last(is_out_BT, num_above_BT, num_rankable_B)
        background = Background(
            history_user_S=self.packed.seen_user_S,
            history_item_S=self.packed.seen_item_S,
            num_above_BT=num_above_BT,
            num_rankable_B=num_rankable_B,
            has_query_B=self._has_query_B,
            freed_BK=grid.freed_BK,
        )
        return Shown(self.examples, grid.items_BWK[:, 0], targets_BT, background)


def put_last(
    is_out_BT: torch.Tensor, num_above_BT: torch.Tensor, num_rankable_B: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Count targets that could not be shown as the last items, with equal scores among themselves.

    Returns:
        num_above_BT and num_rankable_B, see `Background`; the latter includes all targets.
    """
    num_out_B = is_out_BT.sum(dim=1)
    last_B = num_rankable_B + (num_out_B - 1) / 2
    num_above_BT = torch.where(is_out_BT, last_B[:, None].double(), num_above_BT)
    return num_above_BT, num_rankable_B + num_out_B


def held_out_of_split(
    model: Recommender | Baseline,
    dataset: Dataset,
    split: str,
    config: Config,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[HeldOut]:
    """Yield one rank's share of a split, scored, batch by batch; a sample above `eval.max_users`.

    The model is on the device of the data set. A baseline sees all events, not `model.max_history`;
    a model without a dial ignores `model.diversity`.
    """
    share = read_eval(
        dataset.prepared,
        split,
        batch_size=config.eval.batch_size,
        rank=rank,
        world_size=world_size,
        most=config.eval.max_users,
    )
    scoring = scoring_of(model, config.model.diversity)
    yield from score_users(share, dataset, scoring, max_history=config.model.max_history)


def score_users(
    batches: Iterable[Examples], dataset: Dataset, score: Scoring, *, max_history: int
) -> Iterator[HeldOut]:
    """Score users as they are read; users without targets have none but -1.

    For `score` see `scoring_of`.
    """
    device = dataset.text_VH.device
    for examples in batches:
        # not around the yield: what is done with the scores is the caller's business
        with torch.inference_mode():
            examples = with_queries(examples, dataset)
            packed = pack(examples, max_history=max_history).to(device)
            targets_BT = pad_targets(examples).to(device)
            held_out = HeldOut(examples, packed, targets_BT, score(examples, packed))
        yield held_out


def with_queries(examples: Examples, dataset: Dataset) -> Examples:
    """Return evaluation examples with the texts and vectors of their queries.

    Examples from outside the data set have them already. Their `queries` are then the row of each
    request, or NO_QUERY.
    """
    has_query = examples.queries >= 0
    if examples.asked is not None or dataset.queries_QH is None or not has_query.any():
        return examples
    rows_B = examples.queries.clip(0)
    texts = dataset.query_texts.take(pa.array(rows_B)).to_pylist()
    pairs = zip(texts, has_query.tolist(), strict=True)
    vectors_BH = dataset.queries_QH[torch.from_numpy(rows_B).to(dataset.queries_QH.device)]
    has_query_B1 = torch.from_numpy(has_query).to(vectors_BH.device)[:, None]
    asked = Queries(
        texts=[text if is_asked else "" for text, is_asked in pairs],
        vectors_BH=vectors_BH * has_query_B1,
        text_VH=dataset.text_VH,
    )
    return replace(examples, asked=asked)


def reads_queries(model: Recommender | Baseline) -> bool:
    """Tell whether the scores of a model depend on the query of a request."""
    if isinstance(model, Baseline):
        return model.kind in READ_QUERIES
    kinds = [] if model.blend is None else model.blend.kinds
    return model.queries_QH is not None or any(kind in READ_QUERIES for kind in kinds)


def scoring_of(model: Recommender | Baseline, dial: float) -> Scoring:
    """Return how a model scores; what does not depend on the users is worked out here, once.

    `dial` is the diversity asked of a conditioned model, for all users.
    """
    if not isinstance(model, Recommender):
        return baseline_scoring(model)
    learned, blend = learned_scoring(model, dial), model.blend
    if blend is None:
        return learned

    def score(examples: Examples, packed: Packed) -> torch.Tensor:
        scores_BV = learned(examples, packed)
        dial_B = scores_BV.new_full((len(scores_BV),), dial)
        return blend(scores_BV, histories_of(examples, packed), dial_B)

    return score


def learned_scoring(model: Recommender, dial: float) -> Scoring:
    """Score by the state of each user, state . item; the item vectors are computed here, once.

    The scores of a batch lie where those of the next one will: fetching so much memory from the
    system anew takes about as long as the product.
    """
    model.eval()
    with torch.inference_mode():
        items_VD = model.item_vectors()
        space = items_VD.new_empty(0)

    def score(examples: Examples, packed: Packed) -> torch.Tensor:
        asked, queries_RW = examples.asked, packed.queries_RW
        if asked is not None:  # the row of the request numbers its query
            queries_RW = torch.where(queries_RW >= 0, packed.user_RW, NO_QUERY)
        states = model.states(
            items_VD,
            packed.items_RW,
            packed.position_RW,
            packed.segment_RW,
            queries_RW,
            torch.full(packed.items_RW.shape, dial, device=items_VD.device),
            None if asked is None else asked.vectors_BH,
        )
        states_BD = states[packed.last_place_B]
        scores_BV = space.resize_(len(states_BD), len(items_VD))
        return torch.mm(states_BD, items_VD.T, out=scores_BV)

    return score


def baseline_scoring(baseline: Baseline) -> Scoring:
    """Score by each user's whole history."""

    def score(examples: Examples, packed: Packed) -> torch.Tensor:
        return baseline.scores(histories_of(examples, packed))

    return score


def histories_of(examples: Examples, packed: Packed) -> Histories:
    """Return the whole histories of a batch, as baselines read them, and its queries."""
    seen = packed.seen_user_S, packed.seen_item_S
    return Histories(*seen, examples.user_ids, packed.seen_time_S, examples.asked)


def without_seen(
    targets_BT: torch.Tensor, seen_user_S: torch.Tensor, seen_item_S: torch.Tensor, num_items: int
) -> torch.Tensor:
    """Replace targets that stand in the user's history by -1."""
    user = torch.arange(len(targets_BT), device=targets_BT.device)[:, None]
    seen = seen_user_S * num_items + seen_item_S
    is_seen = torch.isin(user * num_items + targets_BT, seen) & (targets_BT >= 0)
    return targets_BT.masked_fill(is_seen, -1)
