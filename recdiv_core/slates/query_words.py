# pyright: strict
"""Learn the words of queries from the items that were clicked after them.

models/baselines/query_words.py has the score. The loss of the moves is the softmax over the items
that train events have, for each (query, item) pair of the train split. A large catalogue takes
sampled negatives: the clicked items of the batch, items of their categories, which are the hard
ones, and any items. The loss corrects for how often each is sampled (logQ). Few clicks move a word
little: moves are pulled to 0, where the score is the cosine. Evidence for categories is counted.
Shapes: P pairs, Q queries, V catalogue, W words, N pairs of a batch, D = H + L, C categories.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from recdiv_core.losses.negatives import Negatives
from recdiv_core.losses.relevance import sampled_softmax
from recdiv_core.models.baselines.query_words import SKETCH, entries_of, query_words
from recdiv_core.models.query_text import word_keys, words_of

BATCH: Final = 512
"""Pairs of a step."""
STEPS: Final = (100, 1000)
"""Fewest and most steps; between them, one pass over the pairs."""
RATE: Final = 0.02
"""Learning rate of Adam; it falls to 0 linearly."""
PULL: Final = 30.0
"""L2 penalty of the moves of all words, in nats per squared length, beside the nats of all pairs.
"""
START_SCALE: Final = 20.0
"""Scale of the cosine at the start."""
MOST_WORDS: Final = 50_000
"""Most frequent words that move."""
HARD: Final = 2
"""Items of the target's category that each pair adds to the negatives."""
SPREAD: Final = 3.0
"""Clicks that pull the categories of a word to those of all events."""
BELIEF: Final = 0.5
"""Weight of the evidence for categories. The words of a phrase say much the same, so below 1."""
EXACT_ITEMS: Final = 2_000
"""Items with train events up to which each step has all of them as negatives."""


@dataclass(frozen=True, eq=False)
class QueryClicks:
    """Clicks after queries, and what queries and items are.

    Attributes:
        query_P: int64, place of the query of each click in `texts`.
        item_P: int64 item_index.
        texts: the queries.
        vectors_QH: unit text vectors of the queries.
        text_VH: unit text vectors of the items.
        values_VL: sketch of the values of the items, see `sketch_values`.
        counts_V: train events of each item, with and without a query.
        category_V: int64 category of each item; -1 = none.
    """

    query_P: Tensor
    item_P: Tensor
    texts: list[str]
    vectors_QH: Tensor
    text_VH: Tensor
    values_VL: Tensor
    counts_V: NDArray[np.int64]
    category_V: Tensor


def fit_query_words(clicks: QueryClicks, *, seed: int) -> dict[str, Tensor]:
    """Return the weights of `score_by_query_words`.

    Args:
        clicks: of train events; without a click the score is the cosine and popularity.
        seed: of batches and negatives.

    Returns:
        key_W, move_WD, values_VL, scale, popular_V, category_V, and those of `_evidence`.
    """
    key_W = _keys(clicks)
    items_VE, popular_V = _item_vectors(clicks)
    width = items_VE.shape[1] - 1
    move_WD = torch.zeros(len(key_W), width, requires_grad=True)
    log_scale = torch.tensor(START_SCALE).log().requires_grad_()
    log_popularity = torch.tensor(0.5).log().requires_grad_()
    pair_P, word_P = query_words(key_W, clicks.texts)
    start_Q = torch.searchsorted(pair_P, torch.arange(len(clicks.texts) + 1))
    optimizer = torch.optim.Adam([move_WD, log_scale, log_popularity])
    rng = torch.Generator().manual_seed(seed)
    num_pairs = len(clicks.item_P)
    num_steps = min(max(STEPS[0], num_pairs // BATCH), STEPS[1]) if num_pairs else 0
    sampler = _Sampler(clicks, rng)
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / num_steps)
        chosen_N = torch.randint(num_pairs, (min(BATCH, num_pairs),), generator=rng)
        query_N, target_N = clicks.query_P[chosen_N], clicks.item_P[chosen_N]
        place_M, row_M = entries_of(start_Q, query_N)
        moved_ND = F.pad(clicks.vectors_QH[query_N], (0, SKETCH))
        moved_ND = moved_ND.index_add(0, row_M, move_WD[word_P[place_M]])
        factor_N1 = log_popularity.exp().expand(len(query_N), 1)
        hidden_NE = torch.cat([moved_ND * log_scale.exp(), factor_N1], dim=1)
        negatives = sampler.draw(target_N)
        nats = sampled_softmax(
            hidden_NE,
            items_VE,
            target_N,
            torch.ones(len(target_N)),
            negatives.items_S,
            log_count_S=negatives.log_count_S,
            log_expected_S=negatives.log_expected_S,
        )
        loss = nats / len(target_N) + PULL * move_WD.square().sum() / num_pairs
        optimizer.zero_grad()
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
        optimizer.step()  # pyright: ignore[reportUnknownMemberType]
    return {
        "key_W": key_W,
        "move_WD": move_WD.detach(),
        "values_VL": clicks.values_VL,
        "scale": log_scale.detach().exp(),
        "popular_V": popular_V * log_popularity.detach().exp(),
        "category_V": clicks.category_V,
        **_evidence(clicks, len(key_W), start_Q, word_P),
    }


def _keys(clicks: QueryClicks) -> Tensor:
    """Return the keys of the words that move, rising: the most frequent ones after clicks."""
    count_Q = np.bincount(clicks.query_P.numpy(), minlength=len(clicks.texts))
    counts: dict[str, int] = {}
    for text, count in zip(clicks.texts, count_Q, strict=True):
        for word in set(words_of(text)) if count else ():
            counts[word] = counts.get(word, 0) + int(count)
    words = sorted(counts, key=lambda word: (-counts[word], word))[:MOST_WORDS]
    return torch.as_tensor(np.sort(word_keys(words)))


def _item_vectors(clicks: QueryClicks) -> tuple[Tensor, Tensor]:
    """Return [V, D + 1] text, sketch and popularity of the items, and the popularity.

    The popularity is log(1 + train events). An item without events has the mean of the others:
    nobody could click it.
    """
    popular_V = torch.as_tensor(np.log1p(clicks.counts_V), dtype=torch.float32)
    is_cold_V = popular_V == 0
    if not is_cold_V.all():
        popular_V[is_cold_V] = popular_V[~is_cold_V].mean()
    parts = [clicks.text_VH.float(), clicks.values_VL.float(), popular_V[:, None]]
    return torch.cat(parts, dim=1), popular_V


def _evidence(
    clicks: QueryClicks, num_words: int, start_Q: Tensor, word_P: Tensor
) -> dict[str, Tensor]:
    """Return what the words say about categories: how much likelier each is than without the word.

    With n of a word's clicks in a category that has the share p of all events, the evidence is
    `log(1 + n / (SPREAD * p))`. Up to a constant of the word, it is the log of the category's
    probability after the word over p, under a Dirichlet prior of SPREAD clicks. Zhai and Lafferty,
    2004, A Study of Smoothing Methods for Language Models. `start_Q` [Q + 1] is where the words of
    each query begin in `word_P`.

    Returns:
        start_W [W + 1], where the categories of each word begin; category_N and evidence_N.
    """
    category_V = clicks.category_V
    num_categories = int(category_V.max()) + 1
    is_in_V = category_V >= 0
    counts_V = torch.tensor(clicks.counts_V)[is_in_V].double()
    events_C = torch.ones(num_categories).double().index_add(0, category_V[is_in_V], counts_V)
    place_M, pair_M = entries_of(start_Q, clicks.query_P)
    category_M = category_V[clicks.item_P[pair_M]]
    cell_M = (word_P[place_M] * num_categories + category_M)[category_M >= 0]
    cell_N, count_N = cast("tuple[Tensor, Tensor]", cell_M.unique(return_counts=True))  # pyright: ignore
    category_N = cell_N % max(1, num_categories)
    share_N = (events_C / events_C.sum())[category_N]
    return {
        "start_W": torch.searchsorted(cell_N, torch.arange(num_words + 1) * num_categories),
        "category_N": category_N,
        "evidence_N": (BELIEF * torch.log1p(count_N / (SPREAD * share_N))).float(),
    }


class _Sampler:
    """Draw the negatives of a step: all items with train events, or in-batch and hard ones."""

    def __init__(self, clicks: QueryClicks, rng: torch.Generator) -> None:
        self._rng = rng
        warm_X = torch.as_tensor(clicks.counts_V > 0).nonzero()[:, 0]
        category_V, num_items = clicks.category_V, len(clicks.category_V)
        self._group_V = torch.where(category_V < 0, category_V.max() + 1, category_V)
        self._warm_X = warm_X[self._group_V[warm_X].argsort(stable=True)]  # group by group
        num_groups = int(self._group_V.max()) + 1
        self._size_G = torch.bincount(self._group_V[warm_X], minlength=num_groups)
        self._start_G = self._size_G.cumsum(0) - self._size_G
        share_V = torch.bincount(clicks.item_P, minlength=num_items) / max(1, len(clicks.item_P))
        share_G = torch.zeros(num_groups).index_add_(0, self._group_V, share_V)
        hard_V = (share_G / self._size_G.clamp_min(1))[self._group_V]
        self._expected_V = share_V + HARD * hard_V + 1 / max(1, len(warm_X))
        """Expected samples of each item with events, per pair of a batch."""

    def draw(self, target_N: Tensor) -> Negatives:
        """Return the negatives of a batch: its targets, HARD and one uniform item per target."""
        if len(self._warm_X) <= EXACT_ITEMS:
            once_X = torch.zeros(len(self._warm_X))
            return Negatives(self._warm_X, once_X, once_X)
        group_H = self._group_V[target_N].repeat(HARD)
        share_H = torch.rand(len(group_H), generator=self._rng)
        hard_H = (share_H * self._size_G[group_H]).long() + self._start_G[group_H]
        any_N = torch.randint(len(self._warm_X), (len(target_N),), generator=self._rng)
        drawn = torch.cat([target_N, self._warm_X[torch.cat([hard_H, any_N])]])
        items_S, count_S = cast("tuple[Tensor, Tensor]", drawn.unique(return_counts=True))  # pyright: ignore
        expected_S = len(target_N) * self._expected_V[items_S]
        return Negatives(items_S, count_S.log(), expected_S.log())
