"""Two processes that train together over gloo, without Ray.

This module imports neither Ray nor MLflow: the processes load what the tests of ranks import.
"""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

LOADED_ONCE = (
    *("tests.cluster.test_step", "tests.cluster.test_shards"),
    "transformers.models.bert.modeling_bert",
)
"""Modules that are loaded before the processes of `on_two_ranks` start."""


def on_two_ranks(
    train: Callable[..., None], directory: Path, *given: object, num_answers: int
) -> list[Any]:
    """Run `train(rank, store, results, *given)` in two processes; return their results."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(LOADED_ONCE))
    results, store = context.Queue(), directory / "store"
    ranks = [
        context.Process(target=train, args=(rank, store, results, *given), daemon=True)
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    answers = [results.get(timeout=120) for _ in range(num_answers)]
    for process in ranks:
        process.join()
    return answers


def leave_ranks(results: Any) -> None:
    """End the part of a rank in `on_two_ranks`: send its answers, and leave with the other rank.

    A thread sends the answers. Without this, a rank waited in `destroy_process_group` with answers
    unsent, in one of several runs of CI.
    """
    results.close()
    results.join_thread()
    dist.barrier()
    dist.destroy_process_group()
