# pyright: strict
"""Determinantal point process: the slate that spans the largest volume, chosen greedily.

Not an optimum over slates, and no sampling. A candidate adds to the volume by its distance to the
span of the chosen items, so several similar items are worth no more than one.

Legend: B users, W dials, C candidates, D dims, R = B W.
"""

from __future__ import annotations

from torch import Tensor

from recdiv_core.rerank.candidates import Candidates, Options
from recdiv_core.rerank.greedy import Novelty, likeness_rows
from recdiv_core.rerank.relevance import standardised
from recdiv_core.rerank.span import SMALLEST, Span, span_size


def dpp(candidates: Candidates, k: int, num_dials: int, options: Options) -> Novelty:
    """Novelty = log det S_{S+i} - log det S_S, at most 0; S_ij = cos_ij.

    The greedy MAP of (1 - d) sum r + d log det S, that is of the kernel diag(q) S diag(q) with
    log q = r (1 - d) / (2 d) (Chen, Zhang & Zhou 2018, Fast greedy MAP inference for determinantal
    point process to improve recommendation diversity). Relevance is in standard deviations. The
    squared distance is at least SMALLEST: candidates in the span of the chosen items have equal
    novelty, and relevance orders them. A vector of zeros is similar only to itself. The first item
    is the top candidate at every dial. With `options.window` only the last choices count. Cost per
    user: k C (D + k), or k C (D + 6 w) with a window w.
    """
    relevance_BC = standardised(candidates)
    num_users, num_candidates = relevance_BC.shape
    span = Span(
        likeness_rows(candidates, k, num_dials, offset=0.0),
        relevance_BC.new_ones((num_users * num_dials, num_candidates)),
        size=span_size(k, options.window),
        exact=True,
    )

    def after(best_BW: Tensor) -> Tensor:
        span.add(best_BW)
        novelty_RC = span.left_RC.clamp_min(SMALLEST).log_()
        return novelty_RC.view(num_users, num_dials, num_candidates)

    return Novelty(relevance_BC, None, after)
