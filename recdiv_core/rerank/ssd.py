# pyright: strict
"""Sliding spectrum decomposition: items outside the space that the last few items span.

With a window it suits an endless feed as well as a page. The distance to the span itself is added
to relevance; dpp adds its logarithm, which is stricter.

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
"""Component that all vectors share; without it, opposite vectors would span the same space."""


def ssd(candidates: Candidates, k: int, num_dials: int, options: Options) -> Novelty:
    """Novelty = the distance of [v_i, 1] to the span of the window's [v_j, 1], in [0, 2^0.5].

    Huang, Wang, Peng & Wang 2021, Sliding spectrum decomposition for diversified recommendation;
    the stabilised form, equation 12, with gamma = 1. Relevance is in standard deviations. A choice
    that leaves `options.window` takes its own direction with it, as in the paper; directions that
    it shares with other choices stay removed. A vector of zeros is similar only to itself. The
    first item is the top candidate at every dial. Cost per user: k C (D + k).
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
