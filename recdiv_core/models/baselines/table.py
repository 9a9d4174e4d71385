# pyright: strict
"""The table of baselines: name -> the function that scores.

The fit functions stand beside the score functions, in one module per kind. To add a kind, write
both, add it to the table and to slates/fitting.py, and add its name to config.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from recdiv_core.models.baselines.buy_again import score_by_own_events
from recdiv_core.models.baselines.ease import score_by_item_weights
from recdiv_core.models.baselines.graph import score_by_graph
from recdiv_core.models.baselines.histories import Histories
from recdiv_core.models.baselines.neighbours import score_by_neighbours
from recdiv_core.models.baselines.popularity import score_by_chance, score_by_place
from recdiv_core.models.baselines.query_match import (
    score_by_bm25,
    score_by_hybrid,
    score_by_query_cosine,
)
from recdiv_core.models.baselines.query_words import score_by_query_words
from recdiv_core.models.baselines.text_profile import score_by_text
from recdiv_core.models.lifts import LIFTS, Lifts

Scores = Callable[[Mapping[str, Tensor], Histories], Tensor]
"""weights, histories -> scores_BV."""

SCORES: Final[Mapping[str, Scores]] = {
    "popular": score_by_place,
    "recent_popular": score_by_place,
    "random": score_by_chance,
    "item_knn": score_by_neighbours,
    "ease": score_by_item_weights,
    "graph": score_by_graph,
    "text": score_by_text,
    "rp3beta": score_by_neighbours,
    "buy_again": score_by_own_events,
    "bm25": score_by_bm25,
    "text_cosine": score_by_query_cosine,
    "hybrid": score_by_hybrid,
    "query_words": score_by_query_words,
}


READ_QUERIES: Final = ("bm25", "text_cosine", "hybrid", "query_words")
"""Kinds whose scores depend on the query of a request."""


@dataclass(frozen=True, eq=False)
class Baseline:
    """A fitted baseline.

    `kind` is a key of SCORES; for its weights see the fit function of the kind. A term of a blend
    has no `lifts`.
    """

    kind: str
    weights: Mapping[str, Tensor]
    lifts: Lifts | None = None

    def scores(self, histories: Histories) -> Tensor:
        """Score the catalogue for each user: [B, V] float32, higher is better."""
        return SCORES[self.kind](self.weights, histories)

    def to(self, device: torch.device) -> Baseline:
        """Return the baseline with its tensors on a device."""
        moved = {name: tensor.to(device) for name, tensor in self.weights.items()}
        lifts = None if self.lifts is None else self.lifts.to(device)
        return replace(self, weights=moved, lifts=lifts)

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint keeps, by name."""
        lifts = {} if self.lifts is None else self.lifts.state_dict(prefix=LIFTS)
        return {**self.weights, **lifts}

    @classmethod
    def from_state(cls, kind: str, state: Mapping[str, Tensor], num_items: int) -> Baseline:
        """Return the baseline of a checkpoint; see `state`. An older one has no lifts."""
        lifts = Lifts(num_items)
        own = {name.removeprefix(LIFTS): state[name] for name in state if name.startswith(LIFTS)}
        lifts.load_state_dict(own, strict=bool(own))
        weights = {name: state[name] for name in state if not name.startswith(LIFTS)}
        return cls(kind, weights, lifts)
