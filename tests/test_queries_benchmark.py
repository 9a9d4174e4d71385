"""The benchmark of search (benchmarks/queries.py)."""

import numpy as np
import torch

from benchmarks.queries import forgetting
from recdiv_core.data.arrays import Examples
from recdiv_core.data.batches import Packed, pack


def test_forgetting_scores_requests_as_if_there_were_no_history():
    examples = Examples(
        items=np.array([4, 7, 2]),
        lengths=np.array([2, 0, 1]),
        queries=np.array([5, 6, -1]),
        weights=np.zeros(0),
        targets=np.array([1, 1, 1]),
        target_lengths=np.array([1, 1, 1]),
        user_ids=["a", "b", "c"],
        times=np.array([10, 20, 30]),
    )

    def score(own: Examples, packed: Packed) -> torch.Tensor:
        """Return the length of each history and its query, as they are packed."""
        lengths_B = torch.bincount(packed.seen_user_S, minlength=len(own.user_ids))
        return torch.stack([lengths_B, packed.queries_RW.view(-1)[packed.last_place_B]], dim=1)

    packed = pack(examples, max_history=8)
    assert score(examples, packed).tolist() == [[2, 5], [0, 6], [1, -1]]
    assert forgetting(score, 8)(examples, packed).tolist() == [[0, 5], [0, 6], [0, -1]]
