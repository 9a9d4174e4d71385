"""The greedy loop compiled: mmr, msd, dpp and ssd for candidates on the CPU that no rule binds.

Not other methods: greedy.py and the re-rankers say what is chosen, and tests hold this to it. The
one idea: a user by himself fits into a core's first cache, where a step costs some hundred cycles;
as operations on tensors its calls and its traffic cost several times as much. The dials of a user
share his vectors, the cosines that any of them asked for, and all that they learn as long as they
choose alike. numba compiles at the first call, and keeps the result where it may write.

Legend: B users, W dials, C candidates, N real candidates of a user, D dims, K slate length, S
choices made, M choices that span.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
from numba import njit
from torch import Tensor

from recdiv_core.rerank.candidates import Candidates, Options
from recdiv_core.rerank.greedy import Kernel, weights
from recdiv_core.rerank.relevance import standardised, zero_to_one
from recdiv_core.rerank.span import SMALLEST, span_size
from recdiv_core.rerank.ssd import BIAS

Array = np.ndarray[Any, Any]

MMR, MSD, DPP, SSD = range(4)
# a plain number would make float64 of all that it meets
ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)
FARTHEST, LEAST, SHARED = np.float32(2), np.float32(SMALLEST), np.float32(BIAS)


def _choose(
    kind: int,
    relevance_of: Callable[[Candidates], Tensor],
    candidates: Candidates,
    k: int,
    dials: Sequence[float],
    options: Options,
) -> Tensor:
    vectors_VD = candidates.traits.embeddings_VD.detach().float().contiguous()
    weigh_W1, keep_W1 = weights(dials, vectors_VD.device)
    chosen_BWK = candidates.items_BC.new_full((len(candidates.items_BC), len(dials), k), -1)
    _choose_users(
        kind,
        vectors_VD.numpy(),
        candidates.items_BC.contiguous().numpy(),
        candidates.is_real_BC.numpy(),
        relevance_of(candidates).detach().contiguous().numpy(),
        weigh_W1[:, 0].numpy(),
        keep_W1[:, 0].numpy(),
        span_size(k, options.window),
        chosen_BWK.numpy(),
    )
    return chosen_BWK


KERNELS: Final[Mapping[str, Kernel]] = {
    "mmr": partial(_choose, MMR, zero_to_one),
    "msd": partial(_choose, MSD, zero_to_one),
    "dpp": partial(_choose, DPP, standardised),
    "ssd": partial(_choose, SSD, standardised),
}


def _compiled(*fastmath: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function when it is first called; products and sums may be fused."""
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", *fastmath}}

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # there is no place to keep it
            return njit(**options)(function)

    return compiled


@_compiled("reassoc", "nsz")
def _cosines(vectors_ND: Array, chosen: int, cosine_N: Array) -> None:
    # one sum for all candidates alike, so that equal vectors have equal cosines
    for n in range(len(vectors_ND)):
        cosine = ZERO
        for d in range(vectors_ND.shape[1]):
            cosine += vectors_ND[chosen, d] * vectors_ND[n, d]
        cosine_N[n] = cosine


@_compiled()
def _first_largest(kept_N: Array, weight: np.float32, novelty_N: Array) -> int:
    """Return where kept + weight novelty is largest; of equal ones the first."""
    best = np.int64(np.iinfo(np.int64).min)
    for n in range(len(kept_N)):
        objective = kept_N[n] + weight * novelty_N[n] + ZERO  # makes 0 of -0
        # as an integer that orders as the number does, with the place behind it: such a largest is
        # found in one pass of vector instructions
        bits = np.float32(objective).view(np.int32)
        rank = bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))
        best = max(best, (np.int64(rank) << np.int64(32)) - np.int64(n))
    return -np.int64(np.int32(best))


@_compiled()
def _take_nearest(before_N: Array, cosine_N: Array, after_N: Array) -> None:
    for n in range(len(after_N)):
        after_N[n] = min(before_N[n], ONE - cosine_N[n])


@_compiled()
def _add_distances(before_N: Array, cosine_N: Array, share: np.float32, after_N: Array) -> None:
    for n in range(len(after_N)):
        after_N[n] = before_N[n] + share * (ONE - cosine_N[n])


@_compiled()
def _add_to_span(
    before_N: Array,
    cosine_N: Array,
    best: int,
    bias: np.float32,
    factor_MN: Array,
    row_N: Array,
    after_N: Array,
) -> None:
    """Do what Span.add does; its new row goes into row_N, which is none of factor_MN."""
    num_rows, num_candidates = factor_MN.shape
    for n in range(num_candidates):
        row_N[n] = cosine_N[n] + bias
    # four at a time: the new row is read and written a quarter as often
    num_fours = num_rows // 4
    for four in range(num_fours):
        m = 4 * four
        a, b = factor_MN[m, best], factor_MN[m + 1, best]
        c, d = factor_MN[m + 2, best], factor_MN[m + 3, best]
        for n in range(num_candidates):
            row_N[n] -= (a * factor_MN[m, n] + b * factor_MN[m + 1, n]) + (
                c * factor_MN[m + 2, n] + d * factor_MN[m + 3, n]
            )
    for m in range(4 * num_fours, num_rows):
        own = factor_MN[m, best]
        for n in range(num_candidates):
            row_N[n] -= own * factor_MN[m, n]
    left = before_N[best]
    row_N[best] = left
    inverse = ONE / np.sqrt(left) if left >= LEAST else ZERO
    for n in range(num_candidates):
        row = row_N[n] * inverse
        row_N[n] = row
        after_N[n] = before_N[n] - row * row


@_compiled()
def _rotate_out(factor_MN: Array, chosen_M: Array, left_N: Array) -> None:
    """Do what Span does to forget the oldest row exactly; the last row is then free."""
    num_rows, num_candidates = factor_MN.shape
    oldest_N = factor_MN[0].copy()
    for m in range(1, num_rows):
        kept, moved = factor_MN[m, chosen_M[m]], oldest_N[chosen_M[m]]
        radius = np.sqrt(kept * kept + moved * moved)
        cosine, sine = (kept / radius, moved / radius) if radius > ZERO else (ONE, ZERO)
        for n in range(num_candidates):
            row, oldest = factor_MN[m, n], oldest_N[n]
            factor_MN[m - 1, n] = cosine * row + sine * oldest
            oldest_N[n] = cosine * oldest - sine * row
    for n in range(num_candidates):
        left_N[n] += oldest_N[n] * oldest_N[n]


@_compiled()
def _drop(factor_MN: Array, left_N: Array) -> None:
    """Forget the oldest row as ssd does; the last row is then free."""
    for n in range(len(left_N)):
        left_N[n] += factor_MN[0, n] * factor_MN[0, n]
    for m in range(1, len(factor_MN)):
        factor_MN[m - 1] = factor_MN[m]


@_compiled()
def _log_volume(left_N: Array, novelty_N: Array) -> None:
    """Take logarithms, cut off at SMALLEST: to the last bit or the one before it.

    The polynomial of logf in S. Moshier's Cephes, written out: a call for each number is what the
    compiler cannot make vector instructions of.
    """
    for n in range(len(left_N)):
        # 2^exponent times 1 + x, which is in [0.5^0.5, 2^0.5)
        bits = np.float32(max(left_N[n], LEAST)).view(np.int32)
        power = (bits - np.int32(0x3F3504F3)) >> np.int32(23)
        x = np.int32(bits - (power << np.int32(23))).view(np.float32) - ONE
        exponent = np.float32(power)
        y = np.float32(7.0376836292e-2)
        y = y * x - np.float32(1.1514610310e-1)
        y = y * x + np.float32(1.1676998740e-1)
        y = y * x - np.float32(1.2420140846e-1)
        y = y * x + np.float32(1.4249322787e-1)
        y = y * x - np.float32(1.6668057665e-1)
        y = y * x + np.float32(2.0000714765e-1)
        y = y * x - np.float32(2.4999993993e-1)
        y = y * x + np.float32(3.3333331174e-1)
        y = y * x * x * x - np.float32(2.12194440e-4) * exponent - HALF * x * x
        novelty_N[n] = (x + y) + np.float32(0.693359375) * exponent


@_compiled()
def _roots(left_N: Array, novelty_N: Array) -> None:
    for n in range(len(left_N)):
        novelty_N[n] = np.sqrt(max(left_N[n], ZERO))


@_compiled()
def _learn(
    kind: int,
    step: int,
    chosen_K: Array,
    cosine_N: Array,
    share: np.float32,
    factor_MN: Array,
    left_SN: Array,
    novelty_SN: Array,
) -> None:
    """Work out how new all candidates are after the choice of a step, from how new they were.

    Args:
        kind: of re-ranker.
        step: counted from 0.
        chosen_K: of this step and those before.
        cosine_N: of the choice.
        share: of msd.
        factor_MN: of the span: as many rows as choices span, and one.
        left_SN: squared distances to the span before each step; of dpp and ssd.
        novelty_SN: before each step.
    """
    before_N, after_N = left_SN[step], left_SN[step + 1]
    best, size = chosen_K[step], len(factor_MN) - 1
    if kind == MMR:
        _take_nearest(novelty_SN[step], cosine_N, novelty_SN[step + 1])
    elif kind == MSD:
        _add_distances(novelty_SN[step], cosine_N, share, novelty_SN[step + 1])
    elif kind == DPP:
        if step >= size:
            _rotate_out(factor_MN[:size], chosen_K[step - size : step], before_N)
        row = min(step, size - 1)
        _add_to_span(before_N, cosine_N, best, ZERO, factor_MN[:row], factor_MN[row], after_N)
        _log_volume(after_N, novelty_SN[step + 1])
    else:
        row = min(step, size)
        _add_to_span(before_N, cosine_N, best, SHARED, factor_MN[:row], factor_MN[row], after_N)
        if row == size:
            _drop(factor_MN, after_N)
        _roots(after_N, novelty_SN[step + 1])


@_compiled()
def _choose_for_one(
    kind: int,
    vectors_ND: Array,
    relevance_N: Array,
    weigh_W: Array,
    keep_W: Array,
    size: int,
    chosen_WK: Array,
) -> None:
    """Choose the slates of a user, of his real candidates, into the start of each row.

    Args:
        kind: of re-ranker.
        vectors_ND: float32.
        relevance_N: float32, on the re-ranker's scale.
        weigh_W: the dials.
        keep_W: 1 - the dials.
        size: choices that span, at most; of dpp and ssd.
        chosen_WK: to be filled.
    """
    (num_dials, k), num_candidates = chosen_WK.shape, len(relevance_N)
    steps = min(k, num_candidates)
    share = np.float32(2 / max(1, k - 1))
    row_of_N = np.full(num_candidates, -1)
    num_rows, most_rows = 0, min(num_dials * steps, num_candidates)
    cosine_MN = np.empty((most_rows, num_candidates), np.float32)
    factor_MN = np.empty((size + 1, num_candidates), np.float32)
    left_SN = np.empty((steps, num_candidates), np.float32)
    left_SN[0] = ONE + SHARED if kind == SSD else ONE
    novelty_SN = np.empty((steps, num_candidates), np.float32)
    novelty_SN[0] = FARTHEST if kind == MMR else ZERO
    first = _first_largest(relevance_N, ZERO, relevance_N)
    # the choices that the factor and the novelties are of; a window forgets the first ones
    learnt_K, num_learnt = np.empty(steps, np.int64), 0
    for dial in range(num_dials):
        kept_N = keep_W[dial] * relevance_N
        best = first
        if size < steps - 1:
            num_learnt = 0
        for step in range(steps):
            chosen_WK[dial, step] = best
            kept_N[best] = -np.inf
            if step + 1 == steps:
                break
            if weigh_W[dial] == ZERO:
                best = _first_largest(kept_N, ZERO, relevance_N)
                continue
            if step >= num_learnt or learnt_K[step] != best:
                if row_of_N[best] < 0:
                    row_of_N[best] = num_rows
                    _cosines(vectors_ND, best, cosine_MN[num_rows])
                    num_rows += 1
                learnt_K[step], num_learnt = best, step + 1
                cosine_N = cosine_MN[row_of_N[best]]
                _learn(kind, step, learnt_K, cosine_N, share, factor_MN, left_SN, novelty_SN)
            best = _first_largest(kept_N, weigh_W[dial], novelty_SN[step + 1])


@_compiled()
def _choose_users(
    kind: int,
    vectors_VD: Array,
    items_BC: Array,
    is_real_BC: Array,
    relevance_BC: Array,
    weigh_W: Array,
    keep_W: Array,
    size: int,
    chosen_BWK: Array,
) -> None:
    """Choose the slates of all users; chosen_BWK is to be filled, and -1 as it comes."""
    for user in range(len(items_BC)):
        place_N = np.flatnonzero(is_real_BC[user])
        if not len(place_N):
            continue
        vectors_ND = vectors_VD[items_BC[user][place_N]]
        relevance_N = relevance_BC[user][place_N]
        chosen_WK = chosen_BWK[user]
        _choose_for_one(kind, vectors_ND, relevance_N, weigh_W, keep_W, size, chosen_WK)
        steps = min(chosen_WK.shape[1], len(place_N))
        for dial in range(len(chosen_WK)):
            for step in range(steps):
                chosen_WK[dial, step] = place_N[chosen_WK[dial, step]]
