# pyright: strict
"""Reference baselines for comparison with trained models.

A baseline needs no gradient training. It is fitted in closed form from counts of train events
(data/cooccurrence.py). It scores a user from the set of items in the history; order and text are
ignored. A baseline is a mapping of tensors, saved and loaded like any weights. Each kind has a fit
function and a score function in literal tables. A user's scores depend only on that user, so they
are the same in any batch and on any worker. To add a kind, write both functions, add them to the
tables and add its name to config.py.
Shapes: B users, V catalogue, N neighbours of an item, S (user, item) pairs of histories.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import numpy as np
import scipy.linalg  # pyright: ignore[reportMissingTypeStubs]
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

FALLBACK: Final = 1e-6
"""Weight of the popularity scores that are added to the scores of item_knn and ease. Popular items
come first for a user without a history or neighbours. The weight is far below any other score."""

BLOCK: Final = 1024
"""Rows mirrored at once."""


@dataclass(frozen=True, eq=False)
class Baseline:
    """A fitted baseline.

    Attributes:
        kind: key in SCORES.
        weights: tensors by name; see the fit function of the kind.
    """

    kind: str
    weights: Mapping[str, Tensor]

    def scores(self, user_S: Tensor, item_S: Tensor, user_ids: Sequence[str]) -> Tensor:
        """Score the catalogue for each user.

        Args:
            user_S: batch row of the user of each history item.
            item_S: item_index of each history item; repeats count once.
            user_ids: ids of all users of the batch.

        Returns:
            [B, V] float32, higher is better.
        """
        return SCORES[self.kind](self.weights, user_S, item_S, user_ids)

    def to(self, device: torch.device) -> Baseline:
        """Return the baseline with its tensors on a device."""
        moved = {name: tensor.to(device) for name, tensor in self.weights.items()}
        return replace(self, weights=moved)


def place_scores(counts_V: NDArray[np.int64]) -> NDArray[np.float32]:
    """Score items by their rank in falling order of counts: 1 - rank / V, in (0, 1].

    Ranks start at 0. Ties go to the lower item_index, so all scores are distinct.
    """
    places_V = np.empty(len(counts_V), np.int64)
    places_V[np.argsort(-counts_V, kind="stable")] = np.arange(len(counts_V))
    return (1 - places_V / len(counts_V)).astype(np.float32)


def fit_popular(counts_V: NDArray[np.int64]) -> dict[str, Tensor]:
    """Return the weights of a baseline that scores by counts, the same for every user.

    Args:
        counts_V: counted events of each item.

    Returns:
        popular_V: [V] float32, see `place_scores`.
    """
    return {"popular_V": torch.as_tensor(place_scores(counts_V))}


def fit_random(num_items: int, seed: int) -> dict[str, Tensor]:
    """Return the weights of a baseline with random scores: the number of items and a seed."""
    return {"num_items": torch.tensor(num_items), "seed": torch.tensor(seed)}


def fit_item_knn(
    pairs_VV: Any, counts_V: NDArray[np.int64], *, num_neighbours: int, shrinkage: float
) -> dict[str, Tensor]:
    """Find the items that the same users bought, for each item.

    `sim_ij = n_ij / (sqrt(n_i n_j) + shrinkage)`, where n_ij counts the users of both items. This
    is the cosine of their binary columns, in [0, 1]. Shrinkage lowers it most where users are few.
    Sarwar et al., 2001, Item-based Collaborative Filtering Recommendation Algorithms. Each item
    keeps its N most similar items; ties go to the lower item_index. An item's score is the sum of
    the similarities to it that the items of the history keep.

    Args:
        pairs_VV: sparse counts of users per pair of items; the diagonal counts users per item.
        counts_V: train events of each item, for the fallback.
        num_neighbours: N, >= 1.
        shrinkage: >= 0.

    Returns:
        neighbours_VN int32 and similarity_VN float32 (padded with 0 and 0), popular_V.
    """
    coo = pairs_VV.tocoo()
    pairs = np.stack([coo.row, coo.col, coo.data]).astype(np.int64)
    row, col, both = pairs[:, pairs[0] != pairs[1]]
    users_V = cast("NDArray[np.float64]", pairs_VV.diagonal().astype(np.float64))
    similarity = both / (np.sqrt(users_V[row] * users_V[col]) + shrinkage)
    order = np.lexsort((col, -similarity, row))
    row, col, similarity = row[order], col[order], similarity[order]
    length_V = np.bincount(row, minlength=len(counts_V))
    place = np.arange(len(row)) - (np.cumsum(length_V) - length_V)[row]
    is_kept = place < num_neighbours
    row, col, similarity, place = row[is_kept], col[is_kept], similarity[is_kept], place[is_kept]
    shape = (len(counts_V), int(place.max(initial=0)) + 1)
    neighbours_VN, similarity_VN = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    neighbours_VN[row, place] = col
    similarity_VN[row, place] = similarity
    return {
        "neighbours_VN": torch.as_tensor(neighbours_VN),
        "similarity_VN": torch.as_tensor(similarity_VN),
        **fit_popular(counts_V),
    }


def fit_ease(pairs_VV: Any, counts_V: NDArray[np.int64], *, ridge: float) -> dict[str, Tensor]:
    """Fit the linear item-to-item model with zero diagonal that best reconstructs the histories.

    `B = I - P / diag(P)` with `P = (X'X + ridge I)^-1`, X the binary users x items matrix. Steck,
    2019, Embarrassingly Shallow Autoencoders for Sparse Data. One Cholesky factorisation costs V^3
    flops in all and 12 V^2 bytes of memory.

    Args:
        pairs_VV: sparse X'X, the counts of users per pair of items.
        counts_V: train events of each item, for the fallback.
        ridge: > 0.

    Returns:
        weight_VV [V, V] float32 and popular_V. score_j sums weight_ij over the history's items i.
    """
    # LAPACK factorises and inverts an array in Fortran order in place
    gram_VV = cast("NDArray[np.float64]", pairs_VV.astype(np.float64).toarray(order="F"))
    gram_VV[np.diag_indices_from(gram_VV)] += ridge
    linalg = cast("Any", scipy.linalg)
    factor_VV = linalg.cholesky(gram_VV, lower=False, overwrite_a=True, check_finite=False)
    inverse_VV, failed = linalg.lapack.dpotri(factor_VV, lower=False, overwrite_c=True)
    assert not failed  # any Gram matrix plus a ridge has an inverse
    weight_VV = inverse_VV.T.astype(np.float32)  # C order; only the lower triangle is filled
    _mirror(weight_VV)
    weight_VV /= -inverse_VV.diagonal().astype(np.float32)
    np.fill_diagonal(weight_VV, 0.0)
    return {"weight_VV": torch.as_tensor(weight_VV), **fit_popular(counts_V)}


def _mirror(matrix_VV: NDArray[np.float32]) -> None:
    """Copy the lower triangle into the upper one, in place."""
    for start in range(0, len(matrix_VV), BLOCK):
        stop = start + BLOCK
        corner = np.tril(matrix_VV[start:stop, start:stop])
        matrix_VV[start:stop, start:stop] = corner + np.tril(corner, -1).T
        matrix_VV[start:stop, stop:] = matrix_VV[stop:, start:stop].T


def _by_place(
    weights: Mapping[str, Tensor], user_S: Tensor, item_S: Tensor, user_ids: Sequence[str]
) -> Tensor:
    del user_S, item_S
    return weights["popular_V"].repeat(len(user_ids), 1)


def _by_chance(
    weights: Mapping[str, Tensor], user_S: Tensor, item_S: Tensor, user_ids: Sequence[str]
) -> Tensor:
    """Draw scores from [0, 1), seeded by the baseline's seed and the user's id."""
    del item_S
    num_items, seed = int(weights["num_items"]), int(weights["seed"])
    scores_BV = np.empty((len(user_ids), num_items), np.float32)
    for row, user_id in enumerate(user_ids):
        digest = hashlib.blake2b(user_id.encode(), digest_size=8).digest()
        rng = np.random.default_rng([seed, int.from_bytes(digest, "big")])
        scores_BV[row] = rng.random(num_items, np.float32)
    return torch.as_tensor(scores_BV).to(user_S.device)


def _by_neighbours(
    weights: Mapping[str, Tensor], user_S: Tensor, item_S: Tensor, user_ids: Sequence[str]
) -> Tensor:
    popular_V = weights["popular_V"]
    user_S, item_S = _distinct(user_S, item_S, len(popular_V))
    scores_BV = (FALLBACK * popular_V).repeat(len(user_ids), 1)
    places_SN = user_S[:, None] * len(popular_V) + weights["neighbours_VN"][item_S]
    similarity_SN = weights["similarity_VN"][item_S]
    scores_BV.view(-1).index_add_(0, places_SN.flatten(), similarity_SN.flatten())
    return scores_BV


def _by_item_weights(
    weights: Mapping[str, Tensor], user_S: Tensor, item_S: Tensor, user_ids: Sequence[str]
) -> Tensor:
    weight_VV, popular_V = weights["weight_VV"], weights["popular_V"]
    user_S, item_S = _distinct(user_S, item_S, len(popular_V))
    counts_B = torch.bincount(user_S, minlength=len(user_ids))
    starts_B = counts_B.cumsum(0) - counts_B
    return F.embedding_bag(item_S, weight_VV, starts_B, mode="sum") + FALLBACK * popular_V


def _distinct(user_S: Tensor, item_S: Tensor, num_items: int) -> tuple[Tensor, Tensor]:
    """Return each pair once, in order of users."""
    pairs_S = cast("Tensor", (user_S * num_items + item_S).unique())  # pyright: ignore
    return pairs_S // num_items, pairs_S % num_items


Scores = Callable[[Mapping[str, Tensor], Tensor, Tensor, Sequence[str]], Tensor]
"""weights, user_S, item_S, user_ids -> scores_BV."""

SCORES: Final[Mapping[str, Scores]] = {
    "popular": _by_place,
    "recent_popular": _by_place,
    "random": _by_chance,
    "item_knn": _by_neighbours,
    "ease": _by_item_weights,
}
