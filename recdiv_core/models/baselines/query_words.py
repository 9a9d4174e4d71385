# pyright: strict
"""The learned match of query and item: the cosine, where clicks have moved the words of queries.

    score = scale * ((q + sum of the moves of the query's words) . item) + popularity
            + evidence of the query's words for the item's category

A query is the vector q of the text encoder. The words of queries that train events have also get
vectors, which start at 0, so the score starts at the cosine. They are learned from the items that
were clicked after queries (slates/query_words.py), so `kicks` comes to mean trainers. Each word
moves the query by itself, so a query that nobody asked before profits from its words. An item is
its text vector and a sketch of its values: category, brand and colour are sharp in values and
blurred in text vectors.

A rare word moves little. But if its few clicks are all in one category, the word most likely means
this category. The evidence counts them. Histories are not read. Shapes: B users, P (user, word)
pairs, V catalogue, W words, N (word, category) pairs with clicks, M pairs of such a batch,
C categories, H text width, L width of the sketch, D = H + L.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from recdiv_core.models.baselines.histories import Histories
from recdiv_core.models.query_text import word_keys, words_of

SKETCH: Final = 128
"""Width L of the sketch: 256 bytes of each item in a checkpoint."""


def sketch_values(values: Sequence[Sequence[str]]) -> Tensor:
    """Return the values of each item as a vector of fixed width, [V, L] float16.

    Each value has a vector of random signs over sqrt(L), made from a hash of the value. An item has
    the sum over its distinct values, so inner products nearly count the values in common.
    Achlioptas, 2003, Database-friendly Random Projections. Items without values have 0.
    """
    known: dict[str, NDArray[np.float32]] = {}
    sketch_VL = np.zeros((len(values), SKETCH), np.float32)
    for row, own in enumerate(values):
        for value in dict.fromkeys(own):
            if value not in known:
                known[value] = _signs(value)
            sketch_VL[row] += known[value]
    return torch.as_tensor(sketch_VL / SKETCH**0.5).half()


def _signs(value: str) -> NDArray[np.float32]:
    """Return the signs of a value, [L], -1 or 1."""
    digest = hashlib.blake2b(value.encode(errors="replace"), digest_size=SKETCH // 8).digest()
    return np.unpackbits(np.frombuffer(digest, np.uint8)).astype(np.float32) * 2 - 1


def query_words(key_W: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return user_P and word_P of the known words of each query; a repeated word counts once.

    Args:
        key_W: int64, rising, see `word_keys`.
        texts: query of each user.
    """
    words = [list(dict.fromkeys(words_of(text))) for text in texts]
    key_P = torch.as_tensor(word_keys([word for own in words for word in own])).to(key_W.device)
    length_B = torch.tensor([len(own) for own in words], dtype=torch.int64)
    user_P = torch.repeat_interleave(length_B).to(key_W.device)
    place_P = torch.searchsorted(key_W, key_P)
    is_known_P = place_P < len(key_W)
    if len(key_W):
        is_known_P &= key_W[place_P.clamp(max=len(key_W) - 1)] == key_P
    return user_P[is_known_P], place_P[is_known_P]


def score_by_query_words(weights: Mapping[str, Tensor], histories: Histories) -> Tensor:
    """Score by the learned match with the query; without a query by popularity."""
    popular_V, queries = weights["popular_V"], histories.queries
    scores_BV = popular_V.expand(histories.num_users, -1).clone()
    if queries is None:
        return scores_BV
    move_WD = weights["move_WD"]
    user_P, word_P = query_words(weights["key_W"], queries.texts)
    moved_BD = F.pad(queries.vectors_BH.float(), (0, SKETCH))
    moved_BD = moved_BD.index_add(0, user_P, move_WD[word_P])
    width = queries.vectors_BH.shape[1]
    moved_BH, sketch_BL = moved_BD[:, :width], moved_BD[:, width:]
    match_BV = moved_BH @ queries.text_VH.float().T
    match_BV += sketch_BL @ weights["values_VL"].float().T
    scores_BV.add_(match_BV * float(weights["scale"]))
    category_V, place_M, pair_M = weights["category_V"], *entries_of(weights["start_W"], word_P)
    num_categories = int(category_V.max()) + 1
    evidence_BC = scores_BV.new_zeros(histories.num_users, num_categories + 1)
    cell_M = user_P[pair_M] * (num_categories + 1) + weights["category_N"][place_M]
    evidence_BC.view(-1).index_add_(0, cell_M, weights["evidence_N"][place_M])
    return scores_BV.add_(evidence_BC[:, category_V])  # -1, no category, has the last column


def entries_of(start_W: Tensor, word_P: Tensor) -> tuple[Tensor, Tensor]:
    """Return the places of all entries of each word, and the pair that each entry belongs to.

    Args:
        start_W: int64 [W + 1], where the entries of each word begin; the last is their number.
        word_P: word of each pair.

    Returns:
        place_M and pair_M, pair by pair.
    """
    length_P = start_W[word_P + 1] - start_W[word_P]
    pair_M = torch.repeat_interleave(length_P)
    before_P = length_P.cumsum(0) - length_P
    within_M = torch.arange(len(pair_M), device=pair_M.device) - before_P[pair_M]
    return start_W[word_P][pair_M] + within_M, pair_M
