"""Judge a model on held-out users: full ranking, every user exactly once, sums before ratios.

The loop at the end of each epoch and `pipelines.evaluate` on a bare checkpoint call the same
function. Users come in fixed global batches that are dealt to the workers in turn, so that a batch
is computed alike whoever computes it, and the tallies of all workers are added before anything is
divided: the metrics are the same on any number of workers. Not the metrics themselves (metrics/).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from recdiv_core.config import Config
from recdiv_core.data.catalogue import load_catalogue
from recdiv_core.data.text_vectors import ensure_vectors
from recdiv_core.data.versions import with_version
from recdiv_core.evaluation.groupings import check_kinds, item_groups
from recdiv_core.evaluation.scorecards import Scorecard, finish_split, scorecard_of
from recdiv_core.metrics.tally import Tally, count_users, tally_slates
from recdiv_core.schema import check_unchanged
from recdiv_core.slates.checkpoint_copies import local_checkpoint
from recdiv_core.slates.dataset import Dataset, load_dataset
from recdiv_core.slates.inputs import check_inputs, start_with_gpu
from recdiv_core.slates.loading import load_model
from recdiv_core.slates.policy import SlatePolicy, slate_policy
from recdiv_core.slates.scoring import HeldOut, held_out_of_split
from recdiv_core.storage.places import absolute_place
from recdiv_core.wording import few_judged

logger = logging.getLogger(__name__)


def tally_split(share: Iterable[HeldOut], dataset: Dataset, policy: SlatePolicy) -> Tally:
    """Return the sums of the metrics of every epoch over some held-out users.

    Users without a target are counted, and left out of everything else.

    Args:
        share: batches of users with their scores, see `held_out_of_split`.
        dataset: the prepared data set.
        policy: how slates are made of the scores.
    """
    tally = Tally.zeros(len(dataset.catalogue), k=policy.k, device=dataset.text_VH.device)
    for held_out in share:
        slates_BK, targets_BT = held_out.slates(dataset, policy)
        tally += tally_slates(slates_BK, targets_BT, dataset.traits, k=policy.k)
    return tally


def evaluate(config: Config, checkpoint: str | Path, *, split: str = "test") -> dict[str, Any]:
    """Evaluate a checkpoint on `scaling.num_workers` Ray workers.

    Args:
        config: `eval`, `rerank`, `scaling` and `data.prepared` to use; see `checkpoint_config`.
        checkpoint: directory, path or URI.
        split: `val` or `test`.

    Returns:
        `{"checkpoint", "split", "k", "num_users", "num_users_without_targets", "metrics", "slices",
        "fairness"}`: the whole set of metrics, under each cut-off; the few of every epoch for each
        group of users and items; and the gaps between groups of a kind.

    Raises:
        UserError: files, data and checkpoint that do not fit together; no GPU where one is asked;
            `eval.slices` of no such kind.
    """
    config = with_version(config)
    prepared, manifest = check_inputs(config, checkpoint)
    check_kinds(config.eval.slices, pq.read_schema(prepared / "catalogue.parquet").names)
    above = [cutoff for cutoff in config.eval.cutoffs if cutoff > config.eval.k]
    if above:
        logger.warning("eval.cutoffs: %s left out, slates end at eval.k=%d", above, config.eval.k)
    start_with_gpu(config, checkpoint)
    import ray

    ensure_vectors(prepared, manifest)
    use_gpu = config.scaling.use_gpu
    share = ray.remote(
        num_cpus=config.scaling.cpus_per_worker or 0.5, num_gpus=float(use_gpu), max_retries=2
    )(_tally_share)
    world_size = config.scaling.num_workers
    place = absolute_place(checkpoint, "--checkpoint")
    parts = [share.remote(config, place, split, rank, world_size) for rank in range(world_size)]
    shares: list[Scorecard] = ray.get(parts)
    check_unchanged(prepared, manifest)
    scorecard = sum(shares[1:], shares[0])
    tally = scorecard.tallies[0]
    found = finish_split(scorecard, item_groups(config.eval.slices, load_catalogue(prepared)))
    counts = count_users(tally)
    found["metrics"] |= counts
    for warning in few_judged({f"{split}/{name}": count for name, count in counts.items()}):
        logger.warning("%s", warning)
    return {
        "checkpoint": str(checkpoint),
        "split": split,
        "k": tally.k,
        "num_users": int(tally.num_users),
        "num_users_without_targets": int(tally.num_users_without_targets),
        **found,
    }


def _tally_share(config: Config, place: str, split: str, rank: int, world_size: int) -> Scorecard:
    torch.set_num_threads(config.scaling.threads_per_worker)
    device = torch.device("cuda" if config.scaling.use_gpu else "cpu")
    dataset = load_dataset(Path(config.data.prepared)).to(device)
    model = load_model(config, dataset, local_checkpoint(place, "--checkpoint")).to(device)
    policy = slate_policy(config, dataset)
    share = held_out_of_split(model, dataset, split, config, rank=rank, world_size=world_size)
    return scorecard_of(
        (held_out.shown(dataset, policy) for held_out in share),
        dataset,
        k=policy.k,
        cutoffs=config.eval.cutoffs,
        kinds=config.eval.slices,
    )
