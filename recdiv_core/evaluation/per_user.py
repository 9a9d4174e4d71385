"""The metrics of every user, kept apart, so that systems are compared in pairs of slates.

Not which systems are compared (systems.py) nor the differences (compare.py). The one idea: all
systems are judged on the same users in the same order; row u of each belongs to one user.

Shapes: B users, K slate length, T targets.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from recdiv_core.errors import UserError
from recdiv_core.evaluation.systems import NamedRun, NamedSlates, System
from recdiv_core.items.traits import ItemTraits
from recdiv_core.metrics.between import distances_from_mix, sum_shares
from recdiv_core.metrics.jackknife import Floats, UserResults, join_users
from recdiv_core.metrics.slate_batch import Background, SlateBatch, match_slates
from recdiv_core.metrics.tally import BETWEEN, USER_METRICS, UserMetrics
from recdiv_core.schema import check_unchanged
from recdiv_core.slates.carry import carried
from recdiv_core.slates.dataset import Dataset, load_dataset
from recdiv_core.slates.given import no_hit, read_given_slates, shown_of_split
from recdiv_core.slates.loading import load_model
from recdiv_core.slates.policy import slate_policy
from recdiv_core.slates.scoring import held_out_of_split

logger = logging.getLogger(__name__)

Batches = Iterable[tuple[torch.Tensor, torch.Tensor, Background]]
"""Batches of slates_BK, targets_BT and histories."""

USERS_AT_ONCE: Final = 4096


def judge_systems(
    systems: Sequence[System], split: str, more: UserMetrics | None = None
) -> list[UserResults]:
    """Judge comparable systems on all users of a split, in this process.

    `more` has further metrics of each user, by name, beside those of every epoch.

    Raises:
        UserError: no GPU where `scaling.use_gpu` asks for one; slates that cannot be read; fewer
            than two users with a target, so differences have no interval.
    """
    config = systems[0].config
    if config.scaling.use_gpu and not torch.cuda.is_available():
        raise UserError("scaling.use_gpu=true: torch sees no GPU on this machine")
    torch.set_num_threads(config.scaling.threads_per_worker)
    device = torch.device("cuda" if config.scaling.use_gpu else "cpu")
    dataset = load_dataset(Path(config.data.prepared)).to(device)
    metrics = {**USER_METRICS, **(more or {})}
    judged: list[UserResults] = []
    for system in systems:
        slates = slates_of(system, dataset, split)
        judged.append(judge_users(slates, dataset, metrics, k=system.config.eval.k))
        logger.info("%s: judged on %d users", system.name, len(judged[-1].slates_UK))
        _warn_of_no_hit(system, judged[-1], split)
        if len(judged[-1].slates_UK) < 2:
            raise UserError(
                f"data.prepared={dataset.prepared}: one user of the {split} split can be judged, "
                f"and a comparison needs two; prepare with a longer window (split.{split}_share, "
                f"split.{split}_days)"
            )
    check_unchanged(dataset.prepared, dataset.manifest)
    return judged


def _warn_of_no_hit(system: System, judged: UserResults, split: str) -> None:
    """Warn of slates of another system that cannot hit, as those for complete histories."""
    k = system.config.eval.k
    hits = float(judged.users["hit"].sum())
    if isinstance(system, NamedSlates) and (warning := no_hit({f"hit_at_{k}": hits}, split, k)):
        logger.warning("%s: %s", system.name, warning)


def slates_of(system: System, dataset: Dataset, split: str) -> Batches:
    """Return the slates of a system for all users of a split, with their targets."""
    config = system.config
    match system:
        case NamedRun():
            checkpoint = carried(system.checkpoint, dataset.prepared, dataset.manifest)
            model = load_model(config, dataset, checkpoint).to(dataset.text_VH.device)
            policy = slate_policy(config, dataset, model.lifts)
            share = held_out_of_split(model, dataset, split, config)
            return ((*each.slates(dataset, policy), each.histories) for each in share)
        case NamedSlates():
            ids, k = dataset.catalogue.item_ids, config.eval.k
            given = read_given_slates(system.place, dataset.prepared, ids, split, k=k)
            shown = shown_of_split(given, dataset, split, config)
            return ((each.slates_BK, each.targets_BT, each.background) for each in shown)


def judge_users(slates: Batches, dataset: Dataset, metrics: UserMetrics, *, k: int) -> UserResults:
    """Judge slates, keeping every user apart; users without a target are left out.

    Slates longer than `k`, at least 1, are cut.

    Raises:
        UserError: no user has a target.
    """
    parts: list[UserResults] = []
    for slates_BK, targets_BT, histories in slates:
        seen = match_slates(slates_BK, targets_BT, dataset.traits, k=k, background=histories)
        users = {name: metric(seen).double().cpu().numpy() for name, metric in metrics.items()}
        items_BK = seen.items_BK.int().cpu().numpy()
        parts.append(UserResults(users, items_BK, len(dataset.catalogue)))
    joined = join_users(parts)
    return replace(joined, users={**joined.users, BETWEEN: between_users(joined, dataset.traits)})


def between_users(judged: UserResults, traits: ItemTraits) -> Floats:
    """Return the distance of each slate's categories from those of all slates together, [U]."""

    def batches() -> Iterator[SlateBatch]:
        for slates_BK in torch.tensor(judged.slates_UK).long().split(USERS_AT_ONCE):
            slates_BK = slates_BK.to(traits.unit_VD.device)
            # a user without a target would be left out
            targets_B1 = slates_BK.new_zeros(len(slates_BK), 1)
            yield match_slates(slates_BK, targets_B1, traits, k=slates_BK.shape[1])

    shares_G = torch.stack([sum_shares(batch) for batch in batches()]).sum(dim=0)
    num_users = len(judged.slates_UK)
    distances = [distances_from_mix(batch, shares_G, num_users) for batch in batches()]
    return torch.cat(distances).cpu().numpy()
