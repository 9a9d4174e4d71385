# pyright: strict
"""Sliding spectrum decomposition: what leaves the space that the last few places span.

Not for one page only: with a window it suits a feed without an end. The one idea: the distance to
the span itself is added to relevance, not its logarithm, which is gentler than dpp.

Legend: B users, W dials, C candidates, D dims, R = B W.
"""

from __future__ import annotations

from typing import Final

from torch import Tensor

from recdiv_core.rerank.candidates import Candidates, Options
from recdiv_core.rerank.greedy import Novelty, likeness_rows
from recdiv_core.rerank.relevance import standardised
from recdiv_core.rerank.span import Span, span_size

BIAS: Final = 1.0
"""A component that all vectors share: without it opposite vectors would span as much as one."""


def ssd(candidates: Candidates, k: int, num_dials: int, options: Options) -> Novelty:
    """Novelty = the distance of [v_i, 1] to the span of the window's [v_j, 1], in [0, 2^0.5].

    Huang, Wang, Peng & Wang 2021, Sliding spectrum decomposition for diversified recommendation;
    the stabilised form, equation 12, with gamma = 1. Relevance is in standard deviations. Where a
    choice leaves `options.window`, its own new direction goes with it, as in the paper: what other
    choices share with it is not given back to them. A vector of zeros is like nothing but itself.
    The first choice is the top candidate at every dial. Cost: k C (D + k) a user.
    """
    relevance_BC = standardised(candidates)
    num_users, num_candidates = relevance_BC.shape
    span = Span(
        likeness_rows(candidates, k, num_dials, offset=-BIAS),
        relevance_BC.new_full((num_users * num_dials, num_candidates), 1 + BIAS),
        size=span_size(k, options.window),
        exact=False,
    )

    def after(best_BW: Tensor) -> Tensor:
        span.add(best_BW)
        novelty_RC = span.left_RC.clamp_min(0.0).sqrt_()
        return novelty_RC.view(num_users, num_dials, num_candidates)

    return Novelty(relevance_BC, None, after)
