# pyright: strict
"""Re-rankers: choose a slate of k from C scored candidates, for a batch of users at once.

One a file, one signature, one table. Not a trained part, and they change no score. The one idea:
the dial `diversity` mixes relevance and diversity; 0 is the model's order exactly, 1 is pure
diversity (after the first pick).

Every re-ranker takes, for B users with C candidates each in descending order of score:
    scores_BC: float, higher is better; -inf or NaN marks padding, which is never chosen.
    embeddings_BCD: float vectors of the candidates, of any length; zeros: similar to nothing.
    categories_BC: int category of each candidate, -1 for none.
    k: slate length, >= 1.
    diversity: the dial, in [0, 1].
and returns chosen_BK: int64 positions in 0..C-1 in slate order, distinct, and -1 behind the end
where a user has fewer than k real candidates.
"""

from collections.abc import Callable, Mapping
from typing import Final

from torch import Tensor

from recdiv_core.rerank.mmr import mmr
from recdiv_core.rerank.none import none

Reranker = Callable[[Tensor, Tensor, Tensor, int, float], Tensor]
"""scores_BC, embeddings_BCD, categories_BC, k, diversity -> chosen_BK."""

RERANKERS: Final[Mapping[str, Reranker]] = {"none": none, "mmr": mmr}
