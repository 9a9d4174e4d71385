# pyright: strict
"""A whole model on padded histories, in operations that ONNX has.

It scores the whole catalogue for requests without a query. It holds towers, dial, blend and logit
adjustment; item vectors are constants. It holds no queries, re-rankers, rules or eligibility.
Shapes: B users, L events, V catalogue, D dims, W = L + 1 places of the session tower's input.
"""

from __future__ import annotations

from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recdiv_core.models.baselines import Baseline
from recdiv_core.models.baselines.padded import Events, PaddedTerm
from recdiv_core.models.blend import COLD_KINDS, Blend, gate_features
from recdiv_core.models.int8 import Rows, round_linear_layers
from recdiv_core.models.recommender import Recommender
from recdiv_core.models.scale import standardise

WITHOUT_HISTORY: Final = ("popular", "recent_popular")
"""Kinds of terms that score all users alike."""


class PaddedScorer(nn.Module):
    """Score padded histories with a trained model or a baseline.

    The model is of a kind in PADDED, on the CPU. `lowered_V` is subtracted from the scores, see
    `logit_adjustment`; with `is_int8` large matrices with a row per item are stored as int8.
    """

    def __init__(
        self,
        model: Recommender | Baseline,
        *,
        lowered_V: Tensor | None = None,
        is_int8: bool = False,
    ) -> None:
        super().__init__()
        self.register_buffer("lowered_V", lowered_V)
        self.towers = self.blend = self.alone = None
        if isinstance(model, Recommender):
            self.towers = PaddedTowers(model, is_int8=is_int8)
            if model.blend is not None:
                num_items = len(self.towers.items.values_VD)
                self.blend = PaddedBlend(model.blend, num_items=num_items, is_int8=is_int8)
        else:
            self.alone = PaddedTerm(model, is_int8=is_int8)
        self.eval()

    @property
    def has_dial(self) -> bool:
        """Whether the model is conditioned."""
        return self.towers is not None and self.towers.dial is not None

    @property
    def reads_times(self) -> bool:
        """Whether a score depends on the times of the events."""
        terms = [part for part in self.modules() if isinstance(part, PaddedTerm)]
        return any(term.kind not in WITHOUT_HISTORY for term in terms)

    def forward(
        self, items: Tensor, times: Tensor | None = None, dial: Tensor | None = None
    ) -> Tensor:
        """Score the catalogue.

        Args:
            items: [B, L] int64 item_index of each user's events, oldest first; -1 fills the front.
            times: [B, L] int64 microseconds of the events, rising; None = a log without times.
            dial: [B] float32 in [0, 1], for a conditioned model; None = it has no dial.

        Returns:
            [B, V] float32, higher is better.
        """
        events = Events(items.clamp_min(0), items >= 0, times)
        if self.towers is None:
            scores_BV = cast("PaddedTerm", self.alone)(events)
        else:
            scores_BV = self.towers(items, dial)
            if self.blend is not None:
                scores_BV = self.blend(scores_BV, events, dial)
        lowered_V = cast("Tensor | None", self.lowered_V)
        return scores_BV if lowered_V is None else scores_BV - lowered_V


class PaddedTowers(nn.Module):
    """The learned score of padded histories: state . item, with constant item vectors."""

    def __init__(self, model: Recommender, *, is_int8: bool) -> None:
        super().__init__()
        self.session_tower: nn.Module = model.session_tower
        self.dial: nn.Module | None = model.dial
        if is_int8:
            self.session_tower = round_linear_layers(self.session_tower)
            self.dial = None if self.dial is None else round_linear_layers(self.dial)
        self.dim, self.max_history = model.dim, model.session_tower.max_history
        model.eval()
        with torch.no_grad():
            self.items = Rows(model.item_vectors().detach(), is_int8=is_int8)

    def forward(self, items_BL: Tensor, dial_B: Tensor | None) -> Tensor:
        """Score the catalogue, [B, V]; the tower sees the latest `max_history` events."""
        items_BW = F.pad(items_BL, (1, 0), value=-1)
        width = items_BW.shape[1]
        is_late_W = torch.arange(width, device=items_BW.device) >= width - self.max_history
        is_event_BW = (items_BW >= 0) & is_late_W
        # the start stands right before the first event; places before it are empty
        is_next_BW = F.pad(is_event_BW[:, 1:].long(), (0, 1), value=1) > 0
        is_own_BW = is_event_BW | is_next_BW
        vectors_BWD = self.items.take(items_BW.clamp_min(0))[:, :, : self.dim]
        states_BWD = self.session_tower(
            vectors_BWD, is_event_BW.long(), torch.where(is_own_BW, 0, -1)
        )
        states_BD = states_BWD[:, -1]
        if self.dial is not None:
            at_0 = torch.zeros_like(states_BD[:, 0])
            states_BD = self.dial(states_BD, at_0 if dial_B is None else dial_B)
        return self.items.dot(states_BD)


class PaddedBlend(nn.Module):
    """The blend of a model for requests without a query; see `Blend`."""

    def __init__(self, blend: Blend, *, num_items: int, is_int8: bool) -> None:
        super().__init__()
        history_terms = blend.baselines[: blend.num_history_terms]
        self.terms = nn.ModuleList(PaddedTerm(each, is_int8=is_int8) for each in history_terms)
        self.register_buffer("weight_T2", blend.weight_T2)
        self.register_buffer("dial_change_T2", blend.dial_change_T2)
        is_warm_V = torch.ones(num_items)
        is_warm_V[blend.cold_C] = 0.0
        self.register_buffer("is_warm_V", is_warm_V)
        self.num_cold = len(blend.cold_C)

    def forward(self, learned_BV: Tensor, events: Events, dial_B: Tensor | None) -> Tensor:
        """Add the weighted terms to the learned scores, [B, V]."""
        features_B2 = gate_features(events.num_events_B)
        weight_BT = features_B2 @ self.get_buffer("weight_T2").T
        if dial_B is not None:
            change_BT = features_B2 @ self.get_buffer("dial_change_T2").T
            weight_BT = weight_BT + dial_B[:, None] * change_BT
        standard_BV = standardise(learned_BV.clone())
        blended_BV = standard_BV * weight_BT[:, :1]
        for place, term in enumerate(self.terms, start=1):
            scores_BV = standardise(term(events).clone())
            if self.num_cold and cast("PaddedTerm", term).kind not in COLD_KINDS:
                scores_BV = self._fill_cold(scores_BV, standard_BV)
            blended_BV = blended_BV + scores_BV * weight_BT[:, place : place + 1]
        return blended_BV

    def _fill_cold(self, scores_BV: Tensor, standard_BV: Tensor) -> Tensor:
        """Fill in the scores of cold items from the learned ones, as `Blend` does."""
        is_warm_V = self.get_buffer("is_warm_V")
        warm_BV = scores_BV * is_warm_V
        num_warm = max(1, len(is_warm_V) - self.num_cold)
        alike_B1 = (warm_BV * standard_BV).sum(dim=1, keepdim=True) / num_warm
        return warm_BV + alike_B1 * standard_BV * (1.0 - is_warm_V)
