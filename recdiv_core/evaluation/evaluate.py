"""Judge a model on held-out users: full ranking, every user exactly once, sums before ratios.

The loop at the end of each epoch and `pipelines.evaluate` on a bare checkpoint call the same
function. Users come in fixed global batches that are dealt to the workers in turn, so that a batch
is computed alike whoever computes it, and the tallies of all workers are added before anything is
divided: the metrics are the same on any number of workers. Not the metrics themselves (metrics/).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from recdiv_core.config import Config
from recdiv_core.data.catalogue import load_catalogue
from recdiv_core.data.text_vectors import ensure_vectors
from recdiv_core.data.versions import with_version
from recdiv_core.evaluation.groupings import check_kinds, item_groups
from recdiv_core.evaluation.query_intents import count_intents
from recdiv_core.evaluation.scorecards import (
    Scorecard,
    epoch_metrics,
    finish_split,
    scorecard_of,
)
from recdiv_core.metrics.scorecard import NEEDS, Input
from recdiv_core.metrics.tally import Tally, count_users, tally_slates
from recdiv_core.schema import Manifest, check_unchanged
from recdiv_core.slates.carry import carried_place
from recdiv_core.slates.checkpoint_copies import local_checkpoint
from recdiv_core.slates.checks import check_eligible, tell_sample
from recdiv_core.slates.dataset import Dataset, load_dataset
from recdiv_core.slates.dials import slates_under
from recdiv_core.slates.eligibility import (
    count_targets,
    describe_counts,
    eligibility_of,
    with_whole_paths,
)
from recdiv_core.slates.given import GivenSlates, no_hit, read_given_slates, shown_of_split
from recdiv_core.slates.inputs import check_inputs, check_prepared, start_with_gpu
from recdiv_core.slates.loading import load_model
from recdiv_core.slates.policy import SlatePolicy, slate_policy
from recdiv_core.slates.scoring import HeldOut, held_out_of_split
from recdiv_core.wording import few_judged

logger = logging.getLogger(__name__)


def tally_split(share: Iterable[HeldOut], dataset: Dataset, policy: SlatePolicy) -> Tally:
    """Return the sums of the metrics of every epoch over some held-out users.

    Users without a target are counted, and left out of everything else.
    """
    return tally_dials(share, dataset, [policy])[0]


def tally_dials(
    share: Iterable[HeldOut], dataset: Dataset, policies: Sequence[SlatePolicy]
) -> list[Tally]:
    """Return the sums under each policy, see `tally_split`; the users are scored once.

    The policies differ in method, dial and logit adjustment alone.
    """
    traits, k = dataset.traits, policies[0].k
    metrics = epoch_metrics(dataset, is_limited=policies[0].eligible is not None)
    tallies = [Tally.zeros(traits, k=k, names=metrics) for _ in policies]
    for held_out in share:
        targets_BT = held_out.targets(policies[0])
        for place, slates_BK, freed_BK in slates_under(held_out, dataset, policies):
            background = replace(held_out.histories, freed_BK=freed_BK)
            tallies[place] += tally_slates(
                slates_BK, targets_BT, traits, k=k, metrics=metrics, background=background
            )
    return tallies


def evaluate(config: Config, checkpoint: str | Path, *, split: str = "test") -> dict[str, Any]:
    """Evaluate a checkpoint on `scaling.num_workers` Ray workers.

    Args:
        config: `eval`, `rerank`, `scaling` and `data.prepared` to use; see `checkpoint_config`.
        checkpoint: directory, path or URI.
        split: `val` or `test`.

    Returns:
        `{"checkpoint", "split", "k", "num_users", "num_users_without_targets", "metrics", "slices",
        "fairness", "exposure"}`: the whole set of metrics at each cut-off; the few of every epoch
        for each group of users and items; the gaps between groups of a kind; and the share of the
        places of all slates of each group of items. Where some items may not be shown also
        `eligible`, see `count_targets`.

    Raises:
        UserError: files, data and checkpoint that do not fit together; no GPU where one is asked
            for; `eval.slices` of an unknown kind.
    """
    config = with_whole_paths(with_version(config))
    prepared, manifest = check_inputs(config, checkpoint)
    check_eval(config, prepared)
    tell_sample(config, manifest, [split])
    start_with_gpu(config, checkpoint)
    ensure_vectors(prepared, manifest)
    place = carried_place(checkpoint, prepared, manifest)
    return {"checkpoint": str(checkpoint), **_judge(config, manifest, place, split)}


def evaluate_given(config: Config, slates: str | Path, *, split: str = "test") -> dict[str, Any]:
    """Evaluate the slates of another system on `scaling.num_workers` Ray workers.

    Args:
        config: `eval`, `scaling` and `data.prepared` to use; see `slates_config`.
        slates: a file, or a directory of Parquet files, with `user_id` and `item_ids`.
        split: `val` or `test`.

    Returns:
        the same as `evaluate`, `checkpoint` being None; also `slates` (as given) and `matching`
        (how they fit the split, see `Matching`). Metrics that need scores are left out.

    Raises:
        UserError: files and data that do not fit together; slates that cannot be read.
    """
    config = with_version(config)
    prepared, manifest = check_prepared(config)
    check_eligible(config, prepared)
    check_eval(config, prepared)
    tell_sample(config, manifest, [split])
    catalogue = load_catalogue(prepared)
    given = read_given_slates(
        slates,
        prepared,
        catalogue.item_ids,
        split,
        k=config.eval.k,
        pseudonymise=config.data.pseudonymise,
    )
    logger.info("left out, because slates come without scores: %s", ", ".join(NEEDS["scores"]))
    start_with_gpu(config)
    ensure_vectors(prepared, manifest)
    found = _judge(config, manifest, given, split)
    if warning := no_hit(found["metrics"], split, config.eval.k):
        logger.warning("--slates %s: %s", slates, warning)
    return {"checkpoint": None, **found, "slates": str(slates), "matching": asdict(given.matching)}


def check_eval(config: Config, prepared: Path) -> None:
    """Check `eval.slices` and name cut-offs without effect, before Ray starts.

    Raises:
        UserError: `eval.slices` of an unknown kind.
    """
    check_kinds(config.eval.slices, pq.read_schema(prepared / "catalogue.parquet").names)
    above = [cutoff for cutoff in config.eval.cutoffs if cutoff > config.eval.k]
    if above:
        logger.warning("eval.cutoffs: %s left out, slates end at eval.k=%d", above, config.eval.k)


def _judge(
    config: Config, manifest: Manifest, source: str | GivenSlates, split: str
) -> dict[str, Any]:
    """Judge a checkpoint (its path or URI) or given slates on Ray workers; Ray must run."""
    import ray

    prepared, scaling = Path(config.data.prepared), config.scaling
    share = ray.remote(
        num_cpus=scaling.cpus_per_worker or 0.5, num_gpus=float(scaling.use_gpu), max_retries=2
    )(_tally_share)
    world_size, stored = scaling.num_workers, ray.put(source)
    parts = [share.remote(config, stored, split, rank, world_size) for rank in range(world_size)]
    shares: list[Scorecard] = ray.get(parts)
    check_unchanged(prepared, manifest)
    scorecard = sum(shares[1:], shares[0])
    tally, catalogue = scorecard.tallies[0], load_catalogue(prepared)
    found = finish_split(scorecard, item_groups(config.eval.slices, catalogue))
    eligible = eligibility_of(config, catalogue, manifest)
    if eligible is not None:
        found["eligible"] = count_targets(prepared, split, eligible)
        logger.info("%s: %s", split, describe_counts(found["eligible"], manifest.num_items))
    counts = count_users(tally)
    found["metrics"] |= counts
    for warning in few_judged({f"{split}/{name}": count for name, count in counts.items()}):
        logger.warning("%s", warning)
    return {
        "split": split,
        "k": tally.k,
        "num_users": int(tally.num_users),
        "num_users_without_targets": int(tally.num_users_without_targets),
        **found,
    }


def _tally_share(
    config: Config, source: str | GivenSlates, split: str, rank: int, world_size: int
) -> Scorecard:
    """Judge one rank's share of a split."""
    torch.set_num_threads(config.scaling.threads_per_worker)
    device = torch.device("cuda" if config.scaling.use_gpu else "cpu")
    dataset = load_dataset(Path(config.data.prepared)).to(device)
    ranks = {"rank": rank, "world_size": world_size}
    without: tuple[Input, ...] = ()
    is_limited = False
    if isinstance(source, GivenSlates):
        shown = shown_of_split(source, dataset, split, config, **ranks)
        without = ("scores",)
    else:
        model = load_model(config, dataset, local_checkpoint(source, "--checkpoint")).to(device)
        policy = slate_policy(config, dataset, model.lifts)
        held_out = held_out_of_split(model, dataset, split, config, **ranks)
        shown = (each.shown(dataset, policy) for each in held_out)
        is_limited = policy.eligible is not None
    return scorecard_of(
        shown,
        dataset,
        k=config.eval.k,
        cutoffs=config.eval.cutoffs,
        kinds=config.eval.slices,
        without=without,
        intents=None if dataset.queries_QH is None else count_intents(dataset, split),
        is_limited=is_limited,
    )
