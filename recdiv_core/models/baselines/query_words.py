# pyright: strict
"""The learned match of query and item: the cosine, where clicks have moved the words of queries.

    score = scale * ((q + sum of the moves of the query's words) . item) + popularity

A query is the vector q of the text encoder. The words of queries that train events have also get
vectors, which start at 0, so the score starts at the cosine. They are learned from the items that
were clicked after queries (slates/query_words.py), so `kicks` comes to mean trainers. Each word
moves the query by itself, so a query that nobody asked before profits from its words. An item is
its text vector and a sketch of its words: brands and colours are sharp in words and blurred in text
vectors. Histories are not read. Shapes: B users, P (user, word) pairs, V catalogue, W words, H text
width, L width of the sketch, D = H + L.
"""

from __future__ import annotations

import hashlib
from collections import Counter
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


def sketch_words(texts: Sequence[str]) -> Tensor:
    """Return the words of each text as a vector of fixed width, [V, L] float16.

    The unit vector of the words' weights `log(1 + V / df)`, multiplied by a random matrix of signs
    over sqrt(L), which nearly keeps inner products. A hash of the word gives its signs. Achlioptas,
    2003, Database-friendly Random Projections. Texts without words give 0.
    """
    counts = [Counter(dict.fromkeys(words_of(text), 1)) for text in texts]
    df = Counter(word for own in counts for word in own)
    vocabulary = {word: place for place, word in enumerate(sorted(df))}
    sign_WL = np.stack([np.zeros(SKETCH, np.float32), *map(_signs, vocabulary)])[1:]
    idf_W = np.log1p(len(texts) / np.array([df[word] for word in vocabulary] or [1.0]))
    rows = [[vocabulary[word] for word in own] for own in counts]
    sketch_VL = np.zeros((len(texts), SKETCH), np.float32)
    for row, own in enumerate(rows):
        if own:
            sketch_VL[row] = idf_W[own] @ sign_WL[own] / np.linalg.norm(idf_W[own])
    return torch.as_tensor(sketch_VL / SKETCH**0.5).half()


def _signs(word: str) -> NDArray[np.float32]:
    """Return the signs of a word, [L], -1 or 1."""
    digest = hashlib.blake2b(word.encode(errors="replace"), digest_size=SKETCH // 8).digest()
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
    match_BV += sketch_BL @ weights["words_VL"].float().T
    return scores_BV.add_(match_BV * float(weights["scale"]))
