# pyright: strict
"""Re-rankers: choose a slate of k from C scored candidates, for a batch of users at once.

One a file, one signature, one table. Not a trained part, and they change no score. The one idea:
the dial mixes relevance and diversity; 0 is the model's order exactly, 1 is pure diversity.

Every re-ranker takes
    candidates: B users with C candidates each (candidates.py).
    k: slate length, >= 1.
    dials: W dials in [0, 1], any number of them: a grid is chosen in one pass.
    options: what some can be told besides (candidates.py).
and returns chosen_BWK: int64 positions in 0..C-1 in slate order, distinct, and -1 behind the end
where a user has fewer than k real candidates.

Arrays and lists come in through `rerank` (arrays.py).

Those in NOVELTIES choose greedily and differ in what they call new (greedy.py); some are compiled
besides, for the CPU (compiled.py).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from torch import Tensor

from recdiv_core.rerank.alpha import alpha
from recdiv_core.rerank.arrays import Reranked, rerank
from recdiv_core.rerank.beam import beam
from recdiv_core.rerank.calibrated import calibrated
from recdiv_core.rerank.candidates import Candidates, Options
from recdiv_core.rerank.dpp import dpp
from recdiv_core.rerank.exposure import exposure
from recdiv_core.rerank.greedy import NoveltyOf, choose
from recdiv_core.rerank.mmr import mmr
from recdiv_core.rerank.msd import msd
from recdiv_core.rerank.none import none
from recdiv_core.rerank.ssd import ssd
from recdiv_core.rerank.xquad import xquad

__all__ = [
    "COMPILED",
    "NOVELTIES",
    "RERANKERS",
    "Candidates",
    "Options",
    "Reranked",
    "Reranker",
    "rerank",
]

Reranker = Callable[[Candidates, int, Sequence[float], Options], Tensor]
"""candidates, k, dials, options -> chosen_BWK."""

NOVELTIES: Final[Mapping[str, NoveltyOf]] = {
    "mmr": mmr,
    "msd": msd,
    "dpp": dpp,
    "ssd": ssd,
    "xquad": xquad,
    "calibrated": calibrated,
    "alpha": alpha,
    "beam": beam,
}


COMPILED: Final = ("mmr", "msd", "dpp", "ssd")
"""Those that are compiled besides."""


def _compiled(
    name: str, candidates: Candidates, k: int, dials: Sequence[float], options: Options
) -> Tensor:
    # imported here: numba takes a quarter of a second, which most processes never need
    from recdiv_core.rerank.compiled import KERNELS

    return KERNELS[name](candidates, k, dials, options)


def _greedy(name: str) -> Reranker:
    kernel = partial(_compiled, name) if name in COMPILED else None
    return partial(choose, NOVELTIES[name], kernel=kernel)


RERANKERS: Final[Mapping[str, Reranker]] = {
    "none": none,
    **{name: _greedy(name) for name in NOVELTIES},
    "exposure": exposure,
}
