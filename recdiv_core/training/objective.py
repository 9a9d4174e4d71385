"""What a step minimises: relevance and diversity penalty of one part of its batch, as sums.

Both are sums over the part, to be divided by the *global* counts (step.py), so that ranks and parts
do not matter. A conditioned model is trained at many weights at once: each user of the batch has a
dial d, the model is told it, and the loss of that user is the one of w = d * diversity_weight.
Item vectors are shared by all dials; there a slate's own diversity is the business of the state
alone, and only what all slates cost together reaches the items.
Shapes: see data/batches.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

import torch
from torch import nn

from recdiv_core.data.batches import Packed
from recdiv_core.items.traits import ItemTraits, history_shares
from recdiv_core.losses.adversarial import Pass, freelb_start, passes
from recdiv_core.losses.diversity import NEEDS_HISTORY, NEEDS_TEACHER, penalty
from recdiv_core.losses.negatives import Negatives
from recdiv_core.losses.relevance import gbce, sampled_softmax, softmax
from recdiv_core.losses.soft_slates import SoftSlates
from recdiv_core.losses.soft_topk import soft_topk, standardise
from recdiv_core.models.recommender import FreshText
from recdiv_core.rerank import RERANKERS, Candidates, Options
from recdiv_core.rerank.top_scores import top_scores

SEEN_SCORE: Final = -1e3
"""Standardised score of a seen item among the candidates: far below any other's."""


@dataclass(frozen=True)
class Attack:
    """Adversarial training; see LossConfig for each.

    Attributes:
        kind: a key of `adversarial.SHARES`.
        on: whose embeddings.
        ascends: what the noise makes worse.
        epsilon: size of the noise.
        num_steps: of pgd and freelb.
        step_size: of pgd and freelb.
        width: of those embeddings.
    """

    kind: str = "none"
    on: Literal["items", "tokens"] = "items"
    ascends: Literal["loss", "relevance", "penalty"] = "loss"
    epsilon: float = 0.0
    num_steps: int = 1
    step_size: float = 0.0
    width: int = 0

    @property
    def is_noise(self) -> bool:
        """Whether it adds noise to embeddings."""
        return self.kind not in ("none", "awp")


@dataclass(frozen=True)
class Objective:
    """What a step minimises; see LossConfig for each.

    Attributes:
        relevance: name of the loss.
        diversity_weight: w; of a conditioned model the one at dial 1.
        mix: regulariser -> weight.
        traits: what all users' slates are judged by.
        temperature: scores are dot products divided by it.
        num_negatives: uniform draws, of the sampled losses.
        negatives: where they come from.
        mask_history: whether a user's own items are left out of them.
        logq_alpha: of the sampled softmax.
        gbce_calibration: of gBCE.
        focal_gamma: of the exact softmax.
        logit_bias_V: added to the logits of the exact softmax, or None.
        balance: how the two losses become one direction.
        is_conditioned: whether each user has a weight of its own.
        shared_dim: of a conditioned model, leading dims of the item vectors, those that dial 0
            looks at too.
        slate_size: k of the soft slate.
        slate_candidates: items that it is formed over.
        slate_temperature: its softness.
        teacher: name of the re-ranker that `distil` learns from, and its dial.
        attack: adversarial training.
    """

    relevance: str
    diversity_weight: float
    mix: Mapping[str, float]
    traits: ItemTraits
    temperature: float = 1.0
    num_negatives: int = 0
    negatives: str = "uniform"
    mask_history: bool = False
    logq_alpha: float = 1.0
    gbce_calibration: float = 0.75
    focal_gamma: float = 0.0
    logit_bias_V: torch.Tensor | None = None
    balance: str = "weighted_sum"
    is_conditioned: bool = False
    shared_dim: int = 0
    slate_size: int = 10
    slate_candidates: int = 200
    slate_temperature: float = 0.1
    teacher: tuple[str, float] = ("mmr", 0.3)
    attack: Attack = Attack()

    @property
    def log_items(self) -> float:
        """Nats of a uniform guess, which relevance is divided by."""
        return math.log(max(2, self.traits.num_items))

    @property
    def needs_penalty(self) -> bool:
        """Whether slates are formed at all."""
        return (
            self.diversity_weight > 0
            or self.balance == "epsilon_constraint"
            or (self.attack.is_noise and self.attack.ascends == "penalty")
        )


@dataclass(frozen=True)
class Part:
    """Users of a step that are computed at once.

    Attributes:
        packed: their histories.
        fresh: items whose text is encoded anew, when the encoder is trained.
        dial_B: [B] in [0, 1], the dial of each user, or None for a model without one.
        draws: [R, W, D] or [U, L, E], uniform in [0, 1), that freelb starts its noise from.
    """

    packed: Packed
    fresh: FreshText | None = None
    dial_B: torch.Tensor | None = None
    draws: torch.Tensor | None = None


@dataclass(frozen=True)
class PartLosses:
    """Sums over a part.

    Attributes:
        relevance: nats by the weights of positions; when conditioned, also by 1 - w of the user.
        penalty: over users; when conditioned, by w of the user. None where nobody has a w > 0.
        figures: [4] float64 without gradient: nats, their weight, penalties, penalised users.
        places_V: places of each item in the hard slates of penalised users.
    """

    relevance: torch.Tensor
    penalty: torch.Tensor | None
    figures: torch.Tensor
    places_V: torch.Tensor


def part_losses(
    model: nn.Module,
    part: Part,
    objective: Objective,
    *,
    exposure_V: torch.Tensor,
    negatives: Negatives | None,
    autocast: torch.autocast,
    noise: torch.Tensor | None = None,
) -> PartLosses:
    """Run the model on a part and sum its losses; `noise` is added to `attack.on`'s embeddings."""
    packed, dial_B = part.packed, part.dial_B
    on_items = objective.attack.on == "items"
    weights_N = packed.weights_N
    with autocast:
        dial_RW = dial_N = None
        if dial_B is not None:
            dial_RW = dial_B[packed.user_RW] if len(dial_B) else torch.zeros_like(packed.user_RW)
            dial_N = dial_B[packed.user_RW.flatten()[packed.target_place_N]]
            weights_N = weights_N * (1 - objective.diversity_weight * dial_N)
        states, items_VD = model(
            packed.items_RW,
            packed.position_RW,
            packed.segment_RW,
            packed.queries_RW,
            part.fresh,
            dial_RW,
            noise if on_items else None,
            None if on_items else noise,
        )
        if dial_N is None:
            views = [(torch.ones_like(packed.targets_N, dtype=torch.bool), items_VD.shape[1])]
        else:  # at dial 0 the dial's own dims count nothing: half the users are spared them
            views = [(dial_N == 0, objective.shared_dim), (dial_N > 0, items_VD.shape[1])]
        relevance = sum(
            (
                _relevance(states, items_VD, packed, weights_N, is_in_N, dim, objective, negatives)
                for is_in_N, dim in views
            ),
            states.new_zeros(()),
        )
    figures = torch.zeros(4, dtype=torch.float64, device=exposure_V.device)
    figures[0] = relevance.detach()
    figures[1] = weights_N.sum(dtype=torch.float64)
    places_V = torch.zeros_like(exposure_V)
    if not objective.needs_penalty:
        return PartLosses(relevance, None, figures, places_V)
    slates, inside = soft_slates(states, items_VD, packed, dial_B, objective, exposure_V)
    penalty_B = penalty(slates, objective.mix, inside=inside)
    figures[2] = penalty_B.detach().sum(dtype=torch.float64)
    figures[3] = len(penalty_B)
    if dial_B is not None:
        penalty_B = penalty_B * objective.diversity_weight * dial_B[dial_B > 0]
    _add_places(places_V, slates)
    return PartLosses(relevance, penalty_B.sum(), figures, places_V)


def part_passes(part: Part, objective: Objective) -> Iterator[Pass]:
    """Yield the passes over a part, each with its noise; see `adversarial.passes`."""
    attack, packed = objective.attack, part.packed
    device = packed.items_RW.device
    if not attack.is_noise:
        yield Pass(torch.empty(0, device=device), 1.0, is_first=True, is_last=True)
        return
    if attack.on == "items":
        group = packed.user_RW.masked_fill(packed.position_RW == 0, -1)
        num_groups = len(packed.last_place_B)
    else:
        assert part.fresh is not None
        num_groups = len(part.fresh.items_U)
        group = torch.arange(num_groups, device=device)[:, None].expand_as(part.fresh.mask)
        group = group.masked_fill(part.fresh.mask == 0, -1)
    if attack.kind == "freelb":
        assert part.draws is not None
        start = freelb_start(part.draws, group, num_groups, epsilon=attack.epsilon)
    else:
        start = torch.zeros(*group.shape, attack.width, device=device)
    yield from passes(
        attack.kind,
        start,
        group,
        num_groups,
        epsilon=attack.epsilon,
        step_size=attack.step_size,
        num_steps=attack.num_steps,
    )


def _relevance(
    states: torch.Tensor,
    items_VD: torch.Tensor,
    packed: Packed,
    weights_N: torch.Tensor,
    is_in_N: torch.Tensor,
    dim: int,
    objective: Objective,
    negatives: Negatives | None,
) -> torch.Tensor:
    """Sum the relevance loss of some positions, by the leading dims of states and items."""
    states_ND = states[packed.target_place_N[is_in_N], :dim]
    positions = (states_ND, items_VD[:, :dim], packed.targets_N[is_in_N], weights_N[is_in_N])
    temperature = objective.temperature
    if objective.relevance == "softmax":
        return softmax(
            *positions,
            temperature=temperature,
            logit_bias_V=objective.logit_bias_V,
            focal_gamma=objective.focal_gamma,
        )
    assert negatives is not None
    masked = None
    if objective.mask_history:
        masked = _own_items(packed, negatives.items_S, len(items_VD))[is_in_N]
    items_S = negatives.items_S
    if objective.relevance == "sampled_softmax":
        return sampled_softmax(
            *positions,
            items_S,
            temperature=temperature,
            logq_alpha=objective.logq_alpha,
            log_count_S=negatives.log_count_S,
            log_expected_S=negatives.log_expected_S,
            is_masked_NS=masked,
        )
    return gbce(
        *positions,
        items_S,
        temperature=temperature,
        calibration=objective.gbce_calibration,
        is_masked_NS=masked,
    )


def _own_items(packed: Packed, items_S: torch.Tensor, num_items: int) -> torch.Tensor:
    """Tell which negatives stand in the history of each position's user, [N, S]."""
    user_B1 = torch.arange(len(packed.last_place_B), device=items_S.device)[:, None]
    seen_S = packed.seen_user_S * num_items + packed.seen_item_S
    is_own_BS = torch.isin(user_B1 * num_items + items_S, seen_S)
    return is_own_BS[packed.user_RW.flatten()[packed.target_place_N]]


def soft_slates(
    states: torch.Tensor,
    items_VD: torch.Tensor,
    packed: Packed,
    dial_B: torch.Tensor | None,
    objective: Objective,
    exposure_V: torch.Tensor,
) -> tuple[SoftSlates, SoftSlates]:
    """Form soft slates of the unseen items that users would be shown after their last event.

    With dials, of the users alone whose dial is above 0.

    Returns:
        the slates, and the same ones for what looks inside one slate: of a conditioned model their
        gradients reach the states alone.
    """
    last_place_B, seen_user_S, seen_item_S = (
        packed.last_place_B,
        packed.seen_user_S,
        packed.seen_item_S,
    )
    if dial_B is not None:
        is_on_B = dial_B > 0
        last_place_B = last_place_B[is_on_B]
        is_on_S = is_on_B[seen_user_S]
        seen_user_S = (is_on_B.cumsum(0) - 1)[seen_user_S[is_on_S]]
        seen_item_S = seen_item_S[is_on_S]
    users_BD = states[last_place_B].float()
    items_VD = items_VD.float()
    with torch.no_grad():
        scores_BV = users_BD @ items_VD.T
        scores_BV[seen_user_S, seen_item_S] = -torch.inf
        depth = min(objective.slate_candidates, items_VD.shape[0])
        best_BM, candidates_BM = top_scores(scores_BV, depth)
        is_seen_BM = best_BM == -torch.inf  # only where fewer than `depth` items are left

    def form(vectors_VD: torch.Tensor) -> torch.Tensor:
        scores_BM = torch.einsum("bd,bmd->bm", users_BD, vectors_VD[candidates_BM])
        formed = soft_topk(
            standardise(scores_BM).masked_fill(is_seen_BM, SEEN_SCORE),
            objective.slate_size,
            objective.slate_temperature,
        )
        return formed.masked_fill(is_seen_BM, 0.0)

    asked = {name for name, weight in objective.mix.items() if weight}
    history_BG = taught_BM = None
    if asked & (NEEDS_HISTORY | NEEDS_TEACHER):
        history_BG = history_shares(seen_user_S, seen_item_S, objective.traits, len(users_BD))
        if asked & NEEDS_TEACHER:
            taught_BM = _taught(best_BM, candidates_BM, history_BG, objective)
    slates = SoftSlates(
        membership_BM=form(items_VD),
        candidates_BM=candidates_BM,
        traits=objective.traits,
        exposure_V=exposure_V,
        history_BG=history_BG,
        slate_size=objective.slate_size,
        taught_BM=taught_BM,
    )
    if not objective.is_conditioned:
        return slates, slates
    shared_VD, own_VD = items_VD.tensor_split([objective.shared_dim], dim=1)
    inside_VD = torch.cat([shared_VD.detach(), own_VD], dim=1)
    return slates, replace(slates, membership_BM=form(inside_VD))


def _taught(
    best_BM: torch.Tensor,
    candidates_BM: torch.Tensor,
    history_BG: torch.Tensor,
    objective: Objective,
) -> torch.Tensor:
    """Return which candidates the teacher puts into the slate, [B, M] bool."""
    method, dial = objective.teacher
    nobody_V = candidates_BM.new_zeros(objective.traits.num_items)
    candidates = Candidates(best_BM, candidates_BM, objective.traits, history_BG, nobody_V)
    chosen_BK = RERANKERS[method](candidates, objective.slate_size, [dial], Options())[:, 0]
    is_chosen_BK = chosen_BK >= 0
    taught_BM = torch.zeros_like(candidates_BM)
    taught_BM.scatter_add_(1, chosen_BK.clamp_min(0), is_chosen_BK.to(taught_BM.dtype))
    return taught_BM > 0


def _add_places(places_V: torch.Tensor, slates: SoftSlates) -> None:
    """Count the hard slates: candidates come best first, seen ones have no membership."""
    slate_BK = slates.candidates_BM[:, : slates.slate_size]
    is_shown_BK = slates.membership_BM.detach()[:, : slates.slate_size] > 0
    places_V.index_add_(0, slate_BK.flatten(), is_shown_BK.flatten().to(places_V.dtype))
