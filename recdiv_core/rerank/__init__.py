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

from recdiv_core.rerank.arrays import Reranked, rerank
from recdiv_core.rerank.candidates import Candidates, Options
from recdiv_core.rerank.table import COMPILED, NOVELTIES, RERANKERS, Reranker

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
