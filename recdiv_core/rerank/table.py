# pyright: strict
"""The table of re-rankers: name -> the function that chooses.

Not the re-rankers themselves; each stands in its own file. `recdiv_core/rerank/__init__.py`
explains their signature.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from torch import Tensor

from recdiv_core.rerank.alpha import alpha
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
"""Greedy re-rankers that also have a compiled loop for the CPU."""


def _compiled(
    name: str, candidates: Candidates, k: int, dials: Sequence[float], options: Options
) -> Tensor:
    # importing numba takes a quarter of a second, and most processes do not need it
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
