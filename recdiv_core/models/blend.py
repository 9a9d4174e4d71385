# pyright: strict
"""The blended score: the learned score plus terms that are counted, not learned.

A term is a baseline (baselines/), such as the transition graph or the likeness of texts. It knows
rare items after a single event, where a learned vector is still vague; the learned score knows the
rest. Each score is standardised per user, over the catalogue, so weights mean the same for all
users. The weight of a score is linear in the log of the history's length, because counts are worth
more where a history is short. blend_weights.py fits the weights on validation users. Wolpert, 1992,
Stacked Generalization.
A conditioned model has weights for dial 0 and for dial 1. The weights of other dials lie between.
Requests with a query have weights of their own, and further terms that read the query. So search
is at least the best weighted sum of its parts, and requests without a query do not change. The
learned words of a query are not standardised: their scores differ much where clicks tell what the
query means, and little where they do not. So the history decides the less, the surer the query is.
A term that counts events knows nothing about an item without a train event, and would put it last.
Its value there is filled in by regression on the learned score: the correlation of the two scores
over the other items, times the learned score.
Shapes: B users, C users of a part, V catalogue, T scores (the learned one first), U those with the
query's terms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recdiv_core.models.baselines import READ_QUERIES, Baseline
from recdiv_core.models.baselines.histories import Histories
from recdiv_core.models.baselines.query_match import MATCHED
from recdiv_core.models.scale import centre_and_scale, standardise

TERMS: Final = "terms."
"""Prefix of the terms' tensors in a checkpoint: terms.KIND.NAME."""

TYPICAL_LENGTH: Final = 8.0
"""Events of a history at which the weights are those of the first column."""

USERS: Final = 64
"""Users that are blended at once: their scores lie in the cache, in memory that was used before."""

COLD_KINDS: Final = frozenset({"text", *READ_QUERIES})
"""Kinds of terms that know items without a train event."""

CERTAIN: Final = 3.0
"""Nats of `query_words` that count as much as one standard deviation of another term."""

QUERY_PRIOR: Final[Mapping[str, float]] = {
    "learned": 0.5,
    "recent_popular": 0.3,
    "text_cosine": 0.5,
    "bm25": 2.0,
    "hybrid": 2.5,
    "query_words": 1.0,
}
"""Weights for requests with a query before any fit, and what few requests are pulled to. Other
terms have 0."""


DIAL_CHANGE: Final = "blend.dial_change_T2"
"""Tensor of a conditioned model's blend in a checkpoint; earlier versions had none."""


class Term(nn.Module):
    """A fitted baseline as a part of a model: its tensors move with the model.

    The tensors are no part of the model's state, because they never change: a checkpoint keeps them
    apart (`Blend.terms_state`). Those of int16 are kept as bytes, because DDP sends all buffers
    once, and torch.distributed knows no int16.
    """

    def __init__(self, baseline: Baseline) -> None:
        super().__init__()
        self.kind = baseline.kind
        self.int16_names = {n for n, t in baseline.weights.items() if t.dtype == torch.int16}
        for name, tensor in baseline.weights.items():
            kept = tensor.view(torch.uint8) if name in self.int16_names else tensor
            self.register_buffer(name, kept, persistent=False)

    @property
    def baseline(self) -> Baseline:
        """The baseline on the device of the model."""
        weights = {
            name: tensor.view(torch.int16) if name in self.int16_names else tensor
            for name, tensor in self.named_buffers()
        }
        return Baseline(self.kind, weights)


class Blend(nn.Module):
    """Add weighted terms to the learned score.

    Args:
        terms: fitted baselines, in order; kinds that read queries (READ_QUERIES) are put last.
        is_warm_V: whether an item has a train event.
        has_dial: whether the model is conditioned.

    Attributes:
        weight_T2: weight of each score at TYPICAL_LENGTH, and its change per unit of
            log(length + 1); the learned score is the first. The learned score alone at the start.
            The terms that read queries are no part of it.
        dial_change_T2: what weight_T2 changes by from dial 0 to dial 1; 0 at the start. None = the
            model has no dial.
        query_weight_U2: the same for requests with a query, over all terms; a prior at the start.
            None without terms that read queries: then all requests have the same weights.
    """

    weight_T2: Tensor
    dial_change_T2: Tensor | None
    query_weight_U2: Tensor | None
    cold_C: Tensor

    def __init__(
        self, terms: Sequence[Baseline], is_warm_V: Tensor, *, has_dial: bool = False
    ) -> None:
        super().__init__()
        self.register_buffer("cold_C", (~is_warm_V).nonzero()[:, 0], persistent=False)
        ordered = sorted(terms, key=lambda baseline: baseline.kind in READ_QUERIES)
        self.terms = nn.ModuleList(Term(baseline) for baseline in ordered)
        self.num_history_terms = sum(kind not in READ_QUERIES for kind in self.kinds)
        weight_T2 = torch.zeros(self.num_history_terms + 1, 2)
        weight_T2[0, 0] = 1.0
        self.register_buffer("weight_T2", weight_T2)
        change_T2 = torch.zeros_like(weight_T2) if has_dial else None
        self.register_buffer("dial_change_T2", change_T2)
        has_more = self.num_history_terms < len(terms)
        self.register_buffer("query_weight_U2", query_prior(self.kinds) if has_more else None)

    @property
    def kinds(self) -> list[str]:
        """Kinds of the terms, in order."""
        return [cast("Term", term).kind for term in self.terms]

    @property
    def baselines(self) -> list[Baseline]:
        """The terms as fitted baselines, in order; those that read queries are last."""
        return [cast("Term", term).baseline for term in self.terms]

    def forward(
        self, learned_BV: Tensor, histories: Histories, dial_B: Tensor | None = None
    ) -> Tensor:
        """Blend the scores of a batch.

        Args:
            learned_BV: learned scores.
            histories: of the users.
            dial_B: dials in [0, 1] of a conditioned model's users; None = 0.

        Returns:
            [B, V] the blended scores, in the memory of the learned ones.
        """
        weight_BU = self._weights(histories, dial_B)
        for rows, own in histories.parts(USERS):
            part_CV, weight_CU = learned_BV[rows], weight_BU[rows]
            added_CV = self._weighted_terms(standardise(part_CV), weight_CU, own)
            part_CV.mul_(weight_CU[:, :1]).add_(added_CV)
        return learned_BV

    def around(
        self, learned_BV: Tensor, histories: Histories, dial_B: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return what makes blended scores of learned ones: `factor * learned + added`.

        The arguments are those of `forward`.

        Returns:
            factor_B1, and added_BV, which holds the weighted terms.
        """
        weight_BU, added_BV = self._weights(histories, dial_B), torch.empty_like(learned_BV)
        factor_B1 = weight_BU[:, :1].clone()
        for rows, own in histories.parts(USERS):
            standard_CV = learned_BV[rows].clone()
            mean_C1, inverse_C1 = centre_and_scale(standard_CV)
            factor_B1[rows] *= inverse_C1
            added_CV = self._weighted_terms(standard_CV, weight_BU[rows], own)
            torch.sub(added_CV, mean_C1 * factor_B1[rows], out=added_BV[rows])
        return factor_B1, added_BV

    def _weighted_terms(
        self, standard_BV: Tensor, weight_BU: Tensor, histories: Histories
    ) -> Tensor:
        """Return the weighted sum of the standardised terms, [B, V]."""
        added_BV = torch.zeros_like(standard_BV)
        for place, term in enumerate(self._terms_of(histories), start=1):
            scores_BV = self._scores(term, standard_BV, histories)
            added_BV.addcmul_(scores_BV, weight_BU[:, place : place + 1])
        return added_BV

    def _weights(self, histories: Histories, dial_B: Tensor | None) -> Tensor:
        """Return the weights of each user: [B, T], or [B, U] if the batch has a query.

        Query terms have the weight 0 for a request without a query.
        """
        features_B2 = features_of(histories)
        weight_BT = features_B2 @ self.weight_T2.T
        if self.dial_change_T2 is not None and dial_B is not None:
            weight_BT = weight_BT + dial_B[:, None] * (features_B2 @ self.dial_change_T2.T)
        if histories.queries is None or self.query_weight_U2 is None:
            return weight_BT
        num_more = len(self.query_weight_U2) - len(self.weight_T2)
        asks_B1 = histories.queries.has_query_B[:, None]
        asked_BU = features_B2 @ self.query_weight_U2.T
        return torch.where(asks_B1, asked_BU, F.pad(weight_BT, (0, num_more)))

    def _terms_of(self, histories: Histories) -> list[Term]:
        """Return the terms that count in a batch: all if it has a query."""
        terms = cast("list[Term]", list(self.terms))
        return terms[: self.num_history_terms] if histories.queries is None else terms

    def each(self, learned_BV: Tensor, histories: Histories) -> list[Tensor]:
        """Return the standardised scores one by one, each [B, V]; the learned ones first.

        The terms that read queries follow if the batch has a query.
        """
        standard_BV, terms = standardise(learned_BV), self._terms_of(histories)
        return [standard_BV, *(self._scores(term, standard_BV, histories) for term in terms)]

    def _scores(self, term: Term, standard_BV: Tensor, histories: Histories) -> Tensor:
        """Return the standardised scores of a term, with those of cold items filled in.

        BM25 has no say on a query of unknown words, which it would answer by popularity. The
        scores of `query_words` are nats and keep their scale.
        """
        scores_BV = term.baseline.scores(histories)
        if term.kind == "query_words":
            return scores_BV.sub_(scores_BV.mean(dim=1, keepdim=True)).div_(CERTAIN)
        if term.kind == "bm25":
            scores_BV *= scores_BV.amax(dim=1, keepdim=True) > MATCHED
        scores_BV = standardise(scores_BV)
        if term.kind in COLD_KINDS or not len(self.cold_C):
            return scores_BV
        # a cold item takes no part in the correlation
        scores_BV[:, self.cold_C] = 0.0
        num_warm = max(1, scores_BV.shape[1] - len(self.cold_C))
        alike_B1 = torch.bmm(scores_BV[:, None, :], standard_BV[:, :, None])[:, 0] / num_warm
        scores_BV[:, self.cold_C] = alike_B1 * standard_BV[:, self.cold_C]
        return scores_BV

    def terms_state(self) -> dict[str, Tensor]:
        """Return the terms' tensors for a checkpoint, see `read_terms`."""
        return {
            f"{TERMS}{term.kind}.{name}": tensor
            for term in cast("list[Term]", list(self.terms))
            for name, tensor in term.baseline.weights.items()
        }


def query_prior(kinds: Sequence[str]) -> Tensor:
    """Return the weights of requests with a query before any fit, [U, 2].

    >>> query_prior(["graph", "bm25"])[:, 0].tolist()
    [0.5, 0.0, 2.0]
    """
    weight_U = torch.tensor([QUERY_PRIOR.get(kind, 0.0) for kind in ("learned", *kinds)])
    return torch.stack([weight_U, torch.zeros_like(weight_U)], dim=1)


def read_terms(kinds: Sequence[str], weights: Mapping[str, Tensor]) -> list[Baseline]:
    """Return the terms that a checkpoint holds.

    A checkpoint may lack some kinds.
    """
    found: list[Baseline] = []
    for kind in kinds:
        prefix = f"{TERMS}{kind}."
        own = {n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)}
        if own:
            found.append(Baseline(kind, own))
    return found


def features_of(histories: Histories) -> Tensor:
    """Return what the weights of a user are linear in: [B, 2] 1 and the log of the length."""
    lengths_B = torch.bincount(histories.user_S, minlength=histories.num_users).float()
    return gate_features(lengths_B)


def gate_features(lengths_B: Tensor) -> Tensor:
    """Return 1 and log((length + 1) / (TYPICAL_LENGTH + 1)) of each history, [B, 2]."""
    log_B = torch.log((lengths_B + 1) / (TYPICAL_LENGTH + 1))
    return torch.stack([torch.ones_like(log_B), log_B], dim=1)
