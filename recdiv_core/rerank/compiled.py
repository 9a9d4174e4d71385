"""The greedy loop compiled: mmr, msd, dpp and ssd for candidates on the CPU, without rules.

The methods are defined in greedy.py and the re-rankers; tests compare this loop with them. One
user's data fits into the first cache of a core, where a step costs some hundred cycles; as tensor
operations the calls and memory traffic cost several times as much. The dials of a user share the
vectors, the cosines computed so far, and all state while their choices are equal. numba compiles at
the first call and caches the result where it may write.

Legend: B users, W dials, C candidates, N real candidates of a user, D dims, K slate length, S
choices made, M choices in the span.
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
# a Python number would promote float32 arrays to float64
ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)
FARTHEST = np.float32(2)


def _choose(
    kind: int,
    relevance_of: Callable[[Candidates], Tensor],
    bias: float,
    candidates: Candidates,
    k: int,
    dials: Sequence[float],
    options: Options,
) -> Tensor:
    items_BC = candidates.items_BC.contiguous()
    vectors_VD = candidates.traits.embeddings_VD.detach().float().contiguous()
    if items_BC.numel() and not 0 <= items_BC.min() <= items_BC.max() < len(vectors_VD):
        raise IndexError(f"candidates: an item_index is none of 0..{len(vectors_VD) - 1}")
    weigh_W1, keep_W1 = weights(dials, vectors_VD.device)
    chosen_BWK = items_BC.new_full((len(items_BC), len(dials), k), -1)
    _choose_users(
        kind,
        vectors_VD.numpy(),
        items_BC.numpy(),
        candidates.is_real_BC.contiguous().numpy(),
        relevance_of(candidates).detach().contiguous().numpy(),
        weigh_W1[:, 0].numpy(),
        keep_W1[:, 0].numpy(),
        span_size(k, options.window),
        # as arguments, because the compiled file on disk does not notice a changed constant
        np.float32(bias),
        np.float32(SMALLEST),
        chosen_BWK.numpy(),
    )
    return chosen_BWK


KERNELS: Final[Mapping[str, Kernel]] = {
    "mmr": partial(_choose, MMR, zero_to_one, 0.0),
    "msd": partial(_choose, MSD, zero_to_one, 0.0),
    "dpp": partial(_choose, DPP, standardised, 0.0),
    "ssd": partial(_choose, SSD, standardised, BIAS),
}


def _compiled(*fastmath: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function when it is first called; products and sums may be fused."""
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", *fastmath}}

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # no writable cache directory
            return njit(**options)(function)

    return compiled


# rows are passed by index: a view of an array would count references at each step


@_compiled("reassoc", "nsz")
def _cosines(vectors_ND: Array, chosen: int, cosine_MN: Array, row: int) -> None:
    # the same order of summation for all candidates: equal vectors have equal cosines
    for n in range(len(vectors_ND)):
        cosine = ZERO
        for d in range(vectors_ND.shape[1]):
            cosine += vectors_ND[chosen, d] * vectors_ND[n, d]
        cosine_MN[row, n] = cosine


@_compiled()
def _first_largest(kept_N: Array, weight: np.float32, state_SN: Array, step: int) -> np.int64:
    """Return the index of the largest kept + weight * state; ties go to the first."""
    best = np.int64(np.iinfo(np.int64).min)
    for n in range(len(kept_N)):
        objective = kept_N[n] + weight * state_SN[step, n] + ZERO  # makes 0 of -0
        # as an integer that orders as the number does, with the place behind it: such a largest is
        # found in one pass of vector instructions
        bits = np.float32(objective).view(np.int32)
        rank = bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))
        best = max(best, (np.int64(rank) << np.int64(32)) - np.int64(n))
    return -np.int64(np.int32(best))


@_compiled()
def _take_logs(state_SN: Array, step: int, least: np.float32, out: int) -> None:
    """Take logarithms, cut off at the least: to the last bit or the one before it.

    The polynomial of logf in S. Moshier's Cephes, written out: the compiler makes no vector
    instructions of a call for each number.
    """
    for n in range(state_SN.shape[1]):
        # 2^exponent times 1 + x, which is in [0.5^0.5, 2^0.5)
        bits = np.float32(max(state_SN[step, n], least)).view(np.int32)
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
        state_SN[out, n] = (x + y) + np.float32(0.693359375) * exponent


@_compiled()
def _take_roots(state_SN: Array, step: int, out: int) -> None:
    for n in range(state_SN.shape[1]):
        state_SN[out, n] = np.sqrt(max(state_SN[step, n], ZERO))


@_compiled()
def _take_nearest(state_SN: Array, step: int, cosine_MN: Array, row: int) -> None:
    for n in range(state_SN.shape[1]):
        state_SN[step + 1, n] = min(state_SN[step, n], ONE - cosine_MN[row, n])


@_compiled()
def _add_distances(
    state_SN: Array, step: int, cosine_MN: Array, row: int, share: np.float32
) -> None:
    for n in range(state_SN.shape[1]):
        state_SN[step + 1, n] = state_SN[step, n] + share * (ONE - cosine_MN[row, n])


@_compiled()
def _add_to_span(
    state_SN: Array,
    step: int,
    best: int,
    cosine_MN: Array,
    row: int,
    bias: np.float32,
    least: np.float32,
    factor_MN: Array,
    end: int,
) -> None:
    """Do what Span.add does: its new row goes behind the others, which are `end` in number."""
    num_candidates = state_SN.shape[1]
    for n in range(num_candidates):
        factor_MN[end, n] = cosine_MN[row, n] + bias
    # four at a time: the new row is read and written a quarter as often
    for four in range(end // 4):
        m = 4 * four
        a, b = factor_MN[m, best], factor_MN[m + 1, best]
        c, d = factor_MN[m + 2, best], factor_MN[m + 3, best]
        for n in range(num_candidates):
            factor_MN[end, n] -= (a * factor_MN[m, n] + b * factor_MN[m + 1, n]) + (
                c * factor_MN[m + 2, n] + d * factor_MN[m + 3, n]
            )
    for m in range(end - end % 4, end):
        own = factor_MN[m, best]
        for n in range(num_candidates):
            factor_MN[end, n] -= own * factor_MN[m, n]
    left = state_SN[step, best]
    factor_MN[end, best] = left
    inverse = ONE / np.sqrt(left) if left >= least else ZERO
    for n in range(num_candidates):
        new = factor_MN[end, n] * inverse
        factor_MN[end, n] = new
        state_SN[step + 1, n] = state_SN[step, n] - new * new


@_compiled()
def _rotate_out(state_SN: Array, step: int, chosen_K: Array, factor_MN: Array) -> None:
    """Do what Span does to forget the oldest row exactly."""
    size, num_candidates = len(factor_MN) - 1, state_SN.shape[1]
    for n in range(num_candidates):
        factor_MN[size, n] = factor_MN[0, n]
    for m in range(1, size):
        chosen = chosen_K[step - size + m]
        kept, moved = factor_MN[m, chosen], factor_MN[size, chosen]
        radius = np.sqrt(kept * kept + moved * moved)
        cosine, sine = (kept / radius, moved / radius) if radius > ZERO else (ONE, ZERO)
        for n in range(num_candidates):
            own, oldest = factor_MN[m, n], factor_MN[size, n]
            factor_MN[m - 1, n] = cosine * own + sine * oldest
            factor_MN[size, n] = cosine * oldest - sine * own
    for n in range(num_candidates):
        state_SN[step, n] += factor_MN[size, n] * factor_MN[size, n]


@_compiled()
def _drop(state_SN: Array, step: int, factor_MN: Array) -> None:
    """Forget the oldest row as ssd does, and no more than it."""
    size, num_candidates = len(factor_MN) - 1, state_SN.shape[1]
    for n in range(num_candidates):
        state_SN[step, n] += factor_MN[0, n] * factor_MN[0, n]
    for m in range(size):
        for n in range(num_candidates):
            factor_MN[m, n] = factor_MN[m + 1, n]


@_compiled()
def _choose_for_one(  # noqa: C901 (a call that hands arrays on costs a tenth of a step)
    kind: int,
    vectors_ND: Array,
    relevance_N: Array,
    weigh_W: Array,
    keep_W: Array,
    size: int,
    bias: np.float32,
    least: np.float32,
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
        bias: added to cosines; of ssd.
        least: what is left to a candidate that counts as in the span.
        chosen_WK: to be filled.
    """
    (num_dials, k), num_candidates = chosen_WK.shape, len(relevance_N)
    steps = min(k, num_candidates)
    share = np.float32(2 / max(1, k - 1))
    num_rows, most_rows = 0, min(num_dials * steps, num_candidates)
    cosine_MN = np.empty((most_rows, num_candidates), np.float32)
    factor_MN = np.empty((size + 1, num_candidates), np.float32)
    # before each step: of mmr and msd the novelty; of dpp and ssd what is left outside the span,
    # and the novelty in the last row
    state_SN = np.empty((steps + 1, num_candidates), np.float32)
    kept_N = np.empty(num_candidates, np.float32)
    row_of_N = np.empty(num_candidates, np.int64)
    start = (FARTHEST, ZERO, ONE, ONE + bias)[kind]
    for n in range(num_candidates):
        row_of_N[n], state_SN[0, n] = -1, start
    first = _first_largest(relevance_N, ZERO, state_SN, 0)
    # the choices that the states and the factor follow from
    learnt_K, num_learnt = np.empty(steps, np.int64), 0
    for dial in range(num_dials):
        weight, keep, best = weigh_W[dial], keep_W[dial], first
        chosen_WK[dial, 0] = best
        for n in range(num_candidates):
            kept_N[n] = keep * relevance_N[n]
        if size < steps - 1:  # the window took the first ones out of the factor
            num_learnt = 0
        for step in range(steps - 1):
            kept_N[best] = -np.inf
            if weight > ZERO and (step >= num_learnt or learnt_K[step] != best):
                learnt_K[step], num_learnt = best, step + 1
                row = row_of_N[best]
                if row < 0:
                    row = row_of_N[best] = num_rows
                    _cosines(vectors_ND, best, cosine_MN, row)
                    num_rows += 1
                if kind == MMR:
                    _take_nearest(state_SN, step, cosine_MN, row)
                elif kind == MSD:
                    _add_distances(state_SN, step, cosine_MN, row, share)
                else:
                    if kind == DPP and step >= size:
                        _rotate_out(state_SN, step, learnt_K, factor_MN)
                    end = min(step, size - 1 if kind == DPP else size)
                    _add_to_span(state_SN, step, best, cosine_MN, row, bias, least, factor_MN, end)
                    if kind == SSD and step >= size:
                        _drop(state_SN, step + 1, factor_MN)
            novelty = step + 1 if weight > ZERO else 0  # at dial 0 any will do
            if kind == DPP and novelty:
                _take_logs(state_SN, novelty, least, steps)
                novelty = steps
            elif kind == SSD and novelty:
                _take_roots(state_SN, novelty, steps)
                novelty = steps
            best = _first_largest(kept_N, weight, state_SN, novelty)
            chosen_WK[dial, step + 1] = best


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
    bias: np.float32,
    least: np.float32,
    chosen_BWK: Array,
) -> None:
    """Choose the slates of all users; chosen_BWK is to be filled, and -1 as it comes."""
    (num_users, num_candidates), (_, num_dials, k) = items_BC.shape, chosen_BWK.shape
    dim = vectors_VD.shape[1]
    place_C = np.empty(num_candidates, np.int64)
    vectors_CD = np.empty((num_candidates, dim), np.float32)
    relevance_C = np.empty(num_candidates, np.float32)
    for user in range(num_users):
        num_real = 0
        for place in range(num_candidates):
            if is_real_BC[user, place]:
                item = items_BC[user, place]
                for d in range(dim):
                    vectors_CD[num_real, d] = vectors_VD[item, d]
                relevance_C[num_real] = relevance_BC[user, place]
                place_C[num_real] = place
                num_real += 1
        if num_real:
            _choose_for_one(
                kind,
                vectors_CD[:num_real],
                relevance_C[:num_real],
                weigh_W,
                keep_W,
                size,
                bias,
                least,
                chosen_BWK[user],
            )
        for dial in range(num_dials):
            for step in range(min(k, num_real)):
                chosen_BWK[user, dial, step] = place_C[chosen_BWK[user, dial, step]]
