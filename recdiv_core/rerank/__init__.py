# pyright: strict
"""Re-rankers: choose a slate of k items from C scored candidates, for a batch of users at once.

Re-rankers are not trained and change no score. Each stands in its own file, has the same signature
and is listed in RERANKERS. The dial mixes relevance and diversity: 0 = the model's order exactly,
1 = pure diversity.

Every re-ranker takes
    candidates: B users with C candidates each (candidates.py).
    k: slate length, >= 1.
    dials: W values in [0, 1]; one call computes the slates of all of them.
    options: further settings of some re-rankers (candidates.py).
and returns chosen_BWK: int64 indices into the candidates, 0..C-1, in slate order and distinct; -1
after the end where a user has fewer than k real candidates.

The re-rankers in NOVELTIES are greedy: they share the loop of greedy.py and differ in the novelty
that they weigh against relevance. Four of them also have a compiled loop for the CPU (compiled.py).
"""

from recdiv_core.rerank.arrays import Reranked, rerank
from recdiv_core.rerank.candidates import Candidates, Options
from recdiv_core.rerank.lift_arrays import lifts
from recdiv_core.rerank.table import COMPILED, NOVELTIES, RERANKERS, Reranker

__all__ = [
    "COMPILED",
    "NOVELTIES",
    "RERANKERS",
    "Candidates",
    "Options",
    "Reranked",
    "Reranker",
    "lifts",
    "rerank",
]
