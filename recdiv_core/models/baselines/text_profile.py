# pyright: strict
"""Likeness of an item's text to the texts of the history.

A user's profile is the weighted mean of the vectors of the history's items. The score of an item is
the cosine of its vector and the profile, so an item without any event can be found. Vectors are
TF-IDF weights of words, or those of a text encoder. Shapes: B users, P (user, item) pairs,
V catalogue, T distinct texts, W words, M words of all texts, H width of the encoder.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from recdiv_core.models.baselines.histories import Histories, falling_weights, join_repeats
from recdiv_core.models.baselines.popularity import FALLBACK, fit_popular

LANES: Final = 64
"""Profiles stand in a table whose width is a multiple of this, so no sum depends on the batch."""

TINY: Final = 1e-12
"""Least length that a profile is divided by; shorter profiles have no direction."""


def fit_words(texts: Sequence[str]) -> dict[str, Tensor]:
    """Return TF-IDF vectors of texts, of unit length or zero.

    The weight of a word is `(1 + log tf) * (1 + log((1 + V) / (1 + df)))`, where tf counts the word
    in the text and df the texts with the word. A word has two letters or digits at least, in lower
    case. Words of a single text are left out, because they match nothing.

    Returns:
        word_M int64 and word_weight_M float32, one distinct text after another; word_start_T int64,
        where each text begins; text_V int64, the text of each item; num_words, W.
    """
    place: dict[str, int] = {}
    text_V = np.array([place.setdefault(text, len(place)) for text in texts], np.int64)
    counts = [Counter(re.findall(r"\w\w+", text.lower())) for text in place]
    num_texts: Counter[str] = Counter()
    for own, times in zip(counts, np.bincount(text_V, minlength=len(place)).tolist(), strict=True):
        num_texts.update(dict.fromkeys(own, times))
    number = {word: at for at, word in enumerate(w for w, n in num_texts.items() if n > 1)}
    kept = [{number[w]: n for w, n in own.items() if w in number} for own in counts]
    length_T = np.array([len(own) for own in kept], np.int64)
    word_M = np.array([word for own in kept for word in own], np.int64)
    count_M = np.array([n for own in kept for n in own.values()], np.float64)
    df_W = np.array([num_texts[word] for word in number], np.float64)
    weight_M = (1 + np.log(count_M)) * (1 + np.log((1 + len(texts)) / (1 + df_W)))[word_M]
    text_M = np.repeat(np.arange(len(place)), length_T)
    norm_T = np.sqrt(np.bincount(text_M, weight_M**2, minlength=len(place)))
    return {
        "word_M": torch.as_tensor(word_M),
        "word_weight_M": torch.as_tensor((weight_M / norm_T[text_M]).astype(np.float32)),
        "word_start_T": torch.as_tensor(np.cumsum(length_T) - length_T),
        "text_V": torch.as_tensor(text_V),
        "num_words": torch.tensor(len(number)),
    }


def fit_text(
    counts_V: NDArray[np.int64],
    *,
    texts: Sequence[str] = (),
    text_VH: Tensor | None = None,
    recency: float,
) -> dict[str, Tensor]:
    """Fit a baseline that scores by the likeness of texts.

    Args:
        counts_V: train events of each item, for the fallback.
        texts: text of each item; unused with vectors.
        text_VH: unit vectors of an encoder; None = TF-IDF vectors of the texts.
        recency: weight of a history's event is age ** -recency, see `falling_weights`.

    Returns:
        the weights of `fit_words`, or text_VH; recency, popular_V.
    """
    vectors = fit_words(texts) if text_VH is None else {"text_VH": text_VH}
    return {**vectors, "recency": torch.tensor(recency), **fit_popular(counts_V)}


def score_by_text(weights: Mapping[str, Tensor], histories: Histories) -> Tensor:
    """Score by the cosine of text and profile."""
    popular_V, num_users = weights["popular_V"], histories.num_users
    weight_S = falling_weights(histories, float(weights["recency"]))
    pairs = join_repeats(histories, weight_S, len(popular_V), "sum")
    if "text_VH" in weights:
        scores_BV = vector_cosines(weights["text_VH"], *pairs, num_users)
    else:
        scores_BV = word_cosines(weights, *pairs, num_users)
    return scores_BV + FALLBACK * popular_V


def word_cosines(
    weights: Mapping[str, Tensor], user_P: Tensor, item_P: Tensor, weight_P: Tensor, num_users: int
) -> Tensor:
    """Return the cosine of each item's TF-IDF vector and each user's profile.

    Pairs are as in `add_neighbours`; for the weights see `fit_words`.

    Returns:
        [B, V] float32 in [0, 1]; 0 without a word in common.
    """
    word_M, start_T, text_V = weights["word_M"], weights["word_start_T"], weights["text_V"]
    end_T = torch.cat([start_T[1:], start_T.new_full((min(1, len(start_T)),), len(word_M))])
    text_P = text_V[item_P]
    length_P = (end_T - start_T)[text_P]
    pair_Q = torch.repeat_interleave(length_P)  # words of all pairs: the pair of each
    within_Q = torch.arange(len(pair_Q), device=pair_Q.device)
    within_Q -= (length_P.cumsum(0) - length_P)[pair_Q]
    place_Q = start_T[text_P][pair_Q] + within_Q
    width = -(-num_users // LANES) * LANES
    profile_WB = torch.zeros(int(weights["num_words"]), width, device=word_M.device)
    added_Q = weights["word_weight_M"][place_Q] * weight_P[pair_Q]
    cell_Q = word_M[place_Q] * width + user_P[pair_Q]
    profile_WB.view(-1).index_add_(0, cell_Q, added_Q)
    norm_B = profile_WB.square().sum(dim=0, dtype=torch.float64).sqrt().clamp(min=TINY)
    cosine_TB = F.embedding_bag(
        word_M, profile_WB, start_T, mode="sum", per_sample_weights=weights["word_weight_M"]
    )
    cosine_BT = (cosine_TB / norm_B.float()).T[:num_users].contiguous()
    return cosine_BT.index_select(1, text_V) if len(start_T) < len(text_V) else cosine_BT


def vector_cosines(
    text_VH: Tensor, user_P: Tensor, item_P: Tensor, weight_P: Tensor, num_users: int
) -> Tensor:
    """Return the cosine of each item's vector and each user's profile; arguments as above.

    Returns:
        [B, V] float32 in [-1, 1]. The last bits depend on the batch, as in any matrix product.
    """
    profile_BH = text_VH.new_zeros(num_users, text_VH.shape[1])
    profile_BH.index_add_(0, user_P, text_VH[item_P] * weight_P[:, None])
    return F.normalize(profile_BH, dim=1, eps=TINY) @ text_VH.T
