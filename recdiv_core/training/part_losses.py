"""The relevance loss and the diversity penalty of one part, as sums over the part.

step.py divides both by *global* counts, so ranks and parts do not change the result. A conditioned
model learns many weights at once: each user has a dial d, which the model receives, and the user's
loss is that of the weight w = d * diversity_weight. All dials share the item vectors. Regularisers
that look inside one slate therefore train only the states and the dial's own dims; regularisers
over all slates train the item vectors too. Shapes: see data/batches.py; A users with a dial
above 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from recdiv_core.losses.diversity import penalty
from recdiv_core.losses.negatives import Negatives
from recdiv_core.losses.relevance import sampled_softmax, softmax
from recdiv_core.models.recommender import FreshVectors
from recdiv_core.training.objective import Objective
from recdiv_core.training.parts import Part
from recdiv_core.training.step_slates import count_shown, soft_slates


@dataclass(frozen=True)
class PartLosses:
    """Sums over a part.

    Attributes:
        relevance: nats times position weights; for a conditioned model also times 1 - w.
        penalty: penalties of the users; for a conditioned model times w. None = not computed.
        sums: [4] float64 without gradient: nats, their weight, penalties, penalised users.
        shown_V: how often each item stands in the hard slates of the penalised users.
    """

    relevance: torch.Tensor
    penalty: torch.Tensor | None
    sums: torch.Tensor
    shown_V: torch.Tensor


def part_losses(
    model: nn.Module,
    part: Part,
    objective: Objective,
    *,
    exposure_V: torch.Tensor,
    negatives: Negatives | None,
    fresh: FreshVectors | None,
    autocast: torch.autocast,
) -> PartLosses:
    """Run the model on a part, with the text vectors `fresh`, and sum its losses."""
    packed, dials, w = part.packed, part.dials, objective.diversity_weight
    weights_N, needed = packed.weights_N, part.needed
    if dials is not None:
        dial_N = dials.dial_RW.flatten()[packed.target_place_N]
        weights_N = weights_N * (1 - w * dial_N)
    with autocast:
        states, items_VD = model(
            packed.items_RW if needed is None else needed.history_RW,
            packed.position_RW,
            packed.segment_RW,
            packed.queries_RW,
            fresh,
            None if dials is None else dials.dial_RW,
            None if needed is None else needed.items_U,
        )
        targets_N = packed.targets_N if needed is None else needed.targets_N
        if needed is not None and negatives is not None:
            negatives = negatives._replace(items_S=needed.negatives_S)
        targets = _Targets(packed.target_place_N, targets_N, weights_N)
        views = [(targets, items_VD.shape[1])]
        if dials is not None:  # at dial 0 the dial's own dims are zero: half the users skip them
            above = targets.only(dials.above_N)
            views = [(targets.only(dials.zero_N), objective.shared_dim), (above, views[0][1])]
        relevance = torch.stack(
            [
                _relevance(states[:, :dim], items_VD[:, :dim], each, objective, negatives)
                for each, dim in views
            ]
        ).sum()
    sums = torch.zeros(4, dtype=torch.float64, device=exposure_V.device)
    sums[0] = relevance.detach()
    sums[1] = weights_N.sum(dtype=torch.float64)
    if not objective.needs_penalty:
        return PartLosses(relevance, None, sums, torch.zeros_like(exposure_V))
    slates, inside = soft_slates(states, items_VD, part, objective, exposure_V)
    penalty_A = penalty(slates, objective.mix, inside=inside)
    sums[2] = penalty_A.detach().sum(dtype=torch.float64)
    sums[3] = len(penalty_A)
    if dials is not None:
        penalty_A = penalty_A * (w * dials.dial_A)
    return PartLosses(relevance, penalty_A.sum(), sums, count_shown(slates, len(exposure_V)))


@dataclass(frozen=True)
class _Targets:
    """Positions that predict an item: where their states are, the items, and their weights."""

    place_N: torch.Tensor
    items_N: torch.Tensor
    weights_N: torch.Tensor

    def only(self, index_n: torch.Tensor) -> _Targets:
        """Return some of them."""
        return _Targets(self.place_N[index_n], self.items_N[index_n], self.weights_N[index_n])


def _relevance(
    states: torch.Tensor,
    items_VD: torch.Tensor,
    targets: _Targets,
    objective: Objective,
    negatives: Negatives | None,
) -> torch.Tensor:
    """Sum the relevance loss of some targets."""
    positions = (states[targets.place_N], items_VD, targets.items_N, targets.weights_N)
    temperature = objective.temperature
    if objective.relevance == "softmax":
        return softmax(
            *positions,
            temperature=temperature,
            left_out_X=objective.left_out_X,
        )
    assert negatives is not None
    return sampled_softmax(
        *positions,
        negatives.items_S,
        temperature=temperature,
        logq_alpha=objective.logq_alpha,
        log_count_S=negatives.log_count_S,
        log_expected_S=negatives.log_expected_S,
    )
