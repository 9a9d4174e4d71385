# pyright: strict
"""Baselines on padded histories, in operations that ONNX has.

The functions of the other modules read ragged histories and join repeated events, which ONNX cannot
do. These twins compute the same scores from arrays of fixed shape, where the newest event of each
user stands last and -1 fills the front. tests/test_padded.py holds them against each other. Kinds
that read the text of a query have no twin. Shapes: B users, L events, V catalogue, N neighbours,
M items of a dense matrix, D width of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recdiv_core.models.baselines.histories import DAY_US, HalfLife, read_half_life
from recdiv_core.models.baselines.packed_words import PackedWords, add_at, narrowed
from recdiv_core.models.baselines.popularity import FALLBACK
from recdiv_core.models.baselines.table import Baseline
from recdiv_core.models.baselines.text_profile import TINY
from recdiv_core.models.int8 import Rows

ROWS: Final = ("weight_VN", "weight_MM", "text_VH")
"""Weights with a long row of floats per item, which int8 makes four times smaller."""


WORDS: Final = ("word_M", "word_weight_M", "word_start_T", "text_V", "num_words")
"""Weights of `fit_words`."""


class Events(NamedTuple):
    """Histories of a batch, padded in front.

    Attributes:
        items_BL: int64 item_index; 0 in empty places.
        is_event_BL: bool, whether a place holds an event.
        time_BL: int64 time in microseconds, rising; None = a log without times.
    """

    items_BL: Tensor
    is_event_BL: Tensor
    time_BL: Tensor | None

    @property
    def num_events_B(self) -> Tensor:
        """Events of each user, float32."""
        return self.is_event_BL.sum(dim=1).float()


class PaddedTerm(nn.Module):
    """A fitted baseline that scores padded histories.

    Args:
        baseline: of a kind in PADDED.
        is_int8: whether its large matrices are stored as int8.
    """

    def __init__(self, baseline: Baseline, *, is_int8: bool = False) -> None:
        super().__init__()
        self.kind = baseline.kind
        own = dict(baseline.weights)
        self.halving = read_half_life(own) if "half_life" in own else HalfLife(0.0, in_days=False)
        own.pop("half_life", None)
        self.recency = float(own.pop("recency", torch.tensor(0.0)))
        self.text_weight = float(own.pop("text_weight", torch.tensor(0.0)))
        self.words = PackedWords(own) if "word_M" in own else None
        for name in WORDS:
            own.pop(name, None)
        scale_V1 = {"weight_MM": own.pop("scale_M")[:, None]} if "scale_M" in own else {}
        self.rows = nn.ModuleDict(
            {
                name: Rows(own.pop(name), is_int8=is_int8, scale_V1=scale_V1.get(name))
                for name in ROWS
                if name in own
            }
        )
        for name, tensor in own.items():
            self.register_buffer(name, narrowed(tensor) if name == "neighbours_VN" else tensor)

    def forward(self, events: Events) -> Tensor:
        """Score the catalogue for each user: [B, V] float32, as `Baseline.scores` does."""
        return PADDED[self.kind](self, events)

    def fallback_BV(self, events: Events) -> Tensor:
        """Return the popularity scores with their tiny weight, for every user."""
        popular_V = self.get_buffer("popular_V")
        return (FALLBACK * popular_V).expand(events.items_BL.shape[0], -1)


def ages(events: Events) -> Tensor:
    """Count the sets of events from each event to the end of its history; see `histories.ages`.

    Returns:
        [B, L] float32, >= 1 where there is an event.
    """
    is_event_BL, time_BL = events.is_event_BL, events.time_BL
    is_first_BL = is_event_BL
    if time_BL is not None:
        before_BL = F.pad(time_BL, (1, 0))[:, :-1]
        has_before_BL = F.pad(is_event_BL.long(), (1, 0))[:, :-1] > 0
        is_first_BL = is_event_BL & ((time_BL != before_BL) | ~has_before_BL)
    set_BL = is_first_BL.long().cumsum(dim=1)
    return (is_first_BL.long().sum(dim=1, keepdim=True) - set_BL + 1).float()


def falling_weights(events: Events, recency: float) -> Tensor:
    """Weigh each event by age ** -recency; the weights of a user sum to 1, or 0 without events."""
    weight_BL = ages(events).clamp_min(1.0) ** -recency * events.is_event_BL.float()
    sum_B1 = weight_BL.sum(dim=1, keepdim=True)
    return weight_BL / torch.where(sum_B1 > 0, sum_B1, 1.0)


def halving_weights(events: Events, half_life: HalfLife) -> Tensor:
    """Weigh each event by 2 ** (-age / half-life); see `histories.halving_weights`."""
    is_event_BL = events.is_event_BL.float()
    if not half_life.value or (half_life.in_days and events.time_BL is None):
        return is_event_BL
    if half_life.in_days and events.time_BL is not None:
        age_BL = (events.time_BL[:, -1:] - events.time_BL).float() / DAY_US
    else:
        age_BL = ages(events) - 1
    return torch.exp2(-age_BL / half_life.value) * is_event_BL


def only_latest(events: Events, weight_BL: Tensor) -> Tensor:
    """Set the weight of each event to 0 that the same item follows: the latest weighs most."""
    items_BL = torch.where(events.is_event_BL, events.items_BL, -1)
    same_BLL = items_BL[:, :, None] == items_BL[:, None, :]
    length = items_BL.shape[1]
    place_L = torch.arange(length, device=items_BL.device)
    is_later_LL = place_L[None, :] > place_L[:, None]
    return weight_BL * (~(same_BLL & is_later_LL).any(dim=2)).float()


def _neighbours(term: PaddedTerm, events: Events, weight_BL: Tensor) -> Tensor:
    places_BLN = term.get_buffer("neighbours_VN")[events.items_BL].long()
    rows_BLN = _rows(term, "weight_VN").take(events.items_BL) * weight_BL[:, :, None]
    num_items = len(term.get_buffer("popular_V"))
    return add_at(places_BLN.flatten(1), rows_BLN.flatten(1), num_items)


def _rows(term: PaddedTerm, name: str) -> Rows:
    rows = term.rows[name]
    assert isinstance(rows, Rows)
    return rows


def _halved(term: PaddedTerm, events: Events) -> Tensor:
    return halving_weights(events, term.halving)


def score_by_place(term: PaddedTerm, events: Events) -> Tensor:
    """See `popularity.score_by_place`."""
    return term.get_buffer("popular_V").expand(events.items_BL.shape[0], -1)


def score_by_neighbours(term: PaddedTerm, events: Events) -> Tensor:
    """See `neighbours.score_by_neighbours`."""
    weight_BL = only_latest(events, _halved(term, events))
    return _neighbours(term, events, weight_BL) + term.fallback_BV(events)


def score_by_item_weights(term: PaddedTerm, events: Events) -> Tensor:
    """See `ease.score_by_item_weights`."""
    if "weight_VN" in term.rows:
        return score_by_neighbours(term, events)
    place_V = term.get_buffer("place_V")
    place_BL = place_V[events.items_BL]
    weight_BL = only_latest(events, _halved(term, events)) * (place_BL >= 0).float()
    rows = _rows(term, "weight_MM")
    rows_BLM = rows.take(place_BL.clamp_min(0))
    scores_BM = (weight_BL[:, None, :] @ rows_BLM)[:, 0]
    # one more column of zeros is the place of items outside the matrix
    scores_BV = F.pad(scores_BM, (0, 1))[:, place_V % (len(rows.values_VD) + 1)]
    return scores_BV + term.fallback_BV(events)


def score_by_graph(term: PaddedTerm, events: Events) -> Tensor:
    """See `graph.score_by_graph`."""
    weight_BL = falling_weights(events, term.recency)
    scores_BV = _neighbours(term, events, weight_BL)
    if term.text_weight:
        cosine_BV = _cosines(term, events, weight_BL)
        scores_BV = _to_one(scores_BV) + term.text_weight * _to_one(cosine_BV)
    return scores_BV + term.fallback_BV(events)


def _to_one(scores_BV: Tensor) -> Tensor:
    most_B1 = scores_BV.amax(dim=1, keepdim=True)
    return scores_BV / torch.where(most_B1 > 0, most_B1, 1.0)


def score_by_text(term: PaddedTerm, events: Events) -> Tensor:
    """See `text_profile.score_by_text`."""
    weight_BL = falling_weights(events, term.recency)
    if "text_VH" in term.rows:
        text_VH = _rows(term, "text_VH")
        profile_BH = (weight_BL[:, None, :] @ text_VH.take(events.items_BL))[:, 0]
        scores_BV = text_VH.dot(F.normalize(profile_BH, dim=1, eps=TINY))
    else:
        scores_BV = _cosines(term, events, weight_BL)
    return scores_BV + term.fallback_BV(events)


def _cosines(term: PaddedTerm, events: Events, weight_BL: Tensor) -> Tensor:
    assert term.words is not None
    return term.words(events.items_BL, weight_BL)


def score_by_own_events(term: PaddedTerm, events: Events) -> Tensor:
    """See `buy_again.score_by_own_events`."""
    num_items = len(term.get_buffer("popular_V"))
    sum_BV = add_at(events.items_BL, _halved(term, events), num_items)
    return sum_BV.sqrt() + term.fallback_BV(events)


PADDED: Final[Mapping[str, Callable[[PaddedTerm, Events], Tensor]]] = {
    "popular": score_by_place,
    "recent_popular": score_by_place,
    "item_knn": score_by_neighbours,
    "ease": score_by_item_weights,
    "graph": score_by_graph,
    "text": score_by_text,
    "rp3beta": score_by_neighbours,
    "buy_again": score_by_own_events,
}
"""Kinds that can be exported: all that read neither a query nor the id of a user."""
