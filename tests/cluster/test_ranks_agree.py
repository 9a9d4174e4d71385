"""What two ranks agree on beside the step: negatives of both, and when metrics are fetched."""

import pytest
import torch
import torch.distributed as dist

from recdiv_core.training.feed import _gather
from recdiv_core.training.step_log import StepLog
from tests.ranks import leave_ranks, on_two_ranks

pytestmark = pytest.mark.ray  # no Ray in it, but as slow as if there were

CPU = torch.device("cpu")


def meet(rank, store, results):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    gathered = _gather(torch.arange(3 + 2 * rank) + 10 * rank, CPU).tolist()
    now = [0.0]
    log = StepLog(10.0, CPU, lambda: now[0] * (1 + rank))  # a clock twice as fast
    log.start(0)
    now[0] = 12.0
    results.put((gathered, log.fetched(4), log.due))
    leave_ranks(results)


def test_ranks_gather_values_in_their_order_and_follow_the_clock_of_rank_0(tmp_path):
    found = on_two_ranks(meet, tmp_path, num_answers=2)
    assert found == [([0, 1, 2, 10, 11, 12, 13, 14], (12.0, 4), 7)] * 2
