# pyright: strict
"""The loop that all greedy re-rankers share: choose an item, update the novelty, repeat.

The novelty itself comes from a Novelty, one per re-ranker. A grid of dials is one more axis of the
batch, so all dials share the lookups. Users are processed in tiles that fit into the cache, because
each step reads a tile's vectors again.

Legend: B users of a tile, W dials, C candidates, D dims, K slate length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import torch
from torch import Tensor

from recdiv_core.items.labels import FEW
from recdiv_core.rerank.candidates import Candidates, Options, check_candidates
from recdiv_core.rerank.drawn import are_free
from recdiv_core.rerank.quota import Quota
from recdiv_core.rerank.wanted import without_excluded

CPU_TILE_BYTES: Final = 6 << 20
"""Size of a tile on the CPU: about the cache of one core; larger tiles miss it more often."""
GPU_TILE_BYTES: Final = 1 << 30
"""Size of a tile on a GPU."""


@dataclass(frozen=True)
class Novelty:
    """The two terms that a greedy re-ranker weighs.

    Attributes:
        relevance_BC: the scores on the re-ranker's scale.
        first_BWC: novelty of each candidate for an empty slate; None = equal for all, and then the
            most relevant candidate comes first at any dial.
        after: function from the candidates just chosen [B, W] to the novelty of each candidate
            [B, W, C], finite; it may return the same tensor each time.
    """

    relevance_BC: Tensor
    first_BWC: Tensor | None
    after: Callable[[Tensor], Tensor]


class Gate(Protocol):
    """Decides before each choice which candidates are allowed."""

    def hold_back(self, objective_BWC: Tensor) -> None:
        """Set the objective of candidates that are not allowed to -inf."""
        ...

    def add(self, best_BW: Tensor, objective_BWC: Tensor) -> None:
        """Record the choices just made, and the objective they were chosen by."""
        ...


NoveltyOf = Callable[[Candidates, int, int, Options], Novelty]
"""candidates of a tile, k, number of dials, options -> Novelty."""

Kernel = Callable[[Candidates, int, Sequence[float], Options], Tensor]
"""Computes the result of `choose` for candidates on the CPU, without rules."""


def choose(
    novelty_of: NoveltyOf,
    candidates: Candidates,
    k: int,
    dials: Sequence[float],
    options: Options,
    *,
    kernel: Kernel | None = None,
) -> Tensor:
    """Choose slates step by step: the candidate with the largest (1 - d) relevance + d novelty.

    Ties go to the earlier candidate. Arguments and result are those of every re-ranker
    (rerank/__init__.py). `kernel` computes the result on the CPU where no rule binds the users.
    """
    check_candidates(candidates, k, dials, options)
    if kernel is not None and not options.rules and candidates.scores_BC.device.type == "cpu":
        return kernel(candidates, k, dials, options)
    is_free_B = are_free(options.rules, candidates.hash_B)
    if options.rules and is_free_B is not None and bool(is_free_B.any()):
        chosen_BWK = candidates.items_BC.new_empty((len(is_free_B), len(dials), k))
        for rows_B, rules in ((is_free_B, ()), (~is_free_B, options.rules)):
            own, settings = candidates.of_rows(rows_B), replace(options, rules=rules)
            chosen_BWK[rows_B] = choose(novelty_of, own, k, dials, settings, kernel=kernel)
        return chosen_BWK
    candidates = without_excluded(candidates, options.rules)
    num_users, num_candidates = candidates.scores_BC.shape
    steps = min(k, num_candidates)
    chosen_BWK = candidates.items_BC.new_full((num_users, len(dials), k), -1)
    if not dials:
        return chosen_BWK
    is_stuck_BW = torch.zeros_like(chosen_BWK[..., 0], dtype=torch.bool)

    def choose_tile(tile: Candidates, gate: Gate | None) -> Tensor:
        return _choose_tile(novelty_of(tile, k, len(dials), options), tile, steps, dials, gate)

    for start, stop in _stretches(candidates, k, len(dials)):
        tile = candidates.of_rows(slice(start, stop))
        quota = Quota(tile, k, len(dials), options.rules) if options.rules else None
        chosen_BWK[start:stop, :, :steps] = choose_tile(tile, quota)
        if quota is not None:
            is_stuck_BW[start:stop] = quota.is_stuck_BW
    stuck_N = is_stuck_BW.any(dim=1).nonzero()[:, 0]
    stuck = candidates.of_rows(stuck_N)
    for start, stop in _stretches(stuck, k, len(dials)):
        user_b = stuck_N[start:stop]
        tile, is_stuck_bW = stuck.of_rows(slice(start, stop)), is_stuck_BW[user_b]
        again_bWK = _choose_again(choose_tile, tile, k, len(dials), options)
        chosen_bWK = chosen_BWK[user_b]
        chosen_bWK[..., :steps][is_stuck_bW] = again_bWK[is_stuck_bW]
        chosen_BWK[user_b] = chosen_bWK
    return chosen_BWK


def _choose_tile(
    novelty: Novelty, tile: Candidates, steps: int, dials: Sequence[float], gate: Gate | None
) -> Tensor:
    """Return the first `steps` choices; -1 after a user's last real candidate."""
    weigh_W1, keep_W1 = weights(dials, novelty.relevance_BC.device)
    is_padding_B1C = ~tile.is_real_BC[:, None]
    relevance_B1C = novelty.relevance_BC[:, None]
    left_BWC = (keep_W1 * relevance_B1C).masked_fill(is_padding_B1C, -torch.inf)
    if novelty.first_BWC is None:
        objective_BWC = relevance_B1C.masked_fill(is_padding_B1C, -torch.inf)
        objective_BWC = objective_BWC.expand_as(left_BWC).contiguous()
    else:
        objective_BWC = torch.addcmul(left_BWC, weigh_W1, novelty.first_BWC)
    picks_KBW = left_BWC.new_empty((steps, *left_BWC.shape[:2]), dtype=torch.int64)
    for step in range(steps):
        if gate is not None:
            gate.hold_back(objective_BWC)
        best_BW = first_largest(objective_BWC)
        picks_KBW[step] = best_BW
        if gate is not None:
            gate.add(best_BW, objective_BWC)
        if step + 1 < steps:
            left_BWC.scatter_(2, best_BW[..., None], -torch.inf)
            torch.addcmul(left_BWC, weigh_W1, novelty.after(best_BW), out=objective_BWC)
    num_real_B11 = tile.is_real_BC.sum(dim=1)[:, None, None]
    is_end_B1K = torch.arange(steps, device=picks_KBW.device) >= num_real_B11
    return picks_KBW.permute(1, 2, 0).masked_fill(is_end_B1K, -1)


def _choose_again(
    choose_tile: Callable[[Candidates, Gate], Tensor],
    tile: Candidates,
    k: int,
    num_dials: int,
    options: Options,
) -> Tensor:
    """Choose slates for users whose rules cannot all be kept step by step.

    A lenient quota chooses the items and takes those that a rule asks for first. The re-ranker
    then puts these items in its own order, unless a rule with a window depends on the order.
    """
    quota = Quota(tile, k, num_dials, options.rules, is_strict=False)
    picks_BWK = choose_tile(tile, quota)
    if any(0 < rule.window < k for rule in options.rules):
        return picks_BWK
    return choose_tile(tile, _Only(picks_BWK, tile.scores_BC.shape[1]))


class _Only:
    """A gate that lets only the given candidates come, in any order."""

    def __init__(self, picks_BWK: Tensor, num_candidates: int) -> None:
        is_out_BWC = torch.ones(
            (*picks_BWK.shape[:2], num_candidates + 1), dtype=torch.bool, device=picks_BWK.device
        )
        is_out_BWC.scatter_(2, picks_BWK % (num_candidates + 1), False)  # -1: the last column
        self._is_out_BWC = is_out_BWC[..., :-1]

    def hold_back(self, objective_BWC: Tensor) -> None:
        """Set the objective of all other candidates to -inf."""
        objective_BWC.masked_fill_(self._is_out_BWC, -torch.inf)

    def add(self, best_BW: Tensor, objective_BWC: Tensor) -> None:
        """Take note of nothing: the candidates allowed stay the same."""


def weights(dials: Sequence[float], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return d and 1 - d of each dial, [W, 1] float32 each."""
    weigh_W = torch.tensor(dials, dtype=torch.float64, device=device)
    return weigh_W[:, None].float(), (1 - weigh_W)[:, None].float()


def first_largest(objective_BWC: Tensor) -> Tensor:
    """Return the index of the largest value of each row; ties go to the first."""
    if objective_BWC.device.type == "cpu":  # numpy's is vectorised: three times as fast
        return torch.from_numpy(objective_BWC.detach().numpy().argmax(axis=2))  # pyright: ignore[reportUnknownMemberType]
    return objective_BWC.argmax(dim=2)


def _stretches(candidates: Candidates, k: int, num_dials: int) -> Iterator[tuple[int, int]]:
    """Yield tiles of users whose vectors, and k + 4 rows for each dial, fit the tile size.

    Where candidates have many labels, the tile size also covers the labels.
    """
    num_users, num_candidates = candidates.scores_BC.shape
    dim, categories = candidates.traits.embeddings_VD.shape[1], candidates.traits.categories
    budget = CPU_TILE_BYTES if candidates.scores_BC.device.type == "cpu" else GPU_TILE_BYTES
    user_bytes = 4 * num_candidates * (dim + (k + 4) * num_dials)
    start = 0
    while start < num_users:
        size = max(1, budget // user_bytes)
        width = categories.width(candidates.items_BC[start : start + size])
        if width > FEW:
            size = max(1, budget // (user_bytes + 16 * num_candidates * width * (1 + num_dials)))
        yield start, start + size
        start += size


def likeness_rows(
    candidates: Candidates, k: int, num_dials: int, *, offset: float
) -> Callable[[Tensor], Tensor]:
    """Return a function that looks up `offset - cosine` of chosen candidates with all others.

    The whole [C, C] matrix of a user is one matrix product, several times faster per number than
    single rows. It is computed where enough rows are needed, as for a grid of dials.

    Returns:
        function from chosen candidates [B, W] to [B, W, C]; a later call may reuse the tensor.
    """
    embeddings_BCD = candidates.embeddings_BCD()
    num_users, num_candidates, _ = embeddings_BCD.shape
    across_BDC = embeddings_BCD.transpose(1, 2)
    offset_111 = embeddings_BCD.new_full((1, 1, 1), offset)
    if 2 * k * num_dials >= num_candidates:
        matrix_BCC = torch.baddbmm(offset_111, embeddings_BCD, across_BDC, alpha=-1)
        return row_finder(matrix_BCC)
    row_of = row_finder(embeddings_BCD)
    rows_BWC = embeddings_BCD.new_empty((num_users, num_dials, num_candidates))
    # a row vector from the left: twice as fast on the CPU as a column from the right
    return lambda best_BW: torch.baddbmm(
        offset_111, row_of(best_BW), across_BDC, alpha=-1, out=rows_BWC
    )


def row_finder(table_BCX: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a function that looks up the rows of chosen candidates: [B, W] to [B, W, X]."""
    num_users, num_candidates, width = table_BCX.shape
    flat = table_BCX.flatten(0, 1)
    first_B1 = num_candidates * torch.arange(num_users, device=table_BCX.device)[:, None]

    def rows_of(best_BW: Tensor) -> Tensor:
        return flat.index_select(0, (first_B1 + best_BW).view(-1)).view(*best_BW.shape, width)

    return rows_of
