# pyright: strict
"""Baselines that answer queries: words in common (BM25), likeness of meaning (cosine), and both.

They ignore histories. A request without a query gets the popular items. Brands, sizes and model
numbers are words that a text encoder hardly knows, so BM25 finds them and the cosine finds other
words for the same thing. Shapes: B users, P (user, word) pairs, V catalogue, W words, M (word,
item) pairs of all texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recdiv_core.models.baselines.histories import Histories
from recdiv_core.models.baselines.popularity import FALLBACK, fit_popular
from recdiv_core.models.baselines.query_words import entries_of
from recdiv_core.models.query_text import word_keys, words_of
from recdiv_core.models.scale import standardise

TIES: Final = 1e-4
"""Weight of popularity among items of equal lexical scores, which are common. The largest lexical
score of a query is 1."""


MATCHED: Final = 0.5
"""Best score of BM25 above which the query has a known word; the best is 1, or ties alone."""


def fit_bm25(
    counts_V: NDArray[np.int64], texts: Sequence[str], *, k1: float, b: float
) -> dict[str, Tensor]:
    """Return the BM25 weight of each word in each text that has it.

    The weight of a word that a text of length l has tf times is `idf * tf / (tf + k1 * (1 - b + b *
    l / mean l))`, with `idf = log(1 + (V - df + 1/2) / (df + 1/2))`, where df texts have the word.
    Robertson and Zaragoza, 2009, The Probabilistic Relevance Framework: BM25 and Beyond; in the
    form of Lucene.

    Args:
        counts_V: train events of each item, for ties and requests without a query.
        texts: text of each item.
        k1: saturation of tf, >= 0; 0 = a word counts once.
        b: share of the length in the weight, in [0, 1]; 0 = length does not matter.

    Returns:
        key_W int64, rising, see `word_keys`; start_W int64, where the items of each word begin;
        item_M int64 and weight_M float32, one word after another; popular_V.
    """
    counts = [Counter(words_of(text)) for text in texts]
    vocabulary = sorted({word for own in counts for word in own})
    key_W = word_keys(vocabulary)
    order_W = np.argsort(key_W, kind="stable")
    in_order = [vocabulary[word] for word in cast("list[int]", order_W.tolist())]
    number = {word: at for at, word in enumerate(in_order)}
    word_M = np.array([number[word] for own in counts for word in own], np.int64)
    item_M = np.repeat(np.arange(len(texts)), [len(own) for own in counts])
    tf_M = np.array([n for own in counts for n in own.values()], np.float64)
    length_V = np.array([own.total() for own in counts], np.float64)
    df_W = np.bincount(word_M, minlength=len(vocabulary))
    idf_W = np.log1p((len(texts) - df_W + 0.5) / (df_W + 0.5))
    share_V = length_V / max(1.0, length_V.mean() if len(texts) else 1.0)
    weight_M = idf_W[word_M] * tf_M / (tf_M + k1 * (1 - b + b * share_V[item_M]))
    order_M = np.argsort(word_M, kind="stable")
    return {
        "key_W": torch.as_tensor(key_W[order_W]),
        "start_W": torch.as_tensor(np.cumsum(df_W) - df_W),
        "item_M": torch.as_tensor(item_M[order_M]),
        "weight_M": torch.as_tensor(weight_M[order_M].astype(np.float32)),
        **fit_popular(counts_V),
    }


def score_by_bm25(weights: Mapping[str, Tensor], histories: Histories) -> Tensor:
    """Score by the words that item and query have in common; the best item of a query has 1."""
    scores_BV = _lexical(weights, histories)
    return scores_BV.add_(weights["popular_V"], alpha=TIES)


def score_by_query_cosine(weights: Mapping[str, Tensor], histories: Histories) -> Tensor:
    """Score by the cosine of the text vectors of item and query."""
    return _cosines(weights, histories).add_(weights["popular_V"], alpha=FALLBACK)


def score_by_hybrid(weights: Mapping[str, Tensor], histories: Histories) -> Tensor:
    """Add BM25 and cosine, each standardised per user, with `lexical_weight` and the rest of 1."""
    share = float(weights["lexical_weight"])
    lexical_BV = standardise(_lexical(weights, histories)).mul_(share)
    cosines_BV = standardise(_cosines(weights, histories))
    summed_BV = lexical_BV.add_(cosines_BV, alpha=1 - share)
    return summed_BV.add_(weights["popular_V"], alpha=FALLBACK)


def _cosines(weights: Mapping[str, Tensor], histories: Histories) -> Tensor:
    if histories.queries is not None:
        return histories.queries.cosines()
    popular_V = weights["popular_V"]
    return popular_V.new_zeros(histories.num_users, len(popular_V))


def _lexical(weights: Mapping[str, Tensor], histories: Histories) -> Tensor:
    """Return the sums of the weights of the query's words, over the largest sum of the query."""
    popular_V = weights["popular_V"]
    scores_BV = popular_V.new_zeros(histories.num_users, len(popular_V))
    if histories.queries is None or not len(weights["key_W"]):
        return scores_BV
    key_W, start_W, item_M = weights["key_W"], weights["start_W"], weights["item_M"]
    words = [words_of(text) for text in histories.queries.texts]
    key_P = torch.as_tensor(word_keys([word for own in words for word in own]))
    user_P = torch.repeat_interleave(torch.tensor([len(own) for own in words]))
    place_P = torch.searchsorted(key_W, key_P.to(key_W.device))
    is_known_P = place_P < len(key_W)
    is_known_P &= key_W[place_P.clamp(max=len(key_W) - 1)] == key_P.to(key_W.device)
    word_P, user_P = place_P[is_known_P], user_P.to(key_W.device)[is_known_P]
    end_1 = start_W.new_tensor([len(item_M)])
    place_N, pair_N = entries_of(torch.cat([start_W, end_1]), word_P)
    cell_N = user_P[pair_N] * len(popular_V) + item_M[place_N]
    scores_BV.view(-1).index_add_(0, cell_N, weights["weight_M"][place_N])
    most_B1 = scores_BV.amax(dim=1, keepdim=True)
    return scores_BV.div_(torch.where(most_B1 > 0, most_B1, 1.0))
